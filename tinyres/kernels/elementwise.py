"""Arithmetic, reductions and reshaping: the kernels that broadcasting and indexing are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyres import threads
from tinyres.backend import Array, is_array, memory_order, untranspose, xp

Result = tuple[Array, Callable[[Array], Any]]
Needed = Sequence[bool]  # of each input, whether its gradient is
Dims = int | tuple[int, ...] | None


def shape_of(operand: Any) -> tuple[int, ...]:
    """The shape of an array; () for a Python number."""
    return getattr(operand, "shape", ())


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum `gradient` over the axes along which an operand of `shape` was repeated: the adjoint of broadcasting."""
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    repeated = tuple(axis + added for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis + added] > 1)
    total = gradient.sum(axis=(*range(added), *repeated), dtype=sum_dtype(gradient))
    return total.astype(gradient.dtype, copy=False).reshape(shape)


def sum_dtype(array: Array) -> Any:
    """The dtype to sum in: float16 can count no further than 2048."""
    return "float32" if array.dtype == "float16" else array.dtype


def gate(array: Array, mask: Array, out: Array) -> Array:
    """array · mask, in `out`, of one shape. The mask is made numbers first: NumPy is faster to multiply by them."""
    out[...] = mask
    out *= array
    return out


def floats(*values: Any) -> tuple[Any, ...]:
    """The values, arrays of integers beside floating ones made floating: NumPy alone would widen float32 for them."""
    dtypes = [value.dtype for value in values if is_array(value) and value.dtype.kind == "f"]
    return tuple(value.astype(dtypes[0], copy=False) if dtypes and is_array(value) else value for value in values)


def check_floating(op: str, input: Array) -> None:
    if input.dtype.kind != "f":
        raise TypeError(f'{op}: x is {input.dtype}, expected a floating dtype: convert it with .to("float32")')


def operands(op: str, first: Array, second: Array) -> tuple[Array, Array, tuple[int, ...], tuple[int, ...]]:
    """Both operands, integers beside floats made floats of the same width, and their shapes, which must broadcast."""
    first, second = floats(first, second)
    a, b = shape_of(first), shape_of(second)
    if a != b and any(m != n and 1 not in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False)):
        raise ValueError(
            f"{op}: shapes {a} and {b} do not broadcast: from the last axis back, sizes must be equal or 1"
        )
    return first, second, a, b


# Arithmetic. Either operand may be a Python number. (Addition is in residual.py.)


def sub(input: Array, other: Array) -> Result:
    """input - other, broadcast."""
    input, other, a, b = operands("sub", input, other)
    return input - other, lambda dy: (lambda: unbroadcast(dy, a), lambda: unbroadcast(-dy, b))


def mul(input: Array, other: Array) -> Result:
    """input · other, element by element, broadcast."""
    input, other, a, b = operands("mul", input, other)
    return input * other, lambda dy: (lambda: unbroadcast(dy * other, a), lambda: unbroadcast(dy * input, b))


def div(input: Array, other: Array) -> Result:
    """input / other, element by element, broadcast."""
    input, other, a, b = operands("div", input, other)
    y = input / other

    def pullback(dy: Array) -> Any:
        return lambda: unbroadcast(dy / other, a), lambda: unbroadcast(-dy * y / other, b)

    return y, pullback


def pow(input: Array, exponent: float) -> Result:
    """input to the power of a Python number."""
    if not isinstance(exponent, int | float):
        raise TypeError(f"pow: exponent is a {type(exponent).__name__}, expected a Python number")
    return input**exponent, lambda dy: dy * (exponent * input ** (exponent - 1)) if exponent else 0 * dy


def neg(input: Array) -> Result:
    """-input."""
    return -input, lambda dy: -dy


def abs(input: Array) -> Result:
    """|input|; the gradient at 0 is 0."""
    return xp(input).abs(input), lambda dy: dy * xp(input).sign(input)


def exp(input: Array) -> Result:
    """e to the power of input."""
    y = xp(input).exp(input)
    return y, lambda dy: dy * y


def log(input: Array) -> Result:
    """Natural logarithm."""
    return xp(input).log(input), lambda dy: dy / input


def sqrt(input: Array) -> Result:
    """Square root."""
    y = xp(input).sqrt(input)
    return y, lambda dy: dy / (2 * y)


def clamp(input: Array, min: float | None = None, max: float | None = None) -> Result:
    """input, limited to [min, max]; the gradient passes where input lies within, its ends included."""
    if min is None and max is None:
        raise ValueError("clamp: min and max are both None, expected at least one")
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    return xp(input).clip(input, low, high), lambda dy: dy * ((input >= low) & (input <= high))


