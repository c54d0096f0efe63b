"""The ufuncs of the strict fake, and the operators of its arrays, which are ufuncs too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .array import DTYPES, SCALARS, delegate, in_c_order, index, ndarray, operand, unsupported, wrap
from .signatures import SNAPSHOT, signatures

# What can be scattered with atomics, by kind of scatter.
SCATTER_DTYPES = {"add": "iILQefd", "sub": "iILQefd", "max": "iILQfd", "min": "iILQfd"}


class ufunc:
    """A function on elements. Operands are device arrays and scalars; results are new arrays in C order."""

    __module__ = "cupy"

    def __init__(self, name: str, nin: int, nout: int, at: str | None) -> None:
        self.name, self.nin, self.nout, self.nargs = name, nin, nout, nin + nout
        self._scatter = at
        self._numpy = getattr(np, name)

    def __repr__(self) -> str:
        return f"<ufunc 'cupy_{self.name}'>"

    def __call__(
        self, *args: Any, out: Any = None, casting: str = "same_kind", dtype: Any = None, **unknown: Any
    ) -> Any:
        if unknown:
            raise TypeError(f"Wrong arguments {unknown}")  # `where=` among them
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(f"Wrong number of arguments for '{self.name}': {len(args)}")
        outs = args[self.nin :] or (out if isinstance(out, tuple) else (out,) * (out is not None))
        operands = [operand(value) for value in args[: self.nin]]
        for array in outs:
            if type(array) is not ndarray:
                raise unsupported(array)
        with np.errstate(all="ignore"):
            result = self._numpy(*operands, out=tuple(o._host for o in outs) or None, casting=casting, dtype=dtype)
        if outs:
            return outs[0] if self.nout == 1 else outs
        return wrap(in_c_order(result) if self.nout == 1 else tuple(map(in_c_order, result)))

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self._scatter is None:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if a.dtype.char not in SCATTER_DTYPES.get(self._scatter, DTYPES):
            raise TypeError(f"scatter_{self._scatter} does not support {a.dtype} as data type")
        self._numpy.at(a._host, index(indices), operand(b))

    def reduce(
        self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> ndarray:
        return self._method(array, sum="add", prod="multiply")(axis, dtype, out, keepdims)

    def accumulate(self, array: ndarray, axis: int = 0, dtype: Any = None, out: Any = None) -> ndarray:
        return self._method(array, cumsum="add", cumprod="multiply")(axis, dtype, out)

    def _method(self, array: ndarray, **methods: str) -> Any:
        for method, name in methods.items():
            if name == self.name:
                return getattr(array, method)
        raise NotImplementedError(f"`{self.name}` cannot reduce or accumulate yet")


UFUNCS = {
    name: ufunc(name, **entry)
    for name, entry in SNAPSHOT["ufuncs"].items()
    if isinstance(getattr(np, name, None), np.ufunc)
}


def forward_operator(function: Any) -> Callable[[ndarray, Any], Any]:
    return lambda self, other: NotImplemented if defers(other) else function(self, other)


def reflected_operator(function: Any) -> Callable[[ndarray, Any], Any]:
    return lambda self, other: NotImplemented if defers(other) else function(other, self)


def in_place_operator(function: Any) -> Callable[[ndarray, Any], Any]:
    return lambda self, other: function(self, other, self)


def defers(other: Any) -> bool:
    """Whether CuPy leaves an operation to the other operand, whose class must ask for that (NEP 13)."""
    if type(other) is ndarray or type(other) in SCALARS:
        return False
    try:
        return other.__array_ufunc__ is None
    except AttributeError:
        return getattr(other, "__array_priority__", 0) > ndarray.__array_priority__


ARITHMETIC = {
    **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "mod": "remainder"},
    **{"floordiv": "floor_divide", "pow": "power", "lshift": "left_shift", "rshift": "right_shift"},
    **{"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"},
}
COMPARISONS = {
    **{"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal"},
    **{"gt": "greater", "ge": "greater_equal"},
}
NOT_IN_PLACE = {"divmod": "divmod", "matmul": "matmul"}
matmul = delegate(signatures("functions")["matmul"], np.matmul, keeps_order=False)
UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}

FUNCTIONS = UFUNCS | {"matmul": matmul}
for _operator, _name in (ARITHMETIC | COMPARISONS | NOT_IN_PLACE).items():
    setattr(ndarray, f"__{_operator}__", forward_operator(FUNCTIONS[_name]))
for _operator, _name in (ARITHMETIC | NOT_IN_PLACE).items():
    setattr(ndarray, f"__r{_operator}__", reflected_operator(FUNCTIONS[_name]))
for _operator, _name in ARITHMETIC.items():
    setattr(ndarray, f"__i{_operator}__", in_place_operator(UFUNCS[_name]))
for _operator, _name in UNARY.items():
    setattr(ndarray, f"__{_operator}__", lambda self, function=UFUNCS[_name]: function(self))
