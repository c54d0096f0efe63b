"""Six numbers that say what an array is like, found in one walk over it.

Sums are made in float64. On a CPU, a float32 array of more than one block is summed in float32 within a block, where
that does not show, and from block to block in float64: half the time for seven digits.

The walk is done where the array lives and ends in eight numbers there, a few bytes; the six numbers are worked out
from those later, on the host, for many arrays at once. So watching a GPU does not wait for it. On a CPU one thread
walks: the steps are so short that a second thread would spend its time waiting for the interpreter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyres.backend import Array, device_of, flat, memory_order, to_host, xp
from tinyres.threads import BLOCK_BYTES

STATISTICS = ("mean", "std", "rms", "abs_max", "zero_fraction", "nonfinite_fraction")

SCRATCH_BYTES = 16  # for each element of a block
ONES = np.ones(BLOCK_BYTES["cpu"] // SCRATCH_BYTES, np.float32)
TINY = 1e-12  # the square of this and of its inverse are far from the ends of float32's range, 1e-38 and 3e38


def statistics(array: Array) -> dict[str, float]:
    """The mean, standard deviation (over all elements, no correction), root mean square and largest magnitude of
    `array`'s finite values, and which fractions of all its values are 0 and are NaN or infinite.

    array: any shape, dtype and memory order, NumPy or CuPy. Where there is no value to speak of, NaN.
    """
    return dict(zip(STATISTICS, map(float, finish(to_host(sums(array)))), strict=True))


@np.errstate(over="ignore", invalid="ignore")  # squares of float64 beyond 1e154 are infinite, and no reason to stop
def sums(array: Array) -> Array:
    """What `finish` needs to know of `array`, as float64 (8,) on its device: how many values are finite, not
    finite, and zero; Σ(x − s) and Σ(x − s)² over the finite values x; the least and the largest of them; and s.

    The shift s is one of the values: taken away first, it keeps the variance exact beside a large mean. Where
    `quick_sums` will do, it is 0.
    """
    module, x = xp(array), flat(array)
    if x.size == 0:
        return module.zeros(8)
    if x.dtype.kind != "f":
        x = x.astype("float64")
    shift = module.zeros(1, dtype=x.dtype)
    blocks = cut(x)
    parts: list[Any] = [quick_sums(x[block]) for block in blocks] if may_be_quick(x) else [None]
    if None in parts:
        shift = module.where(module.isfinite(x[:1]), x[:1], shift)
        parts = [exact_sums(x[block], shift) for block in blocks]
    if device_of(x) != "cpu":
        parts = [module.stack([module.asarray(number, dtype="float64") for number in part]) for part in parts]
        parts = module.stack(parts)
    table = module.asarray(parts, dtype="float64")  # (blocks, 7)
    totals = table[:, :5].sum(axis=0), table[:, 5:6].min(axis=0), table[:, 6:7].max(axis=0), shift.astype("float64")
    return module.concatenate(totals)


def quick_sums(block: Array) -> tuple[Any, ...] | None:
    """The first seven of the eight numbers for s = 0, of a block of float32, in float32; its rounding is that of one
    value. None where it would show: in squares out of range, and in the variance beside a large mean."""
    least, largest = block.min(), block.max()
    if not TINY < max(-least, largest) < 1 / TINY:  # nor is NaN
        return None
    first, second = float(block @ ONES[: block.size]), float(block @ block)  # BLAS sums in half of NumPy's time
    if first * first > block.size * second / 2:
        return None
    return block.size, 0, np.count_nonzero(block == 0), first, second, least, largest


def exact_sums(block: Array, shift: Array) -> tuple[Any, ...]:
    """The first seven of the eight numbers, of any block, in float64."""
    module, values, count = xp(block), block, block.size
    least, largest, zeros = values.min(), values.max(), module.count_nonzero(values == 0)
    on_host = device_of(block) == "cpu"
    if not on_host or not (math.isfinite(least) and math.isfinite(largest)):  # asking a GPU would be waiting
        finite = module.isfinite(values)
        values, count = module.where(finite, values, shift), module.count_nonzero(finite)
        least, largest = values.min(), values.max()
    centred = values.astype("float64")
    centred -= shift
    return count, block.size - count, zeros, centred.sum(), centred @ centred, least, largest


@np.errstate(over="ignore", invalid="ignore")
def cosine(first: Array, second: Array) -> Array:
    """a·b / (|a| |b|) of two arrays of one shape, as float64 (1,) on their device. NaN where one is all zero, or
    has a value that is not finite."""
    module = xp(first)
    a, b = vectors(first, second)
    quick = may_be_quick(a)

    def products(block: slice) -> tuple[Any, ...]:
        x, y = a[block], b[block]
        if quick:
            found = x @ y, x @ x, y @ y
            if all(TINY < square < 1 / TINY for square in found[1:]):
                return tuple(map(float, found))
        x, y = x.astype("float64"), y.astype("float64")
        return x @ y, x @ x, y @ y

    parts = [products(block) for block in cut(a)]
    columns = [sum(column, module.zeros(1)) for column in zip(*parts, strict=True)]
    return columns[0] / module.sqrt(columns[1] * columns[2]) if parts else module.full(1, math.nan)


def vectors(first: Array, second: Array) -> tuple[Array, Array]:
    """Two arrays of one shape as vectors, in the order in which the first lies in memory."""
    order = memory_order(first)
    return first.transpose(order).reshape(-1), second.transpose(order).reshape(-1)


def may_be_quick(vector: Array) -> bool:
    """Whether to try float32, for speed: in a large vector on the CPU. (On a GPU, to ask how it went is to wait.)"""
    return bool(vector.dtype == "float32" and device_of(vector) == "cpu" and len(cut(vector)) > 1)


def cut(vector: Array) -> list[slice]:
    """Blocks that stay in the cache while they are looked at several times."""
    step = BLOCK_BYTES[device_of(vector)] // SCRATCH_BYTES
    return [slice(start, start + step) for start in range(0, vector.size, step)]


def finish(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """From rows of `sums`, (…, 8), to rows of STATISTICS, (…, 6)."""
    finite, nonfinite, zeros, first, second, least, largest, shift = np.moveaxis(sums, -1, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # 0/0: there is no value to speak of
        offset = first / finite
        mean, variance = shift + offset, np.maximum(second / finite - offset**2, 0)
        size = finite + nonfinite
        abs_max = np.where(finite > 0, np.maximum(largest, -least), np.nan)
        columns = mean, np.sqrt(variance), np.sqrt(variance + mean**2), abs_max, zeros / size, nonfinite / size
    return np.stack(columns, axis=-1)
