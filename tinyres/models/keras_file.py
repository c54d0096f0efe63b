"""ResNet-50, 101 and 152 of keras.applications, from HDF5 files to torchvision's names and shapes.

Keras's networks differ from torchvision's in four ways:

* the stride is in a bottleneck's first 1×1 convolution: the network here is made with `stride_in="1x1"`;
* kernels are (KH, KW, C, O): they become (O, C, KH, KW), the head's (I, O) becomes (O, I);
* convolutions have a bias b, although a norm follows, which subtracts the mean μ: μ − b is the same network without;
* the norms' ε is 1.001e-5, not 1e-5: σ² + 1e-8 is the same network with the usual one.

The last two are exact but for rounding: in evaluation because y = γ (x + b − μ) / √(σ² + ε) + β, in training because a
norm takes the batch's own mean off and no bias can matter.

Two layouts of the file exist. The older one, `.h5`, has a group for each layer by its name: "conv2_block1_1_conv/…/
kernel:0". The newer one, `.weights.h5` of Keras 3, has forgotten the names: "layers/conv2d_7/vars/0" is the kernel of
the eighth convolution in the order of `model.layers`, in which the projection of a stage's first block, number 0, comes
after its second convolution.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyres.models.torch_file import HostArray

EPS, KERAS_EPS = 1e-5, 1.001e-5
DEPTHS = {53: (3, 4, 6, 3), 104: (3, 4, 23, 3), 155: (3, 8, 36, 3)}  # blocks a stage, by the number of convolutions
NAMED = re.compile(r"(?:.*/)?(?P<layer>[\w]+)/(?P<variable>kernel|bias|gamma|beta|moving_mean|moving_variance)(?::0)?")
NUMBERED = re.compile(r"layers/(?P<kind>conv2d|batch_normalization|dense)(?:_(?P<index>\d+))?/vars/(?P<variable>\d)")
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

Layers = dict[str, dict[str, HostArray]]  # the arrays of each layer by Keras's name of the variable


def read_keras(path: str | os.PathLike[str]) -> dict[str, HostArray]:
    """The weights of a ResNet of keras.applications by torchvision's names; without a top, there is no "fc"."""
    arrays = read_hdf5(path)
    numbered = any(NUMBERED.fullmatch(name) for name in arrays)
    layers = numbered_layers(arrays) if numbered else named_layers(arrays)
    if not any(name.startswith("layer1.") for name in layers):
        raise ValueError("it is an HDF5 file, but of no ResNet of keras.applications")
    state: dict[str, HostArray] = {}
    for name, layer in layers.items():
        kernel = layer.get("kernel")
        if name == "fc":
            state |= {"fc.weight": layer["kernel"].T, "fc.bias": layer["bias"]}
        elif kernel is not None:
            state[f"{name}.weight"] = kernel.transpose(3, 2, 0, 1)
        else:
            bias = layers[conv_before(name)].get("bias", np.zeros((), np.float32))
            exact = {
                "moving_mean": layer["moving_mean"].astype(np.float64) - bias,
                "moving_variance": layer["moving_variance"].astype(np.float64) + (KERAS_EPS - EPS),
            }
            state |= {
                f"{name}.{torch_name}": (layer | exact)[keras_name].astype(layer[keras_name].dtype)
                for keras_name, torch_name in NORM.items()
            }
    return state


def conv_before(norm: str) -> str:
    """The convolution whose output a norm takes: "bn1" follows "conv1", "downsample.1" follows "downsample.0"."""
    return norm.replace("bn", "conv") if "bn" in norm else norm.removesuffix("1") + "0"


def named_layers(arrays: dict[str, HostArray]) -> Layers:
    """From the older layout: "conv2_block1_1_conv/conv2_block1_1_conv/kernel:0"."""
    layers: Layers = {}
    for path, array in arrays.items():
        found = NAMED.fullmatch(path)
        if not found:
            raise ValueError(f"it holds {path}, which no layer of keras.applications is called")
        head = found["variable"] in ("kernel", "bias") and not found["layer"].endswith("_conv")
        layers.setdefault("fc" if head else torch_name(found["layer"]), {})[found["variable"]] = array
    return layers


