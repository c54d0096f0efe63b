"""One layer of threads: ours.

NumPy lets go of the interpreter's lock while it computes, so plain threads can each take a share of a kernel's blocks
through all of its steps: columns, product, write-back. BLAS's own threads would only help with the product, and go on
spinning after it, where they slow down everything else. So the first kernel that has blocks to share out limits BLAS
to one thread, in this process and for good, and uses as many threads of its own as BLAS had: the number of cores, or
what OMP_NUM_THREADS or OPENBLAS_NUM_THREADS say. Without threadpoolctl nothing is limited and nothing shared out.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from tinyres.backend import Array, device_of

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

_threads = 0  # 0: not decided yet
_pool: ThreadPoolExecutor | None = None


def get_num_threads() -> int:
    """How many threads share the blocks of a kernel on the CPU."""
    return _threads or set_num_threads(0)


def set_num_threads(threads: int) -> int:
    """Share the blocks of CPU kernels among so many threads; 0 for as many as BLAS has. Returns the number.

    Limits BLAS to one thread, except for 1 thread decided by BLAS's own setting. Results are the same to the bit for
    the same number of threads; between different numbers, sums may differ by rounding.
    """
    from concurrent.futures import ThreadPoolExecutor  # here, since importing tinyres should take no time

    global _threads, _pool
    if threads < 0:
        raise ValueError(f"set_num_threads: threads is {threads}, expected 1 or more, or 0 for as many as BLAS has")
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        threads = threads or 1
    else:
        blas = ThreadpoolController().select(user_api="blas")
        threads = threads or max((library.num_threads for library in blas.lib_controllers), default=1)
        if threads > 1:
            blas.limit(limits=1)
    if _pool is not None:
        _pool.shutdown()
    _pool = ThreadPoolExecutor(threads - 1, "tinyres") if threads > 1 else None  # the caller works, too
    _threads = threads
    return threads


def in_parallel(work: Callable[[list[slice]], T], blocks: Iterable[slice], array: Array) -> list[T]:
    """Call `work(share)` with each thread's share of `blocks`, neighbouring ones together; the results in order.

    Where `array` is on a GPU, or there is one thread or one block, that is a single call.
    """
    blocks = list(blocks)
    # Decided also where it does not matter yet, so that BLAS rounds the same way in the first step as in all others.
    threads = min(get_num_threads(), len(blocks)) if device_of(array) == "cpu" else 1
    if threads == 1 or _pool is None:
        return [work(blocks)]
    ends = [len(blocks) * thread // threads for thread in range(threads + 1)]
    # Each in a copy of the caller's context: np.errstate holds in all threads.
    futures = [
        _pool.submit(contextvars.copy_context().run, work, blocks[ends[t] : ends[t + 1]]) for t in range(1, threads)
    ]
    first = work(blocks[: ends[1]])
    return [first, *(future.result() for future in futures)]


def _forget_pool() -> None:
    """In a forked child the pool's threads do not exist: make new ones when they are needed."""
    global _threads, _pool
    _threads, _pool = 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
