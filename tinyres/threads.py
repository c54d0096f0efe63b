"""How kernels use the machine: blocks that stay in the cache, shared among threads of our own, in memory that is kept.

NumPy lets go of the interpreter's lock while it computes, so plain threads can each take a share of a kernel's blocks
through all of its steps: columns, product, write-back. BLAS's own threads would only help with the product, and go on
spinning after it, where they slow down everything else. So the first kernel that has blocks to share out limits BLAS
to one thread, in this process and for good, and uses as many threads of its own as BLAS had: the number of cores, or
what OMP_NUM_THREADS or OPENBLAS_NUM_THREADS say. Without threadpoolctl nothing is limited and nothing shared out.

It also asks the C library to keep memory that is freed. A training step frees hundreds of megabytes and asks for them
again; in between, glibc would give them back to the system, which hands out zeroed pages, one fault each.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import itertools
import operator
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from tinyres.backend import Array, device_of, flat, xp

T = TypeVar("T")
B = TypeVar("B")

# How much memory the items of a block may fill: on a CPU what stays in the cache, on a GPU what keeps its cores busy.
BLOCK_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}
# Below so many bytes a block is worked on sooner than it is handed to another thread.
WORTH_SHARING = 256 << 10
# And a matrix product of fewer multiply-adds is made sooner.
WORTH_SHARING_PRODUCTS = 4 << 20

_threads = 0  # 0: not decided yet
_tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()  # for the threads beside the caller's


def get_num_threads() -> int:
    """How many threads share the blocks of a kernel on the CPU."""
    return _threads or set_num_threads(0)


def set_num_threads(threads: int) -> int:
    """Share the blocks of CPU kernels among so many threads; 0 for as many as BLAS has. Returns the number.

    Limits BLAS to one thread. Results are the same to the bit for the same number of threads; between different
    numbers, sums may differ by rounding.
    """
    global _threads, _tasks
    if threads < 0:
        raise ValueError(f"set_num_threads: threads is {threads}, expected 1 or more, or 0 for as many as BLAS has")
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        threads = threads or 1
    else:
        blas = ThreadpoolController().select(user_api="blas")
        threads = threads or max((library.num_threads for library in blas.lib_controllers), default=1)
        blas.limit(limits=1)
    keep_freed_memory()
    for _ in range(_threads - 1):
        _tasks.put(None)
    _threads, _tasks = threads, queue.SimpleQueue()
    for _ in range(threads - 1):  # the caller works, too
        threading.Thread(target=serve, args=(_tasks,), name="tinyres", daemon=True).start()
    return threads


def serve(tasks: queue.SimpleQueue[Any]) -> None:
    """What a thread beside the caller's does until it gets None."""
    for task in iter(tasks.get, None):
        task()
        del task  # which holds memory, or might


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next array. Only glibc needs to be asked, and can be."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
    mallopt(trim_threshold, -1)  # never give the end of the heap back,
    mallopt(mmap_max, 0)  # and have large arrays on the heap, too


