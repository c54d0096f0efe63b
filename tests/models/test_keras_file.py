"""HDF5 files in Keras's two layouts: names, shapes, and what is folded. The layouts are written here by h5py; that
Keras writes the same, and computes the same, tests/oracle/test_keras.py asks Keras itself."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres import Tensor, models
from tinyres import functional as F
from tinyres.models.weights import read_weights

h5py = pytest.importorskip("h5py", reason="h5py (extra 'keras') is not installed")

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CHANNELS = 3  # of every layer: names and orders do not depend on it


def convolutions(depth):
    """Keras's names and torchvision's of every convolution, with torchvision's of the norm after it, in the order of
    Keras's layers: in a stage's first block the projection comes third."""
    found = [("conv1", "conv1", "bn1")]
    for stage, blocks in enumerate(DEPTHS[depth], 1):
        for block in range(blocks):
            for i in (1, 2, 0, 3) if block == 0 else (1, 2, 3):
                here = f"layer{stage}.{block}"
                names = (f"{here}.conv{i}", f"{here}.bn{i}") if i else (f"{here}.downsample.0", f"{here}.downsample.1")
                found.append((f"conv{stage + 1}_block{block + 1}_{i}", *names))
    return found


def draw(depth, rng):
    """Arrays of every layer, by Keras's layer name and variable, in float64."""
    layers = {}
    for name, _, _ in convolutions(depth):
        kernel = rng.standard_normal((2, 3, CHANNELS, CHANNELS))
        layers[f"{name}_conv"] = {"kernel": kernel, "bias": rng.standard_normal(CHANNELS)}
        layers[f"{name}_bn"] = {key: rng.standard_normal(CHANNELS) for key in ("gamma", "beta", "moving_mean")}
        layers[f"{name}_bn"]["moving_variance"] = rng.uniform(0, 1, CHANNELS) * 10.0 ** rng.integers(-9, 1, CHANNELS)
    layers["predictions"] = {"kernel": rng.standard_normal((CHANNELS, 7)), "bias": rng.standard_normal(7)}
    return layers


def write_named(path, layers, pattern="{layer}/{layer}/{variable}:0"):
    with h5py.File(path, "w") as file:
        for layer, arrays in layers.items():
            for variable, array in arrays.items():
                file[pattern.format(layer=layer, variable=variable)] = array
    return path


def write_numbered(path, layers):
    counts = {"conv2d": 0, "batch_normalization": 0, "dense": 0}
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        file["optimizer/vars/0"] = np.arange(3)
        for layer, arrays in layers.items():
            kind = {"conv": "conv2d", "bn": "batch_normalization"}.get(layer.rpartition("_")[2], "dense")
            number = f"_{counts[kind]}" if counts[kind] else ""
            counts[kind] += 1
            for position, array in enumerate(arrays.values()):
                file[f"layers/{kind}{number}/vars/{position}"] = array
        file.create_group("layers/activation/vars")
    return path


def write_whole_model(path, layers):
    return write_named(path, layers, "model_weights/{layer}/{layer}/{variable}")


layouts = pytest.mark.parametrize("write", [write_named, write_whole_model, write_numbered])


@layouts
@pytest.mark.parametrize("depth", DEPTHS)
def test_every_layer_finds_its_place(tmp_path, write, depth):
    layers = draw(depth, np.random.default_rng(depth))
    found = read_weights(write(tmp_path / "net.h5", layers))
    assert found.kind == "Keras HDF5" and found.options == {"stride_in": "1x1"}
    expected = {"fc.weight": layers["predictions"]["kernel"].T, "fc.bias": layers["predictions"]["bias"]}
    for keras, conv, norm in convolutions(depth):
        c, n = layers[f"{keras}_conv"], layers[f"{keras}_bn"]
        expected[f"{conv}.weight"] = np.moveaxis(c["kernel"], (0, 1, 2, 3), (2, 3, 1, 0))
        expected |= {f"{norm}.weight": n["gamma"], f"{norm}.bias": n["beta"]}
        expected |= {f"{norm}.running_mean": n["moving_mean"] - c["bias"]}
        expected |= {f"{norm}.running_var": n["moving_variance"] + 1e-8}
    assert found.arrays.keys() == expected.keys()
    names = {name for name in models.get(f"resnet{depth}").state_dict() if not name.endswith("num_batches_tracked")}
    assert names == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-12, atol=1e-15, err_msg=name)


