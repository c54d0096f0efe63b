"""All that a record says of an array, in one vector that stays on the array's device until somebody reads it."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from tinyres.backend import Array, flat, xp
from tinyres.flow.histogram import BINS, histogram
from tinyres.flow.sample import sample
from tinyres.flow.statistics import cosine, finish, sums, vectors

WIDTH = 8 + 1 + BINS  # what `sums` finds, a cosine, the histogram


def measure(array: Array) -> Array:
    """`array` as float64 (WIDTH,), on its device. The cosine is NaN: there is nothing to compare with."""
    module = xp(array)
    return module.concatenate([sums(array), module.full(1, np.nan), histogram(array).astype("float64")])


def with_cosine(measured: Array, value: Array) -> Array:
    """A copy of what was measured, with a cosine."""
    measured = measured.copy()
    measured[8:9] = value
    return measured


def read(measured: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """From (R, WIDTH), on the host, to STATISTICS (R, 6), cosines (R,) and histograms uint32 (R, 64)."""
    return finish(measured[:, :8]), measured[:, 8], np.nan_to_num(measured[:, 9:]).astype(np.uint32)


RUNS, LENGTH = 4096, 32  # of a large array so many runs of neighbours are looked at: 131,072 values


class Measurements:
    """Measures each array once: all of it where `exact`, else a sample. A signal passes several places unchanged: what
    a norm gives is what is added, and an addition hands the same gradient to both sides. It holds no array, and knows
    each for as long as it lives."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self._known: dict[int, tuple[weakref.ref[Any], Array]] = {}

    def of(self, array: Array) -> Array:
        """`measure(array)`, perhaps from an earlier time: only for arrays that nobody writes to between."""
        reference, measured = self._known.get(id(array), (None, None))
        if reference is None or reference() is not array:
            measured = measure(self._seen(flat(array)))
            self._known[id(array)] = weakref.ref(array), measured
        return measured

    def of_pair(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Both, with the cosine between them."""
        value = cosine(*map(self._seen, vectors(first, second)))
        return with_cosine(self.of(first), value), with_cosine(self.of(second), value)

    def _seen(self, vector: Array) -> Array:
        return vector if self.exact else sample(vector, RUNS, LENGTH)
