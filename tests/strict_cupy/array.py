"""The arrays of the strict fake, and what passes between them and the NumPy arrays that they hide."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from .signatures import Signature, signatures

DTYPES = "?bhilqBHILQefdFD"  # all that CuPy can hold
SCALARS = frozenset({bool, int, float, complex} | {np.dtype(code).type for code in DTYPES})
# Functions and methods that must know a value on the host before they can go on.
SYNCHRONISING = {
    *("argwhere", "bincount", "compress", "extract", "flatnonzero", "histogram", "isin", "nonzero", "place"),
    *("trim_zeros", "union1d", "unique", "tobytes", "tolist", "tofile", "dump", "dumps"),
}

_synchronisations = 0


def synchronisations() -> int:
    """How often the host has waited for the device since the module was made: read it before and after."""
    return _synchronisations


def synchronise() -> None:
    """Count one wait of the host for the device."""
    global _synchronisations
    _synchronisations += 1


def unsupported(value: Any) -> TypeError:
    return TypeError(f"Unsupported type {type(value)}")


def unwrap(value: Any) -> Any:
    """The NumPy value behind an argument; lists and tuples are searched for arrays."""
    kind = type(value)
    if kind is ndarray:
        return value._host
    if isinstance(value, np.ndarray):
        raise unsupported(value)
    if kind is list or kind is tuple:
        return kind(map(unwrap, value))
    return value


def wrap(value: Any) -> Any:
    """`value` with all NumPy arrays and scalars in it on the device: CuPy never returns a scalar."""
    if isinstance(value, np.ndarray | np.generic):
        array = object.__new__(ndarray)
        array._host = np.asarray(value)
        return array
    if isinstance(value, list | tuple):
        return type(value)(map(wrap, value)) if type(value) in (list, tuple) else tuple(map(wrap, value))
    return value


def in_c_order(value: Any, sources: Any = ()) -> Any:
    """`value` in C order unless it is a view of a source: CuPy's results do not take the order of inputs."""
    if not isinstance(value, np.ndarray) or value.flags.c_contiguous:
        return value
    if any(isinstance(source, np.ndarray) and np.may_share_memory(value, source) for source in sources):
        return value
    return np.asarray(value, order="C")


def delegate(signature: Signature, function: Callable[..., Any], keeps_order: bool) -> Callable[..., Any]:
    """CuPy's function with this signature, computed by its NumPy namesake."""

    def call(*args: Any, **kwargs: Any) -> Any:
        positional, named, arrays = signature.bind(args, kwargs)
        for array in arrays:
            if type(array) is not ndarray:
                raise unsupported(array)
        out = named.get("out")
        if out is not None and type(out) is not ndarray:
            raise TypeError("Output arguments type must be cupy.ndarray")
        if signature.name in SYNCHRONISING:
            synchronise()
        host = [unwrap(value) for value in positional]
        with np.errstate(all="ignore"):  # a GPU raises no floating-point warnings
            result = function(*host, **{name: unwrap(value) for name, value in named.items()})
        if out is not None:
            return out
        if host and result is host[0]:
            return positional[0]
        return wrap(result if keeps_order else in_c_order(result, host))

    call.__name__ = call.__qualname__ = signature.name
    return call


def operand(value: Any) -> Any:
    """The NumPy value of an operand: a device array, or a scalar of Python or NumPy; nothing else."""
    if type(value) is ndarray:
        return value._host
    if type(value) in SCALARS:
        return value
    raise unsupported(value)


def index(key: Any) -> tuple[Any, ...]:
    """The NumPy index for `key`; with an ellipsis, so that it makes an array even of one element."""
    items = tuple(map(index_item, key if isinstance(key, tuple) else (key,)))
    if sum(isinstance(item, np.ndarray) and item.dtype == bool for item in items) > 1:
        raise ValueError("CuPy does not support more than one boolean array in an index")
    return items if any(item is Ellipsis for item in items) else (*items, Ellipsis)


def index_item(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice | int | np.integer):
        return item
    if type(item) is ndarray:
        return item._host
    if isinstance(item, list):
        return np.asarray(unwrap(item), dtype=None if item else np.int32)
    if isinstance(item, np.ndarray):
        raise unsupported(item)
    raise IndexError(f"only integers, slices, ellipsis, None and arrays are valid indices, not {type(item)}")


def check_no_duplicates(shape: tuple[int, ...], key: tuple[Any, ...]) -> None:
    """Raise if `key` names an element twice: which of two values CuPy leaves there is undefined."""
    written = np.zeros(shape, dtype=bool)
    written[key] = True
    if np.count_nonzero(written) < written[key].size:
        raise IndexError("duplicate indices in an assignment: CuPy leaves undefined which value is stored")