# Products


def matmul(input: Array, other: Array) -> Result:
    """Matrix product (…, M, K) @ (…, K, N) → (…, M, N), leading axes broadcast."""
    input, other = floats(input, other)
    if input.ndim < 2 or other.ndim < 2 or input.shape[-1] != other.shape[-2]:
        raise ValueError(f"matmul: shapes {input.shape} and {other.shape} do not fit, expected (…, M, K) and (…, K, N)")
    if any(m != n and 1 not in (m, n) for m, n in zip(input.shape[-3::-1], other.shape[-3::-1], strict=False)):
        raise ValueError(f"matmul: the leading axes of {input.shape} and {other.shape} do not broadcast")

    def pullback(dy: Array) -> Any:  # dy: (…, M, N)
        return (
            lambda: unbroadcast(product(dy, other.swapaxes(-1, -2)), input.shape),  # (…, M, N) @ (…, N, K)
            lambda: unbroadcast(product(input.swapaxes(-1, -2), dy), other.shape),  # (…, K, M) @ (…, M, N)
        )

    def product(a: Array, b: Array) -> Array:
        return threads.matmul(a, b) if a.ndim == b.ndim == 2 else a @ b

    return product(input, other), pullback


# Reductions. `dim` is an axis, a tuple of axes, or None for all.


def sum(input: Array, dim: Dims = None, keepdim: bool = False) -> Result:
    """Sum over `dim`."""
    kept = reduced_shape("sum", input, dim)
    shape = input.shape
    return input.sum(axis=dim, keepdims=keepdim), lambda dy: xp(dy).broadcast_to(dy.reshape(kept), shape)


def mean(input: Array, dim: Dims = None, keepdim: bool = False) -> Result:
    """Mean over `dim`."""
    kept = reduced_shape("mean", input, dim)
    shape, count = input.shape, input.size // math.prod(kept)
    return input.mean(axis=dim, keepdims=keepdim), lambda dy: xp(dy).broadcast_to(dy.reshape(kept) / count, shape)


def var(input: Array, dim: Dims = None, correction: int = 1, keepdim: bool = False) -> Result:
    """Variance over `dim`: centred squares over (count − correction)."""
    kept = reduced_shape("var", input, dim)
    degrees = input.size // math.prod(kept) - correction
    if degrees < 1:
        raise ValueError(
            f"var: {degrees + correction} values to reduce with correction={correction}: no degree of freedom"
        )
    y = input.var(axis=dim, ddof=correction, keepdims=keepdim)

    def pullback(dy: Array) -> Array:
        return dy.reshape(kept) * (2 / degrees) * (input - input.mean(axis=dim, keepdims=True))

    return y, pullback


def amax(input: Array, dim: Dims = None, keepdim: bool = False) -> Result:
    """Largest value over `dim`; ties share the gradient equally."""
    kept = reduced_shape("amax", input, dim)
    y = input.max(axis=dim, keepdims=keepdim)

    def pullback(dy: Array) -> Array:
        winners = (input == y.reshape(kept)).astype(dy.dtype)
        return winners * (dy.reshape(kept) / winners.sum(axis=dim, keepdims=True))

    return y, pullback


def reduced_shape(op: str, input: Array, dim: Dims) -> tuple[int, ...]:
    """The shape of `input` with the axes of `dim` kept as size 1."""
    axes = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    check_axes(op, f"dim is {dim}", tuple(axes), input)
    gone = {axis % input.ndim for axis in axes}
    if op != "sum" and any(input.shape[axis] == 0 for axis in gone):
        raise ValueError(f"{op}: the input {input.shape} is empty along dim {dim}, expected at least one value")
    return tuple(1 if axis in gone else size for axis, size in enumerate(input.shape))


def check_axes(op: str, what: str, axes: tuple[int, ...], input: Array) -> None:
    if not all(-input.ndim <= axis < input.ndim for axis in axes):
        raise ValueError(f"{op}: {what}, but there are {input.ndim} axes in {input.shape}")


# Shape. Each backward undoes the forward.


def reshape(input: Array, *shape: Any) -> Result:
    """The same values in another shape; one size may be -1."""
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    known = math.prod(size for size in shape if size != -1)
    if (
        shape.count(-1) > 1
        or min(shape, default=0) < -1
        or (known != input.size if -1 not in shape else known == 0 or input.size % known)
    ):
        raise ValueError(f"reshape: {input.size} values of shape {input.shape} do not fit into {tuple(shape)}")
    before = input.shape
    return input.reshape(shape), lambda dy: dy.reshape(before)


