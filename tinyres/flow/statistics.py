"""Six numbers that say what an array is like, found in one walk over it, in float64.

The walk is done where the array lives and ends in eight numbers there, a few bytes; the six numbers are worked out
from those later, on the host, for many arrays at once. So watching a GPU does not wait for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyres.backend import Array, device_of, flat, to_host, xp
from tinyres.threads import BLOCK_BYTES

STATISTICS = ("mean", "std", "rms", "abs_max", "zero_fraction", "nonfinite_fraction")

SCRATCH_BYTES = 16  # for each element of a block


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

    The shift s is one of the values: taken away first, it keeps the variance exact beside a large mean.
    """
    module, host = xp(array), device_of(array) == "cpu"
    x = flat(array)
    if x.size == 0:
        return module.zeros(8)
    if x.dtype.kind != "f":
        x = x.astype("float64")
    shift = module.where(module.isfinite(x[:1]), x[:1], module.zeros_like(x[:1]))  # (1,)
    parts = []
    step = BLOCK_BYTES[device_of(x)] // SCRATCH_BYTES
    for start in range(0, x.size, step):
        block = x[start : start + step]
        values = block
        count, zeros = values.size, module.count_nonzero(values == 0)
        least, largest = values.min(), values.max()
        if not host or not (math.isfinite(least) and math.isfinite(largest)):  # asking a GPU would be waiting
            finite = module.isfinite(values)
            values, count = module.where(finite, values, shift), module.count_nonzero(finite)
            least, largest = values.min(), values.max()
        centred = values.astype("float64")
        centred -= shift
        parts += [count, block.size - count, zeros, centred.sum(), centred @ centred, least, largest]
    if not host:
        parts = module.stack([module.asarray(part, dtype="float64") for part in parts])
    table = module.asarray(parts, dtype="float64").reshape(-1, 7)  # a row for each block
    totals = table[:, :5].sum(axis=0), table[:, 5:6].min(axis=0), table[:, 6:7].max(axis=0), shift.astype("float64")
    return module.concatenate(totals)


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
