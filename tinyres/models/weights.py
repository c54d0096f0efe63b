"""Weight files, in and out: what PyTorch, safetensors, NumPy and Keras wrote, as arrays by torchvision's names.

The kind of a file is told by its first bytes, not by its name. Whatever it is, nothing in it is executed, and it cannot
ask for more memory than a few times its own size.
"""

from __future__ import annotations

import json
import math
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.backend import to_host
from tinyres.files import atomic_write
from tinyres.models.torch_file import HostArray, numbers, read_legacy, read_zip

if TYPE_CHECKING:
    from tinyres.models.pretrained import Preprocessing

SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4"}
SAFETENSORS |= {"I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


@dataclass(frozen=True)
class Weights:
    """What a weight file holds.

    arrays: by torchvision's names. kind: the file's format, in words. source: its path, or the name it is known by.
    options: what the network must be made with, {"stride_in": "1x1"} for those of Keras.
    preprocessing, classes: how images are prepared and what the outputs are called, where that is known.
    """

    arrays: dict[str, HostArray]
    kind: str
    source: str
    options: dict[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, HostArray]:
    """The arrays of a weight file by name, as `read_weights` finds them."""
    return read_weights(path).arrays


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read PyTorch's `.pth` or `.th` (both formats), `.safetensors`, `.npz`, or the HDF5 files of keras.applications.

    A checkpoint {"state_dict": …, …} is unwrapped, and so is one of `tinyres train`; the prefix "module." that
    DataParallel leaves is taken off, and a head called "linear" becomes "fc". bfloat16, which NumPy lacks, becomes
    float32; every other dtype is kept. Nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the library that reads it, safetensors or h5py, is not installed.
        ValueError: if it is damaged, of another kind, or holds anything but arrays.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no weight file {path}")
    try:
        kind, arrays, options = read(Path(path))
    except ImportError:
        raise
    except Exception as error:  # of a damaged file, nearly any
        why = str(error) if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
        why = "".join(letter if letter.isprintable() else " " for letter in why)  # it may quote the file
        raise ValueError(f"{path} cannot be read as a weight file: {textwrap.shorten(why, 300)}") from error
    for name in arrays:
        if not name.isprintable() or len(name) > 300:
            raise ValueError(f"{path} cannot be read as a weight file: it has an array called {name[:300]!r}")
    return Weights(torchvision_names(arrays), kind, str(path), options)


def read(path: Path) -> tuple[str, dict[str, HostArray], dict[str, str]]:
    """The kind of a file, its arrays, and the options that its network needs."""
    with path.open("rb") as file:
        is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
    if is_hdf5:
        from tinyres.models.keras_file import read_keras

        return "Keras HDF5", read_keras(path), {"stride_in": "1x1"}
    content = path.read_bytes()
    if content.startswith(b"PK"):
        from tinyres.models.archive import open_archive

        with open_archive(content) as archive:
            names = archive.namelist()
        if any(name.partition("/")[2] == "data.pkl" for name in names):
            return "PyTorch, zip format", read_zip(content), {}
        if names and all(name.endswith(".npy") for name in names):
            return "NumPy npz", read_npz(content), {}
        raise ValueError("it is a zip archive without data.pkl and no npz file")
    if content[8:9] == b"{":
        return "safetensors", *read_safetensors(content)
    return "PyTorch, format before 1.6", read_legacy(content), {}


def torchvision_names(arrays: dict[str, HostArray]) -> dict[str, HostArray]:
    """The same arrays by the names that torchvision gives them."""
    if "history.steps" in arrays:  # a checkpoint of `tinyres train`: the optimiser's state is left behind
        arrays = {name: array for name, array in arrays.items() if name.startswith("model.")}
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    if "linear.weight" in arrays and "fc.weight" not in arrays:  # the usual CIFAR-10 ResNets in PyTorch
        arrays = {f"fc.{name[7:]}" if name.startswith("linear.") else name: array for name, array in arrays.items()}
    return arrays


def read_safetensors(content: bytes) -> tuple[dict[str, HostArray], dict[str, str]]:
    """A table of names, dtypes and shapes, and the numbers: nothing to run."""
    from safetensors import deserialize

    arrays = {}
    for name, entry in deserialize(content):  # type: ignore[no-untyped-call]
        if entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"{name} has the dtype {entry['dtype']}, expected one of {', '.join(SAFETENSORS)}")
        arrays[name] = numbers(entry["data"], SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # deserialize has checked it
    metadata = header.get("__metadata__") or {}
    return arrays, {"stride_in": "1x1"} if metadata.get("stride_in") == "1x1" else {}


def read_npz(content: bytes) -> dict[str, HostArray]:
    """One .npy member an array: a header of dtype and shape, and the numbers. Arrays of objects, pickles in disguise,
    are refused."""
    from tinyres.models.archive import open_archive

    arrays = {}
    with open_archive(content) as archive:
        for info in archive.infolist():
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = header[version](file)
                name, run = info.filename.removesuffix(".npy"), file.read()
            if dtype.kind not in "biuf":
                raise ValueError(f"{name} has the dtype {dtype}, expected numbers")
            if math.prod(shape) * dtype.itemsize != len(run):
                raise ValueError(f"{name} is {shape} of {dtype}, which {len(run)} bytes are not")
            arrays[name] = np.frombuffer(bytearray(run), dtype).reshape(shape, order="F" if fortran else "C")
    return arrays


def save_state_dict_file(
    state: Mapping[str, Any], path: str | os.PathLike[str], options: Mapping[str, str] | None = None
) -> None:
    """Write arrays by name, as `model.state_dict()` gives them, to a `.safetensors` or `.npz` file.

    Every array is written as it is, bit for bit, with its dtype and shape. PyTorch reads the first kind with
    `safetensors.torch.load_file`, and since the names are torchvision's, its networks take them.

    options: what a network for these weights must be made with, {"stride_in": "1x1"}; safetensors files keep it.

    Raises:
        ValueError: if `path` ends in something else, or an array holds no numbers.
    """
    arrays = {name: np.asarray(to_host(array), order="C") for name, array in state.items()}  # weights are channels-last
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} has the dtype {array.dtype}, expected numbers")
    suffix = Path(path).suffix
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"weights are written to .safetensors or .npz, not to {path}")
    with atomic_write(path, "wb") as file:
        if suffix == ".npz":
            np.savez(file, allow_pickle=False, **arrays)
        else:
            from safetensors.numpy import save

            file.write(save(arrays, metadata={"format": "pt", **(options or {})}))
