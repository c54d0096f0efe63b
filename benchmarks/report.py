"""What a run found, in every form: tables for the terminal and as Markdown, every number as CSV, charts."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contest import Result, exponent, spread
from tinyres.files import atomic_write, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2**20
SETTINGS = ("OPENBLAS_", "OMP_", "GOMP_", "MKL_", "ONEDNN_", "DNNL_")  # that change what is measured
Table = tuple[Sequence[str], list[Sequence[str]]]  # a header and rows

LEGEND = """\
A round takes one step of each contestant in turn; ms is the median of the rounds. The ratio is that of a round's two
times, its median and in brackets its smallest and largest; below 1, the contestant is faster than PyTorch. PyTorch is
eager and runs in NCHW and channels-last memory; the faster of the two counts in each round, the thriftier in memory.
Floor: a square float32 matrix product, timed in the same rounds, scaled to the step's multiply-adds. MiB: the
process's peak, and in brackets what lies beyond its imports; on a GPU, what its pool took from the GPU."""


def machine() -> list[str]:
    """The processor, how many of its cores this process may use and how busy they are, and settings of libraries."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    processor = (names or [platform.machine()])[0]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    settings = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(SETTINGS)]
    return [f"{processor}, {cores} cores, load {load:.1f} before the run, {platform.system()}", *settings]


def head(results: Iterable[Result], state: Sequence[str]) -> list[str]:
    """Lines that say where, with what and how this was measured, and who could not take part."""
    versions = dict.fromkeys(who for result in results for who in result.who.values())
    failures = dict.fromkeys(f"not in {r.contest.name}: {why}" for r in results for why in r.failed.values())
    return [*state, *versions, *failures]


def tables(results: Sequence[Result]) -> Iterator[tuple[str, Table]]:
    """Each group's name and table."""
    for group in dict.fromkeys(result.contest.group for result in results):
        mine = [result for result in results if result.contest.group == group]
        yield group, (laws if group == "scaling" else ratios)(mine)


def ratios(results: Sequence[Result]) -> Table:
    """A row for each contestant of each contest, beside PyTorch and the floor."""
    header = ("", "threads", "", "ms", "PyTorch, ms", "/ PyTorch", "floor, ms", "MiB", "PyTorch, MiB")
    rows: list[Sequence[str]] = []
    for result in results:
        name, threads = result.contest.name, str(result.contest.threads)
        for rival in rivals(result):
            ratio = str(spread(result.ratios(rival))) if result.rounds("PyTorch") else "–"
            times = [milliseconds(result, family) for family in (rival, "PyTorch", "GEMM floor")]
            peaks = [memory(result, family) for family in (rival, "PyTorch")]
            rows.append((name, threads, rival, *times[:2], ratio, times[2], *peaks))
    return header, rows


def rivals(result: Result) -> list[str]:
    """All but PyTorch and the floor."""
    return [family for family in result.families() if family not in ("PyTorch", "GEMM floor")]


def milliseconds(result: Result, family: str) -> str:
    seconds = result.rounds(family)
    median = 1e3 * spread(seconds or [0]).median
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"


def memory(result: Result, family: str) -> str:
    peak, beyond = result.peak(family) if result.rounds(family) else (0, 0)
    return f"{peak / MIB:.0f} ({beyond / MIB:.0f})"


class Growth:
    """How time and memory grow with the size, from a scaling contest, whose entries are named by it."""

    def __init__(self, result: Result) -> None:
        self.sizes = [float(name) for name in result.seconds]
        self.times = [spread(seconds).median for seconds in result.seconds.values()]
        self.bytes = [result.peak(name)[1] for name in result.seconds]  # beyond the imports
        self.time = spread([exponent(self.sizes, seconds) for seconds in zip(*result.seconds.values(), strict=True)])
        self.memory = exponent(self.sizes, self.bytes)


def laws(results: Sequence[Result]) -> Table:
    """A row for each law: the sizes, and the fitted exponents."""
    header = ("cost against", "threads", "sizes", "time ∝ size to the", "memory ∝ size to the")
    rows: list[Sequence[str]] = []
    for result in results:
        growth = Growth(result)
        sizes = ", ".join(f"{size:g}" for size in growth.sizes)
        rows.append((result.contest.name, str(result.contest.threads), sizes, str(growth.time), f"{growth.memory:.2f}"))
    return header, rows


def markdown(results: Sequence[Result], state: Sequence[str]) -> str:
    lines = ["# Benchmarks", "", *(f"- {line}" for line in head(results, state)), "", LEGEND]
    for group, (header, rows) in tables(results):
        ruler = ["---"] * len(header)
        lines += ["", f"## {group.capitalize()}", "", *(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))]
    return "\n".join(lines) + "\n"


ROUNDS = ("group", "contest", "threads", "contestant", "round", "seconds", "peak_bytes", "import_bytes")


def rounds(results: Iterable[Result]) -> Iterator[Sequence[Any]]:
    """A row for each turn of each contestant; the memory, which is that of all its turns, is on each."""
    for result in results:
        contest = result.contest
        for name, times in result.seconds.items():
            imported, peak = result.memory[name]
            for count, seconds in enumerate(times, start=1):
                yield contest.group, contest.name, contest.threads, name, count, seconds, peak, imported