def block_size(count: int, bytes_each: int, array: Array, budget: int = 0, turns: int = 2) -> int:
    """How many of `count` items make a block: as many as `BLOCK_BYTES`, or `budget` if that is more, can hold, and on
    the CPU few enough for each thread to get `turns` that are `WORTH_SHARING`."""
    bytes_each = max(1, bytes_each)
    fitting = max(BLOCK_BYTES[device_of(array)], budget) // bytes_each
    if device_of(array) == "cuda":
        return max(1, fitting)
    share = -(-count // (turns * get_num_threads()))
    return max(1, min(fitting, max(share, WORTH_SHARING // bytes_each)))


def blocks(count: int, bytes_each: int, array: Array) -> Iterator[slice]:
    """Cut ``range(count)`` into slices of `block_size`."""
    step = block_size(count, bytes_each, array)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def for_each(step: Callable[[B], T], blocks: Iterable[B], array: Array) -> list[T]:
    """`step(block)` for all blocks, in their order. Each thread takes the next one as soon as it is free, so that one
    which is late, or kept from its work, keeps nobody waiting. On a GPU there is one thread."""
    blocks = list(blocks)
    results: list[T | None] = [None] * len(blocks)
    rest = iter(range(len(blocks)))  # shared by all threads
    job = [(step, blocks, results)]
    errors: list[BaseException] = []

    def work() -> None:
        for index in rest:
            step, blocks, results = job[0]
            results[index] = step(blocks[index])

    def help(at_work: threading.Lock) -> None:
        if at_work.acquire(blocking=False):  # else the caller is done already
            try:
                work()
            except BaseException as error:
                errors.append(error)
            finally:
                at_work.release()

    helpers = [threading.Lock() for _ in range(threads_for(len(blocks), array) - 1)]
    for helper in helpers:  # each in a copy of the caller's context: np.errstate holds in all threads
        _tasks.put(functools.partial(contextvars.copy_context().run, help, helper))
    try:
        work()
    finally:
        for helper in helpers:
            helper.acquire()  # those that began are waited for; one that wakes up later finds the lock taken,
        job.clear()  # and should hold no memory till then
    for error in errors:
        raise error
    return results  # type: ignore[return-value]


def for_sum(
    step: Callable[[B], Array],
    blocks: Iterable[B],
    array: Array,
    sum_bytes: int,
    finish: Callable[[Array], Array] = lambda sum: sum,
) -> Array:
    """Σ step(block), of arrays of so many bytes, to the same bit each time: neighbouring blocks are added up by one
    thread, and those sums in order. There are as many as stay in the cache, at least one for each thread.
    finish: something linear that is still to be done to each."""
    blocks = list(blocks)
    threads = threads_for(len(blocks), array)
    count = threads * max(1, BLOCK_BYTES[device_of(array)] // max(1, threads * sum_bytes))

    def work(share: slice) -> Array:
        return finish(functools.reduce(operator.iadd, map(step, blocks[share])))

    return total(for_each(work, cut(len(blocks), count), array))


def shares(count: int, array: Array) -> list[slice]:
    """Cut ``range(count)`` into one slice for each thread."""
    return cut(count, threads_for(count, array))


def cut(count: int, pieces: int) -> list[slice]:
    """Cut ``range(count)`` into so many slices, none of them empty and all about as long."""
    pieces = min(count, pieces)
    ends = [count * piece // pieces for piece in range(pieces + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def threads_for(blocks: int, array: Array) -> int:
    # Asked also where it does not matter yet, so that BLAS rounds the same way in the first step as in all others.
    return min(get_num_threads(), blocks) if device_of(array) == "cpu" else 1


def blockwise(step: Callable[..., None], *arrays: Array) -> None:
    """Call `step(*parts)`, which changes arrays element by element, for blocks of them: the same part of each array.

    The arrays have one shape. Where they are small, on a GPU, or differ in their memory layout, that is a single call.
    """
    first = arrays[0]
    small = len(arrays) * first.nbytes <= WORTH_SHARING
    if small or device_of(first) == "cuda" or any(steps(array) != steps(first) for array in arrays):
        return step(*arrays)
    vectors = [flat(array) for array in arrays]
    if not np.may_share_memory(first, vectors[0]):  # a view with gaps: its vector is a copy
        return step(*arrays)

    parts = blocks(first.size, len(arrays) * first.itemsize, first)
    for_each(lambda block: step(*(vector[block] for vector in vectors)), parts, first)


def steps(array: Array) -> list[int]:
    """The strides of the axes along which there is a step to take: of the weight of a 1×1 convolution, two."""
    return [stride for stride, size in zip(array.strides, array.shape, strict=True) if size > 1]


def add(a: Array, b: Array, out: Array | None = None) -> Array:
    """a + b, of one shape, in `out` or a new array."""
    out = xp(a).empty_like(a) if out is None else out
    blockwise(lambda out, a, b: xp(a).add(a, b, out=out), out, a, b)
    return out


def matmul(a: Array, b: Array) -> Array:
    """a @ b, (M, K) @ (K, N) → (M, N): each thread makes some of the rows or, of a wide result, columns."""
    rows, columns = len(a), b.shape[1]
    if threads_for(max(rows, columns), a) == 1 or a.size * columns < WORTH_SHARING_PRODUCTS:
        return a @ b
    out: Array = np.empty((rows, columns), dtype=np.result_type(a, b))

    def work(share: slice) -> None:
        if rows >= columns:
            np.matmul(a[share], b, out=out[share])
        else:
            np.matmul(a, b[:, share], out=out[:, share])

    for_each(work, shares(max(rows, columns), out), out)
    return out


def copy(array: Array) -> Array:
    """An array of the same memory order, with the same numbers."""
    out = xp(array).empty_like(array)
    blockwise(lambda out, array: xp(out).copyto(out, array), out, array)
    return out


def total(parts: Iterable[Array]) -> Array:
    """The sum of arrays of one shape, made in the first of them."""
    return functools.reduce(lambda sum, part: add(sum, part, out=sum), parts)


def _forget_threads() -> None:
    """In a forked child the threads do not exist: make new ones when they are needed."""
    global _threads
    _threads = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
