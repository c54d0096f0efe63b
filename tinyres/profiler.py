"""Where the time and the memory of a piece of code go: a row for each operation, forward and backward.

The profiler stands between the operations and their kernels, and wraps each pullback that passes. It adds no operation
and touches no number, so results stay the same to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakValueDictionary, ref

from tinyres.autograd import Pullback, calling
from tinyres.backend import Array, device_of, is_array, xp
from tinyres.files import write_csv
from tinyres.threads import for_each, get_num_threads

# The operations made of dot products, with the name of their second factor, which says how long those are.
PRODUCTS = {"conv2d": "weight", "conv2d_add_relu": "weight", "linear": "weight", "matmul": "other"}

HEADER = "", "calls", "ms", "share", "forward", "backward", "G multiply-adds", "of GEMM rate", "MiB made", "MiB kept"


@contextlib.contextmanager
def profile(memory: bool = False) -> Iterator[Profile]:
    """Measure every operation inside the block, forward and backward.

    >>> with tinyres.profile() as p:
    ...     F.cross_entropy(model(x), y).backward()
    >>> print(p)

    On a GPU each operation is waited for, or its time would be counted as a later one's.

    memory: also find the most memory in use at once, by following all allocations of Python and NumPy. That makes the
        block up to three times slower: take the times from another profile. Memory on a GPU is not followed.

    Raises:
        RuntimeError: if `memory` is asked for and tracemalloc is tracing already.
    """
    if memory and tracemalloc.is_tracing():
        raise RuntimeError("profile: memory is True, but tracemalloc is tracing already, and it has only one peak")
    if memory:
        tracemalloc.start()
    measured = Profile()
    try:
        with calling(measured.call):
            yield measured
    finally:
        if memory:
            measured.peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        measured.finish()


@dataclasses.dataclass
class Row:
    """An operation on inputs of certain shapes, summed over its calls.

    Attributes:
        forward, backward: seconds.
        floor, backward_floor: seconds that its multiply-adds would take at the profile's `gemm_rate`.
        multiply_adds, backward_multiply_adds: of convolutions and matrix products.
        output_bytes: memory of the outputs; views take none.
        kept_bytes: memory kept for backward, each array counted for the first operation that keeps it. Weights and
            images, which are there anyway, do not count.
    """

    op: str
    shapes: str
    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    floor: float = 0.0
    backward_floor: float = 0.0
    multiply_adds: int = 0
    backward_multiply_adds: int = 0
    output_bytes: int = 0
    kept_bytes: int = 0

    @property
    def seconds(self) -> float:
        return self.forward + self.backward

    @classmethod
    def total(cls, op: str, rows: list[Row]) -> Row:
        """The sum of some rows."""
        return cls(op, "", *(sum(column) for column in list(zip(*map(dataclasses.astuple, rows), strict=True))[2:]))


class Profile:
    """What `profile` measured, complete once its block is left.

    Attributes:
        rows: one for each operation and shapes of its inputs, the slowest first.
        seconds: of the whole block.
        gemm_rate: multiply-adds a second of large matrix products, one on each thread at once; NaN where there was
            nothing to compare with it.
        peak_bytes: the most memory in use at once, of what was allocated inside the block; None if not asked for.
    """

    def __init__(self) -> None:
        self.seconds, self.gemm_rate = 0.0, math.nan
        self.peak_bytes: int | None = None
        self._rows: dict[tuple[str, str], Row] = {}
        self._gpu: Any = None  # its array module, once an array on it was seen
        self._factor: tuple[Any, Any] | None = None  # array module and dtype of what was multiplied
        # The owners of memory by id, as long as they live: that of outputs, and that which counts as kept.
        self._outputs: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._kept: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._latest: tuple[Row, ref[Any], set[int]] | None = None  # a call whose pullback was not looked at yet
        self._open, self._start = True, time.perf_counter()

    @property
    def rows(self) -> list[Row]:
        return sorted(self._rows.values(), key=lambda row: row.seconds, reverse=True)

    @property
    def outside(self) -> float:
        """Seconds spent in no operation: in Python, the optimiser, and whatever else the block did."""
        return self.seconds - sum(row.seconds for row in self.rows)

    # What it shows

    def __str__(self) -> str:
        return self.table()

    def table(self, by: str = "op") -> str:
        """A line for each "op", or for each operation and "shapes" of its inputs; times in milliseconds.

        "of GEMM rate": how fast the multiply-adds were, forward and backward, beside those of a large product; in the
        last line, what part of the whole time they would take at that rate.
        """
        if by not in ("op", "shapes"):
            raise ValueError(f"table: by is {by!r}, expected 'op' or 'shapes'")
        rows = self.rows
        if by == "op":
            rows = [Row.total(op, [row for row in rows if row.op == op]) for op in {row.op: None for row in rows}]
            rows.sort(key=lambda row: row.seconds, reverse=True)
        total = Row.total("total", rows)
        outside = milliseconds(self.outside), percent(self.outside, self.seconds)
        lines = [
            HEADER,
            *(
                self._line(r, r.seconds, percent(r.floor, r.forward), percent(r.backward_floor, r.backward))
                for r in rows
            ),
            ("outside operations", "", *outside, *[""] * 6),
            self._line(total, self.seconds, percent(total.floor + total.backward_floor, self.seconds)),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip() for name, *cells in lines
        ]
        if self.peak_bytes is not None:
            text.append(f"at most {mebibytes(self.peak_bytes)} MiB in use at once")
        return "\n".join(text)

    def _line(self, row: Row, seconds: float, *of_gemm_rate: str) -> tuple[str, ...]:
        products = row.multiply_adds + row.backward_multiply_adds
        return (
            f"{row.op} {row.shapes}".rstrip(),
            f"{row.calls:,}",
            milliseconds(seconds),
            percent(seconds, self.seconds),
            milliseconds(row.forward),
            milliseconds(row.backward),
            f"{products / 1e9:.3f}" if products else "",
            " ".join(of_gemm_rate) if products else "",
            mebibytes(row.output_bytes),
            mebibytes(row.kept_bytes),
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as CSV, a header first: seconds, bytes, counts."""
        write_csv(path, [field.name for field in dataclasses.fields(Row)], map(dataclasses.astuple, self.rows))

    # How it measures

    def call(self, call: Callable[..., tuple[Array, Pullback]], kernel: Any, *arrays: Any, **options: Any) -> Any:
        """Call a kernel. Returns its output and its pullback, wrapped."""
        self._count_kept()
        inputs = [value for value in (*arrays, *options.values()) if is_array(value)]
        self._gpu = next((xp(array) for array in inputs if device_of(array) == "cuda"), self._gpu)
        (output, pullback), seconds = self._timed(call, kernel, *arrays, **options)

        op, shapes = kernel.__name__, ", ".join("×".join(map(str, array.shape)) or "1" for array in inputs)
        row = self._rows.setdefault((op, shapes), Row(op, shapes))
        row.calls += 1
        row.forward += seconds
        products: dict[int, int] = {}  # multiply-adds of the gradient by each factor, which is a product again
        if op in PRODUCTS:
            position = list(inspect.signature(kernel).parameters).index(PRODUCTS[op])
            second = arrays[position] if position < len(arrays) else options[PRODUCTS[op]]
            products = dict.fromkeys((0, position), multiply_adds(op, output.shape, second.shape))
            row.multiply_adds += products[0]
            self._factor = xp(second), second.dtype
        owners = {id(owner(array)) for array in inputs}
        if is_array(output):
            row.output_bytes += 0 if id(owner(output)) in owners else output.nbytes
            self._outputs[id(owner(output))] = owner(output)
        wrapped = functools.partial(self._pull, row, products, pullback)
        self._latest = row, ref(wrapped), owners
        return output, wrapped

    def _pull(self, row: Row, products: dict[int, int], pullback: Pullback, dy: Array) -> Any:
        """Run a pullback. What it gives as functions is measured when those are called."""
        self._count_kept()
        parts = self._backward(row, 0, pullback, dy)
        if callable(parts):
            return functools.partial(self._gradients, row, products, parts)
        if not isinstance(parts, tuple):
            return parts
        return tuple(
            functools.partial(self._backward, row, products.get(position, 0), part) if callable(part) else part
            for position, part in enumerate(parts)
        )

    def _gradients(self, row: Row, products: dict[int, int], gradients: Callable[..., Any], needed: list[bool]) -> Any:
        """Run a function that gives all the gradients that are needed."""
        wanted = sum(count for position, count in products.items() if needed[position])
        return self._backward(row, wanted, gradients, needed)

    def _backward(self, row: Row, products: int, function: Callable[..., Any], *dy: Array) -> Any:
        if not self._open:  # the block was left before
            return function(*dy)
        result, seconds = self._timed(function, *dy)
        row.backward += seconds
        row.backward_multiply_adds += products
        return result

    def _timed(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, float]:
        self._wait()
        start = time.perf_counter()
        result = function(*arguments, **options)
        self._wait()
        return result, time.perf_counter() - start

    def _wait(self) -> None:
        if self._gpu is not None:
            self._gpu.cuda.Device().synchronize()

    def _count_kept(self) -> None:
        """Count what the latest pullback holds, if it is still there now that something else happens."""
        if self._latest is None:
            return
        (row, pullback, inputs), self._latest = self._latest, None
        for array in reachable(pullback()):
            key = id(array)
            if key not in self._kept and (key in self._outputs or key not in inputs):
                self._kept[key] = array
                row.kept_bytes += array.nbytes

    def finish(self) -> None:
        """The block is left."""
        self._wait()
        self.seconds = time.perf_counter() - self._start
        self._count_kept()
        self._open = False
        if self._factor is not None:
            self.gemm_rate = self._large_products(*self._factor)
            for row in self._rows.values():
                row.floor = row.multiply_adds / self.gemm_rate
                row.backward_floor = row.backward_multiply_adds / self.gemm_rate

    def _large_products(self, module: Any, dtype: Any, size: int = 1024, rounds: int = 5) -> float:
        """Multiply-adds a second of square products, one on each thread at once, in the best of some rounds."""
        factor = module.ones((size, size), dtype=dtype)
        results = [module.empty_like(factor) for _ in range(get_num_threads())]

        def multiply(result: Array) -> None:
            module.matmul(factor, factor, out=result)

        seconds = min(self._timed(for_each, multiply, results, factor)[1] for _ in range(rounds))
        return len(results) * size**3 / seconds


def multiply_adds(op: str, output: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Multiply-adds behind an output of that shape, each number of which is a dot product. second: the shape of a
    weight (O, …), or for "matmul" of the other matrix (…, K, N)."""
    return math.prod(output) * (second[-2] if op == "matmul" else math.prod(second[1:]))


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f}"


def percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if part and whole else ""


def owner(array: Array) -> Array:
    """The array whose memory this one looks at."""
    while is_array(array.base):
        array = array.base
    return array


def reachable(value: Any) -> Iterator[Array]:
    """The owners of all memory that a pullback holds: in its cells, and in what is in those."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, ModuleType | type):
            continue
        seen.add(id(value))
        if is_array(value):
            yield owner(value)
        elif isinstance(value, FunctionType):
            waiting += [cell.cell_contents for cell in value.__closure__ or ()]
        elif isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, tuple | list):
            waiting += value
        else:
            waiting += getattr(value, "__dict__", {}).values()