def flatten(input: Array, start_dim: int = 0, end_dim: int = -1) -> Result:
    """Join the axes from start_dim to end_dim into one."""
    check_axes("flatten", f"start_dim is {start_dim}, end_dim {end_dim}", (start_dim, end_dim), input)
    start, end = start_dim % input.ndim, end_dim % input.ndim
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} (the input: {input.shape})")
    joined = math.prod(input.shape[start : end + 1])
    return reshape(input, (*input.shape[:start], joined, *input.shape[end + 1 :]))


def permute(input: Array, *dims: Any) -> Result:
    """Reorder the axes: the result's axis i is the input's axis dims[i]. A view."""
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    if sorted(axis + input.ndim * (axis < 0) for axis in order) != list(range(input.ndim)):
        raise ValueError(f"permute: dims {tuple(order)} is no permutation of the {input.ndim} axes of {input.shape}")
    inverse = sorted(range(input.ndim), key=lambda i: order[i] % input.ndim)
    return input.transpose(order), lambda dy: dy.transpose(inverse)


def transpose(input: Array, dim0: int, dim1: int) -> Result:
    """Swap two axes. A view."""
    check_axes("transpose", f"dims are {dim0} and {dim1}", (dim0, dim1), input)
    return input.swapaxes(dim0, dim1), lambda dy: dy.swapaxes(dim0, dim1)


def expand(input: Array, *shape: Any) -> Result:
    """Repeat along axes of size 1 (and new leading axes) without copying."""
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    before = input.shape
    if len(shape) < input.ndim or any(m not in (1, n) for m, n in zip(before[::-1], shape[::-1], strict=False)):
        raise ValueError(f"expand: {before} cannot grow to {tuple(shape)}: only axes of size 1, and new ones, can")
    return xp(input).broadcast_to(input, shape), lambda dy: unbroadcast(dy, before)


def getitem(input: Array, index: Any) -> Result:
    """input[index]: integers, slices, None, ..., boolean or integer arrays. Repeated elements add up backward."""

    def pullback(dy: Array) -> Array:
        dx = xp(input).zeros_like(input)
        if any(
            hasattr(part, "dtype") or isinstance(part, list)
            for part in (index if isinstance(index, tuple) else (index,))
        ):
            xp(input).add.at(dx, index, dy)
        else:
            dx[index] = dy
        return dx

    return input[index], pullback


def cat(*inputs: Array, dim: int = 0) -> Result:
    """Join arrays along `dim`."""
    inputs = floats(*inputs)
    if not inputs:
        raise ValueError("cat: no tensors came, expected at least one")
    for array in inputs:
        check_axes("cat", f"joined along dim {dim}", (dim,), array)
    others = {array.shape[: dim % array.ndim] + array.shape[dim % array.ndim + 1 :] for array in inputs}
    if len(others) != 1:
        raise ValueError(f"cat: shapes {', '.join(str(array.shape) for array in inputs)} differ outside dim {dim}")
    ends = [0]
    for array in inputs:
        ends.append(ends[-1] + array.shape[dim])

    def pullback(dy: Array) -> Any:
        leading = (slice(None),) * (dim % dy.ndim)
        return tuple(dy[(*leading, slice(start, end))] for start, end in itertools.pairwise(ends))

    return xp(inputs[0]).concatenate(inputs, axis=dim), pullback


def pad(input: Array, pad: tuple[int, ...], value: float = 0.0) -> Result:
    """Surround with a constant. `pad` gives (left, right) for the last axis, then for the one before, and so on."""
    if len(pad) % 2 or len(pad) > 2 * input.ndim or min(pad, default=0) < 0:
        raise ValueError(
            f"pad: pad is {pad}, expected a non-negative (left, right) for each of at most {input.ndim} axes"
        )
    widths = [(0, 0)] * (input.ndim - len(pad) // 2) + [pad[i : i + 2] for i in range(len(pad) - 2, -1, -2)]
    inner = tuple(slice(left, left + size) for (left, _), size in zip(widths, input.shape, strict=True))
    # Images stay channels-last in memory: allocate in the axis order of the input's strides.
    order = memory_order(input)
    shape = [left + size + right for (left, right), size in zip(widths, input.shape, strict=True)]
    y = xp(input).full([shape[axis] for axis in order], value, dtype=input.dtype)
    y = untranspose(y, order)
    y[inner] = input
    return y, lambda dy: dy[inner]
