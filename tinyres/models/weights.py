"""Weight files: what `torch.save` wrote, read without PyTorch, and safetensors.

A pickle is a program for a small stack machine. Two of its instructions matter here: GLOBAL names something to
import, REDUCE calls it. Whoever wrote the file chose the name, so a plain `pickle.load` runs whatever it says. The
reader below answers four names, each with a stand-in of its own, and imports nothing.

PyTorch pickles a tensor as a call, ``_rebuild_tensor_v2(storage, offset, shape, stride, …)``: how to look at a
*storage*, a flat run of numbers. The numbers are not in the pickle, which only points at them: ("storage", type,
key, device, count). They lie

* in the zip format (PyTorch ≥ 1.6) in the archive's uncompressed members ``data/<key>``, beside ``data.pkl``;
* in the older format behind the pickles, of which there are five: a magic number, a version, the machine's byte
  order, the object itself, and the order of the keys; then for each key a count and as many numbers.

So the pickle is read first, and makes descriptions of tensors only; arrays are made from them once the numbers are
found, and only if offset, shape and strides stay inside.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HostArray = np.ndarray[Any, Any]

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older format
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4"}
SAFETENSORS |= {"I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, HostArray]:
    """The arrays of a weight file by name: PyTorch's `.pth` or `.th` (both formats), or `.safetensors`.

    A checkpoint {"state_dict": …, …} is unwrapped, and the prefix "module." that DataParallel leaves is taken off.
    bfloat16, which NumPy lacks, becomes float32; every other dtype is kept. Nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another kind, or asks for anything but tensors and containers.
    """
    content = Path(path).read_bytes()
    if str(path).endswith(".safetensors"):
        read = read_safetensors
    else:
        read = read_zip if content.startswith(b"PK") else read_legacy
    try:
        found = read(content)
    except ModuleNotFoundError:  # safetensors is not installed
        raise
    except Exception as error:  # of a damaged pickle, nearly any
        why = str(error) if type(error) is ValueError else f"it is damaged ({type(error).__name__}: {error})"
        raise ValueError(f"{path} cannot be read as a weight file: {why}") from error
    prefix = "module." if all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): array for name, array in found.items()}


def read_safetensors(content: bytes) -> dict[str, HostArray]:
    """A table of names, dtypes and shapes, and the numbers: nothing to run."""
    from safetensors import deserialize

    return {
        name: numbers(entry["data"], SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in deserialize(content)  # type: ignore[no-untyped-call]
    }


def read_zip(content: bytes) -> dict[str, HostArray]:
    """The format of PyTorch 1.6 and later."""
    import zipfile  # here, since importing tinyres should take no time

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}  # all lie in one folder
        if "data.pkl" not in members:
            raise ValueError("it is a zip archive without data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("its members are compressed, which torch.save never does")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("its numbers are big-endian")
        unpickler = TensorUnpickler(io.BytesIO(archive.read(members["data.pkl"])))
        views = tensors_of(unpickler.load())
        storages = {
            key: numbers(archive.read(members[f"data/{key}"]), dtype) for key, dtype in unpickler.dtypes.items()
        }
    return {name: view.array(name, storages) for name, view in views.items()}


def read_legacy(content: bytes) -> dict[str, HostArray]:
    """The format before PyTorch 1.6."""
    file = io.BytesIO(content)
    if not content.startswith(b"\x80") or TensorUnpickler(file).load() != MAGIC:
        raise ValueError("it does not begin as torch.save begins a file")
    _version, machine = TensorUnpickler(file).load(), TensorUnpickler(file).load()
    if not machine["little_endian"]:
        raise ValueError("its numbers are big-endian")
    unpickler = TensorUnpickler(file)
    views = tensors_of(unpickler.load())
    storages = {}
    for key in TensorUnpickler(file).load():
        dtype = unpickler.dtypes[key]
        size = int.from_bytes(file.read(8), "little") * (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)
        run = file.read(size)
        if len(run) < size:
            raise ValueError(f"it ends after {len(run)} of a storage's {size} bytes")
        storages[key] = numbers(run, dtype)
    return {name: view.array(name, storages) for name, view in views.items()}


class View(NamedTuple):
    """A tensor as the pickle describes it: which numbers of which storage, in which order."""

    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, name: str, storages: dict[str, HostArray]) -> HostArray:
        """The array itself, which shares its storage with other views of it."""
        flat = storages[self.key]
        if len(self.shape) != len(self.stride) or min((self.offset, *self.shape, *self.stride)) < 0:
            raise ValueError(f"{name} has offset {self.offset}, shape {self.shape} and strides {self.stride}")
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        if last >= flat.size:
            raise ValueError(f"{name} needs {last + 1} numbers of a storage that has {flat.size}")
        strides = tuple(step * flat.itemsize for step in self.stride)
        return np.ndarray(self.shape, flat.dtype, flat, self.offset * flat.itemsize, strides)


class TensorUnpickler(pickle.Unpickler):
    """An unpickler that makes views, containers, numbers and strings, and nothing else.

    A pickle can also set attributes of what it was given. That changes nothing here: it is given strings, named
    tuples and functions made for the one call.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.dtypes: dict[str, str] = {}  # of each storage that was pointed at, by key

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return name
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda key, offset, shape, stride, *_: View(key, offset, shape, stride)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda view, *_: view
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise ValueError(f"it asks for {module}.{name}, and only tensors and containers are read")

    def persistent_load(self, pid: Any) -> str:
        """("storage", type, key, device, count), and in the older format what part of another storage it is, if any;
        returns the key."""
        match pid:
            case ("storage", str(kind), str(key), _, _, *part) if kind in STORAGES and not any(part):
                self.dtypes[key] = STORAGES[kind]
                return key
        raise ValueError("it points at something that is no storage")


def tensors_of(content: Any) -> dict[str, View]:
    """The tensors by name, of a state dict or of a checkpoint that holds one."""
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, View) for name, value in content.items()
    ):
        raise ValueError("it holds something else than tensors by name")
    return content


def numbers(content: bytes | bytearray, dtype: str) -> HostArray:
    """The numbers in `content`, writable. A bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(bytearray(content), dtype)
