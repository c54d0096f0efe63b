"""How the magnitudes of an array are spread: 64 counts, one for each power of two.

The exponent of a floating-point number is its magnitude on a log scale, ready to be counted. Bin k counts the values
with 2^(k − 48) ≤ |x| < 2^(k − 47): from 3.6e-15 to 6.6e4, smaller ones in the first bin and larger ones in the last.
Zeros, NaN and infinities are in none. Histograms of two arrays are merged by adding them.
"""

from __future__ import annotations

import numpy as np

from tinyres.backend import Array, device_of, flat, xp
from tinyres.flow.sample import sample

BINS, LOWEST = 64, -48  # how many, and the exponent of the first

RUNS, LENGTH = 509, 16  # of a large array so many runs of neighbours are counted

# dtype: the integers to read it as, the bits after its exponent, how many exponents there are, which of them stands
# for 2^0 (IEEE 754).
FORMATS = {"float32": ("uint32", 23, 1 << 8, 127), "float64": ("uint64", 52, 1 << 11, 1023)}


def histogram(array: Array) -> Array:
    """The counts of `array`'s values by magnitude, (64,), on its device; on a GPU nothing waits for them.

    array: any shape, dtype and memory order. Of more than 8,144 values so many are counted, evenly spaced: 509
    runs of 16 neighbours in memory.
    """
    module, x = xp(array), sample(flat(array), RUNS, LENGTH)
    if x.dtype.name not in FORMATS:
        x = x.astype("float32" if x.dtype == "float16" else "float64")
    integers, bits, exponents, zero = FORMATS[x.dtype.name]
    exponent = (x.view(integers) >> bits) & (exponents - 1)
    if device_of(x) == "cpu":
        counts = module.bincount(exponent.astype(np.intp), minlength=exponents)
    else:  # where bincount would wait, to learn the largest exponent
        counts = module.zeros(exponents)
        module.add.at(counts, exponent.astype("int64"), 1.0)
    first = zero + LOWEST
    bins = counts[first : first + BINS].copy()
    bins[:1] += counts[:first].sum() - module.count_nonzero(x == 0)  # exponent 0: zero itself, and what is next to it
    bins[-1:] += counts[first + BINS : -1].sum()  # the last exponent: NaN and infinity
    return bins


def to_text(counts: np.ndarray) -> str:
    """The bins that are not empty as "exponent:count" pairs, such as "-12:34 -11:50"."""
    return " ".join(f"{k + LOWEST}:{counts[k]}" for k in np.flatnonzero(counts))
