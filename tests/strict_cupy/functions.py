"""The functions of the strict fake's modules: nearly all are NumPy's, behind CuPy's parameters."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .array import (
    DTYPES,
    check_no_duplicates,
    delegate,
    in_c_order,
    ndarray,
    operand,
    synchronise,
    unsupported,
    unwrap,
    wrap,
)
from .signatures import SNAPSHOT, signatures
from .ufuncs import UFUNCS, matmul, ufunc

# Between the host and the device


def array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: Any = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    order = order or "K"
    if type(obj) is ndarray:
        host = np.array(obj._host, dtype, copy=copy or None, order=order, ndmin=ndmin)
        return obj if host is obj._host else wrap(host)
    if isinstance(obj, list | tuple) and obj and all(type(item) is ndarray for item in obj):
        obj = unwrap(obj)
    if order in "KA":  # only Fortran order survives the way to the device: channels-last does not
        order = "F" if isinstance(obj, np.ndarray) and obj.flags.fnc else "C"
    host = np.array(obj, dtype, order=order, ndmin=ndmin)
    if host.dtype.char not in DTYPES:
        raise ValueError(f"Unsupported dtype {host.dtype}")
    return wrap(host)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return array(a, dtype, copy, order)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    host = np.asarray(a, order=order)
    if out is None:
        return host
    out[...] = host
    return out


def get_array_module(*args: Any) -> Any:
    on_device = any(type(arg) is ndarray for arg in args)
    return importlib.import_module(__package__) if on_device else np


def is_available() -> bool:
    return True


# Where NumPy's function does not fit


def where(condition: ndarray, x: Any = None, y: Any = None) -> Any:
    if type(condition) is not ndarray:
        raise unsupported(condition)
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if x is None:
        synchronise()
        return wrap(np.nonzero(condition._host))
    return wrap(in_c_order(np.where(condition._host, operand(x), operand(y))))


def einsum(*operands: Any, **kwargs: Any) -> ndarray:
    subscripts, *arrays = operands
    unknown = sorted(set(kwargs) - {"dtype", "optimize"})
    if unknown:
        raise TypeError(f"Did not understand the following kwargs: {unknown}")
    if not isinstance(subscripts, str) or any(type(a) is not ndarray for a in arrays):
        raise TypeError("einsum takes subscripts as a string, and arrays on the device")
    return wrap(np.einsum(subscripts, *unwrap(arrays), **kwargs))


def pad(array: ndarray, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> ndarray:
    if type(array) is not ndarray:
        raise unsupported(array)
    if mode == "median":
        raise ValueError("mode 'median' is not supported")
    order = "F" if array.flags.fnc else "C"
    return wrap(np.asarray(np.pad(array._host, unwrap(pad_width), mode, **unwrap_values(kwargs)), order=order))


def put_along_axis(arr: ndarray, indices: ndarray, values: Any, axis: int) -> None:
    if type(arr) is not ndarray or type(indices) is not ndarray:
        raise TypeError("put_along_axis takes an array and indices on the device")
    if np.any(np.diff(np.sort(indices._host, axis=axis), axis=axis) == 0):
        raise IndexError("duplicate indices in an assignment: CuPy leaves undefined which value is stored")
    np.put_along_axis(arr._host, indices._host, operand(values), axis)


def put(a: ndarray, ind: Any, v: Any, mode: str = "wrap") -> None:
    if type(a) is not ndarray:
        raise unsupported(a)
    check_no_duplicates((a.size,), (np.asarray(unwrap(ind)),))
    np.put(a._host, unwrap(ind), operand(v))


def allclose(a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> ndarray:
    return wrap(np.bool_(np.allclose(operand(a), operand(b), rtol, atol, equal_nan)))


def array_equal(a1: ndarray, a2: ndarray, equal_nan: bool = False) -> ndarray:
    return wrap(np.bool_(np.array_equal(operand(a1), operand(a2), equal_nan)))


def count_nonzero(a: ndarray, axis: Any = None) -> ndarray:
    return wrap(np.asarray(np.count_nonzero(operand(a), axis)))


def unwrap_values(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: unwrap(value) for name, value in kwargs.items()}


BY_HAND = {
    f.__name__: f
    for f in (
        *(array, asarray, asnumpy, get_array_module, is_available, where, einsum, pad, put_along_axis, put),
        *(allclose, array_equal, count_nonzero),
    )
} | {"asanyarray": asarray, "matmul": matmul}

# Functions on files and on the host, which a fake does not need.
NOT_MODELLED = {name for name in SNAPSHOT["functions"] if name.startswith(("from", "load", "save", "gen", "print"))}
# Besides those with a parameter `order`, these give the order of their input to their output.
KEEP_ORDER = {"asfortranarray", "astype", "require"}


def functions(section: str, numpy_module: Any) -> dict[str, Any]:
    """Name to function for one section of the snapshot, as far as `numpy_module` has the same."""
    return {
        name: delegate(
            signature,
            getattr(numpy_module, name),
            keeps_order=name in KEEP_ORDER or signature.keeps_order,
        )
        for name, signature in signatures(section).items()
        if hasattr(numpy_module, name) and name not in NOT_MODELLED | BY_HAND.keys()
    }


def constants() -> dict[str, Any]:
    """CuPy's names for NumPy's types and numbers."""
    shared = {"dtype", "finfo", "iinfo", "index_exp", "ndindex", "newaxis", "s_"}
    values = {name: getattr(np, name) for name in SNAPSHOT["names"] if hasattr(np, name)}
    return {
        name: value
        for name, value in values.items()
        if name in shared or isinstance(value, float) or (isinstance(value, type) and issubclass(value, np.generic))
    }


def namespace() -> dict[str, Any]:
    """All that ``import cupy`` offers, but for its submodules."""
    return constants() | UFUNCS | functions("functions", np) | BY_HAND | {"ndarray": ndarray, "ufunc": ufunc}
