"""What `torch.save` wrote, read without PyTorch.

A pickle is a program for a small stack machine. Two of its instructions are dangerous: GLOBAL names something to
import, REDUCE calls it. Whoever wrote the file chose the name, so a plain `pickle.load` runs whatever it says. The
machine below knows the two dozen instructions that `torch.save` writes; to it, a name is only a name, of which it
answers a few with code of its own. It imports nothing.

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
import math
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

HostArray = np.ndarray[Any, Any]

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older format
STORAGES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETER, ORDERED_DICT = "torch._utils._rebuild_parameter", "collections.OrderedDict"
NAMES = {*STORAGES, *TENSOR, PARAMETER, ORDERED_DICT}


class Global(NamedTuple):
    """What GLOBAL puts on the stack: a name, of nothing but itself."""

    name: str


class Storage(NamedTuple):
    """A flat run of numbers that lies elsewhere in the file."""

    key: str
    dtype: str


class View(NamedTuple):
    """A tensor as the pickle describes it: which numbers of which storage, in which order."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, name: str, storages: dict[Storage, HostArray]) -> HostArray:
        """The array itself, which shares its storage with other views of it."""
        flat = storages[self.storage]
        if len(self.shape) != len(self.stride) or min((self.offset, *self.shape, *self.stride)) < 0:
            raise ValueError(f"{name} has offset {self.offset}, shape {self.shape} and strides {self.stride}")
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        if last >= flat.size:
            raise ValueError(f"{name} needs {last + 1} numbers of a storage that has {flat.size}")
        strides = tuple(step * flat.itemsize for step in self.stride)
        return np.ndarray(self.shape, flat.dtype, flat, self.offset * flat.itemsize, strides)


# The stack machine


def unpickle(file: IO[bytes]) -> Any:
    """What the next pickle of `file` describes, made of dictionaries, lists, tuples, numbers, strings and views."""
    import pickletools  # here, since importing tinyres should take no time

    stack: list[Any] = []
    below: list[list[Any]] = []  # what lay on the stack at each MARK
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    argument: Any
    for instruction, argument, _position in pickletools.genops(file):
        match instruction.name:
            case "PROTO":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                items = since_mark()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(instruction.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                extend(stack[-1], [item])
            case "APPENDS":
                items = since_mark()
                extend(stack[-1], items)
            case "SETITEM":
                key, value = stack[-2:]
                del stack[-2:]
                update(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                update(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(named(argument.replace(" ", ".", 1)))
            case "REDUCE":
                arguments = stack.pop()
                stack[-1] = call(stack[-1], arguments)
            case "BUILD":  # a state dict carries `_metadata`, an attribute: not needed
                stack.pop()
                if type(stack[-1]) is not dict:
                    raise ValueError("it sets attributes of something else than a dictionary")
            case "BINPERSID":
                stack[-1] = storage(stack[-1])
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"it holds the pickle instruction {other}, which torch.save does not write")
    raise ValueError("its pickle has no end")


def extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("it appends to something else than a list")
    target.extend(items)


def update(target: Any, items: list[Any]) -> None:
    """`items` are keys and values in turn. Keys are strings or numbers: to hash a tuple of tuples can take for ever."""
    if type(target) is not dict or not all(type(key) in (str, int) for key in items[::2]):
        raise ValueError("it fills something else than a dictionary with names as keys")
    target.update(zip(items[::2], items[1::2], strict=True))


def named(name: str) -> Global:
    if name not in NAMES:
        raise ValueError(f"it asks for {name}, and only tensors and containers are read")
    return Global(name)


def call(function: Any, arguments: Any) -> Any:
    """What `function(*arguments)` would have been in PyTorch."""
    match function, arguments:
        case Global(name), (Storage() as numbers, int(offset), tuple(shape), tuple(stride), *_) if name in TENSOR:
            if len(shape) <= 64 and all(type(n) is int and abs(n) < 2**63 for n in (offset, *shape, *stride)):
                return View(numbers, offset, shape, stride)
        case Global(name), (View() as view, *_) if name == PARAMETER:
            return view
        case Global(name), () if name == ORDERED_DICT:
            return {}
        case Global(name), (list(pairs),) if name == ORDERED_DICT:  # as Python 2 wrote it
            filled: dict[Any, Any] = {}
            update(filled, [item for key, value in pairs for item in (key, value)])
            return filled
    raise ValueError("it makes a call that torch.save does not write")


def storage(pid: Any) -> Storage:
    """("storage", type, key, device, count), and in the older format what part of another storage it is, if any."""
    match pid:
        case ("storage", Global(kind), str(key), _, _, *part) if kind in STORAGES and not any(part):
            return Storage(key, STORAGES[kind])
    raise ValueError("it points at something that is no storage")


# The two formats


def read_zip(content: bytes) -> dict[str, HostArray]:
    """The format of PyTorch 1.6 and later."""
    from tinyres.models.archive import open_archive

    with open_archive(content) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}  # all lie in one folder
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("its numbers are big-endian")
        views = tensors_of(unpickle(io.BytesIO(archive.read(members["data.pkl"]))))
        return arrays_of(views, lambda key: archive.read(members[f"data/{key}"]), len(content))


def read_legacy(content: bytes) -> dict[str, HostArray]:
    """The format before PyTorch 1.6."""
    file = io.BytesIO(content)
    if not content.startswith(b"\x80") or unpickle(file) != MAGIC:
        raise ValueError("it does not begin as torch.save begins a file")
    _version, machine = unpickle(file), unpickle(file)
    if not machine["little_endian"]:
        raise ValueError("its numbers are big-endian")
    views = tensors_of(unpickle(file))
    dtypes = {view.storage.key: view.storage.dtype for view in views.values()}
    runs = {}
    for key in unpickle(file):
        if type(key) is not str:
            raise ValueError("its storages have no names")
        size = int.from_bytes(file.read(8), "little") * itemsize(dtypes.get(key, "u1"))
        runs[key] = file.read(min(size, len(content)))
        if len(runs[key]) < size:
            raise ValueError(f"it ends after {len(runs[key])} of a storage's {size} bytes")
    return arrays_of(views, runs.__getitem__, len(content))


def tensors_of(content: Any) -> dict[str, View]:
    """The tensors by name, of a state dict or of a checkpoint that holds one."""
    for key in ("state_dict", "model"):  # "model" in the checkpoints of torchvision's own training script
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (
        isinstance(content, dict)
        and content
        and all(isinstance(name, str) and isinstance(value, View) for name, value in content.items())
    ):
        raise ValueError("it holds something else than tensors by name")
    return content


def arrays_of(views: dict[str, View], read: Callable[[str], bytes], file_size: int) -> dict[str, HostArray]:
    """The arrays that `views` describe; `read` gives the bytes of a storage, which is read once.

    Tensors may share a storage, and one number may be a whole tensor (a stride of 0), so a small file could ask for
    any amount of memory as soon as somebody copies what it describes. No file that was meant well does.
    """
    asked = sum(math.prod(map(abs, view.shape)) * itemsize(view.storage.dtype) for view in views.values())
    if asked > 4 * file_size + 2**20:
        raise ValueError(f"its tensors would fill {asked} bytes, from a file of {file_size}")
    storages = {view.storage for view in views.values()}
    found = {storage: numbers(read(storage.key), storage.dtype) for storage in storages}
    return {name: view.array(name, found) for name, view in views.items()}


def itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def numbers(content: bytes | bytearray, dtype: str) -> HostArray:
    """The numbers in `content`, writable. A bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(bytearray(content), dtype)
