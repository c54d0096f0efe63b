"""The floor: one square matrix product by NumPy's BLAS; no step of as many multiply-adds can be much faster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.contestants.inputs import random

VERSION = "the GEMM floor"


def product(size: int) -> Callable[[], object]:
    a, b, out = random(size, size), random(size, size), np.empty((size, size), np.float32)
    return lambda: np.matmul(a, b, out=out)
