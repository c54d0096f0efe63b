"""The floor: one square matrix product by NumPy's BLAS; no step of as many multiply-adds can be much faster.

BLAS's own threads spin for a while after each product, on the cores of whoever is next. So each thread here is a plain
one, and multiplies some of the rows.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.contestants.inputs import random

VERSION = "the GEMM floor"


def product(size: int) -> Callable[[], object]:
    from threadpoolctl import threadpool_limits

    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    threadpool_limits(1)
    pool = ThreadPoolExecutor(threads)
    a, b, out = random(size, size), random(size, size), np.empty((size, size), np.float32)
    ends = [size * thread // threads for thread in range(threads + 1)]
    rows = [slice(start, end) for start, end in itertools.pairwise(ends)]
    return lambda: list(pool.map(lambda some: np.matmul(a[some], b, out=out[some]), rows))