def torch_name(layer: str) -> str:
    """Keras's "conv3_block1_2_bn" is torchvision's "layer2.0.bn2"; number 0 is the projection."""
    found = re.fullmatch(r"conv1_(conv|bn)|conv([2-5])_block(\d+)_([0-3])_(conv|bn)", layer)
    if not found:
        raise ValueError(f"it holds a layer {layer}, which no ResNet of keras.applications has")
    stem, stage, block, number, kind = found.groups()
    if stem:
        return f"{stem}1"
    part = f"{kind}{number}" if number != "0" else {"conv": "downsample.0", "bn": "downsample.1"}[kind]
    return f"layer{int(stage) - 1}.{int(block) - 1}.{part}"


def numbered_layers(arrays: dict[str, HostArray]) -> Layers:
    """From the newer layout: "layers/conv2d_7/vars/0"."""
    found: dict[tuple[str, int], dict[str, HostArray]] = {}
    for path, array in arrays.items():
        match = NUMBERED.fullmatch(path)
        if not match:
            raise ValueError(f"it holds {path}, which is no layer of a ResNet of keras.applications saved by itself")
        variable = VARIABLES[match["kind"]][int(match["variable"])]
        found.setdefault((match["kind"], int(match["index"] or 0)), {})[variable] = array
    count = sum(kind == "conv2d" for kind, _ in found)
    if count not in DEPTHS:
        raise ValueError(f"it has {count} convolutions, expected {', '.join(map(str, DEPTHS))}: ResNet-50, 101 or 152")
    layers: Layers = {}
    for index, name in enumerate(keras_order(DEPTHS[count])):
        layers[torch_name(f"{name}_conv")] = found[("conv2d", index)]
        layers[torch_name(f"{name}_bn")] = found[("batch_normalization", index)]
    if ("dense", 0) in found:
        layers["fc"] = found[("dense", 0)]
    return layers


def keras_order(depths: tuple[int, ...]) -> Iterator[str]:
    """The convolutions of a network as `model.layers` has them."""
    yield "conv1"
    for stage, blocks in enumerate(depths, start=2):
        for block, number in itertools.product(range(1, blocks + 1), (1, 2, 0, 3)):
            if block == 1 or number:
                yield f"conv{stage}_block{block}_{number}"


def read_hdf5(path: str | os.PathLike[str]) -> dict[str, HostArray]:
    """Every array of an HDF5 file by its path, an optimiser's left out.

    Only what lies in the file itself is read: no links, into other files or elsewhere, no arrays kept in other files or
    pieced together from them, no filters (which would be libraries to load), no array that the file does not hold
    in full.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is an HDF5 file, which needs h5py: pip install 'tinyres[keras]'") from error
    arrays: dict[str, HostArray] = {}
    seen: set[Any] = set()

    def visit(group: Any, prefix: str) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{prefix}{name} is a link, and links are not followed")
            item = group[name]
            if (address := h5py.h5o.get_info(item.id).addr) in seen:
                raise ValueError(f"{prefix}{name} is there twice")
            seen.add(address)
            if isinstance(item, h5py.Group):
                if name not in ("optimizer", "optimizer_weights"):
                    visit(item, f"{prefix}{name}/")
            elif isinstance(item, h5py.Dataset):
                arrays[f"{prefix}{name}"] = plain(item, f"{prefix}{name}")

    def plain(dataset: Any, name: str) -> HostArray:
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"the numbers of {name} are in other files")
        if dataset.id.get_create_plist().get_nfilters():
            raise ValueError(f"{name} is compressed, which Keras does not do")
        if dataset.dtype.kind not in "biuf":
            raise ValueError(f"{name} has the dtype {dataset.dtype}, expected numbers")
        if dataset.id.get_storage_size() != dataset.size * dataset.dtype.itemsize:
            raise ValueError(f"{name} is {dataset.shape} of {dataset.dtype}, which the file does not hold")
        array: HostArray = dataset[()]
        return np.asarray(array)

    with h5py.File(path, "r") as file:
        visit(file, "")
    return arrays