def test_biases_and_eps_are_folded_exactly(tmp_path):
    """Convolution with bias and a norm of Keras's ε are convolution without, and a norm of ours: variances as small as
    1e-9, where ε is all that matters, included."""
    layers = draw(50, np.random.default_rng(0))
    found = read_weights(write_named(tmp_path / "net.h5", layers)).arrays
    conv, norm = layers["conv3_block1_0_conv"], layers["conv3_block1_0_bn"]
    x = Tensor(np.random.default_rng(1).standard_normal((2, CHANNELS, 5, 5)))

    def normalised(x, mean, variance, eps):
        gamma, beta = Tensor(norm["gamma"]), Tensor(norm["beta"])
        return F.batch_norm(x, Tensor(mean), Tensor(variance), gamma, beta, False, 0.1, eps).numpy()

    kernel = np.ascontiguousarray(conv["kernel"].transpose(3, 2, 0, 1))
    with_bias = F.conv2d(x, Tensor(kernel), Tensor(conv["bias"]))
    keras = normalised(with_bias, norm["moving_mean"], norm["moving_variance"], 1.001e-5)
    without = F.conv2d(x, Tensor(np.ascontiguousarray(found["layer2.0.downsample.0.weight"])))
    prefix = "layer2.0.downsample.1."
    own = normalised(without, found[prefix + "running_mean"], found[prefix + "running_var"], 1e-5)
    np.testing.assert_allclose(own, keras, rtol=1e-10, atol=1e-10)


@layouts
def test_dtype_is_kept_and_a_network_may_have_no_top(tmp_path, write):
    layers = draw(50, np.random.default_rng(0))
    del layers["predictions"]
    layers = {layer: {v: a.astype("f4") for v, a in arrays.items()} for layer, arrays in layers.items()}
    found = read_weights(write(tmp_path / "net.h5", layers)).arrays
    assert {array.dtype for array in found.values()} == {np.dtype("f4")}
    assert not any(name.startswith("fc.") for name in found)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["res2a_branch2a/gamma"], "a layer res2a_branch2a, which no ResNet"),
        (["block1_conv1/kernel", "fc1/kernel"], "of no ResNet of keras.applications"),
        (["conv1_conv/weights"], "holds conv1_conv/weights, which no layer"),
        (["layers/conv2d/vars/0", "layers/conv2d_1/vars/0"], "has 2 convolutions, expected 53, 104, 155"),
        (["layers/conv2d/vars/0", "layers/functional/layers/conv2d/vars/0"], "saved by itself"),
        ([], "of no ResNet"),
    ],
)
def test_other_networks(tmp_path, names, says):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for name in names:
            file[name] = np.zeros((1, 1, 1, 1))
    with pytest.raises(ValueError, match=says) as caught:
        read_weights(tmp_path / "net.h5")
    assert "\n" not in str(caught.value)


@layouts
def test_a_layer_that_is_missing(tmp_path, write):
    layers = draw(50, np.random.default_rng(0))
    del layers["conv3_block1_0_conv"]["kernel"], layers["conv3_block1_0_conv"]["bias"]
    with pytest.raises(ValueError, match=r"damaged|convolutions"):
        read_weights(write(tmp_path / "net.h5", layers))


def test_without_h5py(tmp_path, monkeypatch):
    write_named(tmp_path / "net.h5", {})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs h5py: pip install 'tinyres\[keras\]'"):
        read_weights(tmp_path / "net.h5")
