"""ResNets of keras.applications, saved by Keras, against what Keras computes. Runs where Keras is installed:
`pip install -e ".[keras-oracle,test]"`, which is too heavy for every run."""

from __future__ import annotations

import os

import numpy as np
import pytest

import tinyres
from tinyres import models

os.environ.setdefault("KERAS_BACKEND", "torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # Keras's own, of which there are many
h5py = pytest.importorskip("h5py", reason="h5py (extra 'keras') is not installed")
keras = pytest.importorskip("keras", reason="Keras (extra 'keras-oracle') is not installed")


def randomised(build, seed, **options):
    """A network of Keras's that gives logits, with no weight or statistic left as it was made; branches are small
    beside the skip, as in trained networks."""
    net = build(weights=None, **options)
    rng = np.random.default_rng(seed)
    drawn = []
    for variable in net.weights:
        shape = tuple(variable.shape)
        if variable.name == "kernel":
            array = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif variable.name in ("gamma", "moving_variance"):
            small = variable.name == "gamma" and "_3_bn" in variable.path
            array = rng.uniform(0.03, 0.1, shape) if small else rng.uniform(0.5, 1.5, shape)
        else:
            array = 0.3 * rng.standard_normal(shape)
        drawn.append(array.astype(np.float32))
    net.set_weights(drawn)
    return net


def save_weights(net, folder):
    """Keras 3: a file without the layers' names."""
    net.save_weights(folder / "net.weights.h5")
    return folder / "net.weights.h5"


def save_model(net, folder):
    """The older HDF5, of the whole model."""
    net.save(folder / "net.h5")
    return folder / "net.h5"


def save_legacy_weights(net, folder):
    """The older HDF5 as Keras 2 wrote it, and as the files of keras.applications are: weights alone, ":0" and all."""
    with h5py.File(folder / "legacy.h5", "w") as file:
        for layer in net.layers:
            for variable in layer.weights:
                file[f"{layer.name}/{layer.name}/{variable.name}:0"] = keras.ops.convert_to_numpy(variable)
    return folder / "legacy.h5"


def outputs(net, x):
    if not isinstance(net, tinyres.nn.Module):
        return keras.ops.convert_to_numpy(net(x, training=False))
    with tinyres.no_grad():
        return net.eval()(tinyres.Tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()


@pytest.mark.parametrize(("depth", "side"), [(50, 224), (101, 96), (152, 96)])
def test_logits_of_keras(tmp_path, depth, side):
    build = getattr(keras.applications, f"ResNet{depth}")
    options = dict(classes=1000, classifier_activation=None, input_shape=(side, side, 3))
    net = randomised(build, depth, **options)
    x = np.random.default_rng(0).standard_normal((1, side, side, 3)).astype(np.float32)
    expected = outputs(net, x)
    assert expected.shape == (1, 1000) and 0.1 < expected.std() < 100
    for save in save_weights, save_model, save_legacy_weights:
        model = models.get(f"resnet{depth}", weights=save(net, tmp_path))
        assert model.pretrained.match.exact
        error = np.abs(outputs(model, x) - expected).max()
        print(
            f"resnet{depth}, {save.__name__}: largest difference {error:.1e}, logits up to {np.abs(expected).max():.1f}"
        )
        assert error <= 1e-4


def test_without_its_top(tmp_path):
    """Features of a network that ends before the head; the head here is left fresh."""
    net = randomised(keras.applications.ResNet50, 0, include_top=False, input_shape=(64, 64, 3))
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
    model = models.resnet50(num_classes=2, weights=save_weights(net, tmp_path), strict=False).eval()
    assert model.pretrained.match.missing == ("fc.weight", "fc.bias")
    with tinyres.no_grad():
        features = model.forward_features(tinyres.Tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    assert np.abs(features - outputs(net, x).transpose(0, 3, 1, 2)).max() <= 1e-4