def save(folder: Path, results: Sequence[Result], state: Sequence[str]) -> list[Path]:
    """Write rounds.csv and report.md; returns their paths."""
    paths = [folder / "rounds.csv", folder / "report.md"]
    write_csv(paths[0], ROUNDS, rounds(results))
    with atomic_write(paths[1]) as file:
        file.write(markdown(results, state))
    return paths


def draw(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write a chart for each group that has one; returns the paths."""
    from tinyres.flow.style import save_figure

    paths = []
    for group in dict.fromkeys(result.contest.group for result in results):
        mine = [result for result in results if result.contest.group == group]
        if group == "scaling":
            figure = lines(mine)
        elif any(result.ratios("tinyres") for result in mine):
            figure = bars(mine)
        else:
            continue
        paths.append(folder / f"{group}.png")
        save_figure(figure, paths[-1])
    return paths


def threads_of(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


HATCHES = ("", "///", "...", "xxx")  # tell contestants apart in grey, as the shade tells numbers of threads apart


def bars(results: Sequence[Result]) -> Figure:
    """A bar for each contestant of each contest: to the right how much slower than PyTorch, to the left how much
    faster."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    from tinyres.flow.style import COLOURS, faded

    results = [result for result in results if result.ratios("tinyres")]
    names = list(dict.fromkeys(rival for result in results for rival in rivals(result)))
    threads = sorted({result.contest.threads for result in results})
    shades = dict(zip(threads, np.linspace(1, 0.4, len(threads))[::-1], strict=True))
    figure, ax = plt.subplots(layout="constrained")
    y, ticks = 0.0, {}
    for contest, of_contest in groupby(results, lambda result: result.contest.name):
        top = y
        for result in of_contest:
            count, floor = result.contest.threads, result.ratios("GEMM floor")
            for rival in rivals(result):
                median, low, high = spread(result.ratios(rival))
                ax.barh(
                    y,
                    median - 1,
                    left=1,
                    height=0.85,
                    xerr=[[median - low], [high - median]],
                    color=faded(COLOURS[names.index(rival)], shades[count]),
                    hatch=HATCHES[names.index(rival)],
                    edgecolor="white",
                    error_kw=dict(linewidth=1, capsize=2),
                    label=rival if len(threads) == 1 else f"{rival}, {threads_of(count)}",
                )
                ax.annotate(f"{median:.2f}", (max(1, high), y), (5, 0), textcoords="offset points", va="center", size=8)
                if floor:
                    at = [spread(floor).median] * 2
                    ax.plot(at, [y - 0.42, y + 0.42], color="black", linewidth=2.5, label="GEMM floor")
                y += 1
        ticks[contest] = (top + y - 1) / 2
        y += 0.8
    suffix = f", {threads_of(threads[0])}" if len(threads) == 1 else ""
    ax.set(xscale="log", xlabel=f"time / PyTorch's time in the same round{suffix}")
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, 0.5), max(1.2 * right, 2))  # room for the numbers
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yticks(list(ticks.values()), list(ticks))
    ax.set_ylim(y - 1, -0.8)
    ax.tick_params(axis="y", length=0)
    ax.axvline(1, color="black", linewidth=1)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.set_size_inches(9, 1.5 + 0.24 * y)
    return figure


def lines(results: Sequence[Result]) -> Figure:
    """Time and memory against each size, on logarithmic axes, and the line whose slope is the exponent."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    from tinyres.flow.style import COLOURS, MARKERS

    names = list(dict.fromkeys(result.contest.name for result in results))
    threads = sorted({result.contest.threads for result in results})
    figure, axes = plt.subplots(2, len(names), figsize=(1 + 4 * len(names), 6.5), layout="constrained", squeeze=False)
    for result in results:
        growth, column, look = Growth(result), names.index(result.contest.name), threads.index(result.contest.threads)
        rows = (
            ("milliseconds a step", 1e3 * np.array(growth.times), growth.time.median),
            ("MiB beyond the imports", np.array(growth.bytes) / MIB, growth.memory),
        )
        for row, (unit, values, power) in enumerate(rows):
            ax, sizes = axes[row, column], np.array(growth.sizes)
            level = np.exp(np.mean(np.log(values) - power * np.log(sizes)))
            count = f"{result.contest.threads} thread{'s' if result.contest.threads > 1 else ''}"
            ax.plot(sizes, values, MARKERS[look], color=COLOURS[look], label=f"{count}: ∝ size^{power:.2f}")
            ax.plot(sizes, level * sizes**power, color=COLOURS[look], linewidth=1.2)
            ax.set(xscale="log", yscale="log", xlabel=result.contest.name, ylabel=unit if column == 0 else None)
            ax.margins(y=0.25)  # room for the legend
            ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_minor_locator(NullLocator())
            ax.grid(color="0.9")
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(loc="upper left", frameon=False)
    return figure