class Flags:
    """The memory layout of an array."""

    def __init__(self, host: np.ndarray) -> None:
        self.c_contiguous = host.flags.c_contiguous
        self.f_contiguous = host.flags.f_contiguous
        self.owndata = host.flags.owndata
        self.fnc = host.flags.fnc
        self.forc = host.flags.forc

    def __getitem__(self, name: str) -> bool:
        return bool(getattr(self, name.lower()))


class ndarray:
    """An array "on the device": it holds a NumPy array, and gives it away to no one but `get`."""

    __module__ = "cupy"
    __slots__ = ("__weakref__", "_host")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape: Any, dtype: Any = float, *, order: str = "C") -> None:
        self._host = np.empty(shape, dtype, order)

    # Layout

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    dtype = property(lambda self: self._host.dtype)
    flags = property(lambda self: Flags(self._host))
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    base = property(lambda self: wrap(self._host.base))
    T = property(lambda self: wrap(self._host.T))
    mT = property(lambda self: wrap(self._host.mT))
    real = property(lambda self: wrap(self._host.real))
    imag = property(lambda self: wrap(self._host.imag))

    @property
    def device(self) -> Any:
        from .cuda import Device

        return Device(0)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        if type is not None:
            raise NotImplementedError("the strict fake has no subclasses of cupy.ndarray")
        return wrap(self._host.view() if dtype is None else self._host.view(dtype))

    def astype(
        self, dtype: Any, order: Any = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        with np.errstate(all="ignore"):
            host = self._host.astype(dtype, order=order or "K", copy=copy)
        return self if host is self._host else wrap(host)

    # To the host: explicitly, and at the price of waiting for the device

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if blocking and stream is None:
            synchronise()
        if order.upper() not in ("C", "F", "A"):
            raise ValueError(f"unsupported order: {order}")
        if out is None:
            return np.array(self._host, order=order)
        if (out.dtype, out.shape) != (self.dtype, self.shape):
            raise TypeError(f"out is {out.dtype} {out.shape}, the array is {self.dtype} {self.shape}")
        out[...] = self._host
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (arr.dtype, arr.shape) != (self.dtype, self.shape):
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        self._host[...] = arr

    def item(self) -> Any:
        return self.get().item()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, format_spec: str) -> str:
        return format(self.get(), format_spec)

    def __copy__(self) -> ndarray:
        return wrap(np.array(self._host, order="C"))

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.__copy__()

    def __reduce__(self) -> Any:
        from .functions import array

        return array, (self.get(),)

    # NumPy's protocols

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """``numpy.add(x, y)`` is ``cupy.add(x, y)``; so comes ``numpy.float32(2) * x`` here, too."""
        from .ufuncs import UFUNCS, matmul

        function = matmul if ufunc is np.matmul else UFUNCS.get(ufunc.__name__)
        operands = (*inputs, *kwargs.get("out", ()))
        known = all(isinstance(x, ndarray | np.ndarray) or type(x) in SCALARS for x in operands)
        if method != "__call__" or function is None or not known:
            return NotImplemented
        if len(kwargs.get("out", ())) == 1:
            kwargs["out"] = kwargs["out"][0]
        return function(*inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """``numpy.sum(x)`` is ``cupy.sum(x)``."""
        module = importlib.import_module(__package__)
        try:
            for name in (*function.__module__.split(".")[1:], function.__name__):
                module = getattr(module, name)
        except AttributeError:
            return NotImplemented
        return module(*args, **kwargs)

    # Elements

    def __getitem__(self, key: Any) -> ndarray:
        where = index(key)
        if any(isinstance(item, np.ndarray) and item.dtype == bool for item in where):
            synchronise()  # how many elements?
        return wrap(in_c_order(self._host[where], (self._host,)))

    def __setitem__(self, key: Any, value: Any) -> None:
        where = index(key)
        masks = [item.dtype == bool for item in where if isinstance(item, np.ndarray)]
        if any(masks):
            synchronise()
        elif masks:
            check_no_duplicates(self.shape, where)
        with np.errstate(all="ignore"):
            self._host[where] = operand(value)


for _name, _signature in signatures("methods").items():
    if hasattr(np.ndarray, _name) and _name not in vars(ndarray):
        setattr(ndarray, _name, delegate(_signature, getattr(np.ndarray, _name), _signature.keeps_order))
