"""How fast tinyres is, beside PyTorch and other NumPy frameworks, all in turn in one run.

    python -m benchmarks                          # everything
    python -m benchmarks training --rounds 15     # one group
    python -m benchmarks training --device cuda   # tinyres on CuPy and PyTorch, where there is a GPU
    python -m benchmarks training --python chainer=old/bin/python --python dezero=old/bin/python

Chainer and DeZero need an environment of their own, for an old NumPy, on Python 3.8 to 3.11:
``pip install "numpy<1.24" "setuptools<81" wheel matplotlib`` and ``pip install --no-build-isolation chainer dezero``.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report
from benchmarks.contest import WARM_UP_ROUNDS, Result, run
from benchmarks.programme import GROUPS, contests
from tinyres.cli import table

CORES = len(os.sched_getaffinity(0))
PEERS = ("torch", "chainer", "dezero")  # who may be missing
out = Console(width=max(Console().width, 144), highlight=False, markup=False, emoji=False)  # a table's row is one line


def main(
    groups: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(GROUPS)}; all by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each contest; 7, or 3 for --quick.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Of each contestant; 1 and all cores.")] = None,
    python: Annotated[list[str] | None, typer.Option(help="NAME=PATH: another interpreter for a contestant.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="For tinyres and PyTorch.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, on all cores, in two minutes.")] = False,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder to write to.")] = Path("runs/benchmarks"),
) -> None:
    """Time tinyres, PyTorch, Chainer and DeZero in turn, and print and save the ratios.

    Writes rounds.csv (every number), report.md (the tables) and a chart for each group.
    """
    groups = groups or [group for group in GROUPS if device == "cpu" or group != "startup"]
    for group in groups:
        if group not in GROUPS:
            raise typer.BadParameter(f"group is {group!r}, expected one of {', '.join(GROUPS)}")
        if device == "cuda" and group == "startup":
            raise typer.BadParameter("--device is cuda, expected cpu for the group startup, which runs on no GPU")
    pythons = {}
    for entry in python or ():
        name, _, path = entry.partition("=")
        if name not in PEERS or not path:
            raise typer.BadParameter(f"--python is {entry!r}, expected NAME=PATH, NAME of {', '.join(PEERS)}")
        pythons[name + "_"] = path
    available = {name + "_" for name in PEERS if find_spec(name)} | {"tinyres_", "numpy_", *pythons}
    if device == "cuda":
        available &= {"tinyres_", "torch_"}
    threads = threads or ([1] if device == "cuda" else [CORES] if quick else sorted({1, CORES}))
    programme = contests(groups, available, threads, quick, device)
    rounds = rounds or (3 if quick else 7)
    command = "python -m benchmarks " + re.sub(r"(?<=[ =])/\S*/", "", shlex.join(sys.argv[1:]))  # no folders

    results: list[Result] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    state = [f"`{command}`", *report.machine()]
    with Progress(*columns, auto_refresh=False) as progress:  # a thread that refreshes would take time from a turn
        bar = progress.add_task("", total=len(programme) * (WARM_UP_ROUNDS + rounds))
        for contest in programme:
            progress.update(bar, description=f"{contest.name}, {report.threads_of(contest.threads)}")
            results.append(run(contest, rounds, pythons, lambda: progress.update(bar, advance=1, refresh=True)))
            written = report.save(output, results, state)
    for line in report.head(results, state):
        out.print(line, soft_wrap=True)
    for group, (header, rows) in report.tables(results):
        out.print(table(f"\n{group}", header, rows))
    out.print(report.LEGEND, soft_wrap=True)
    for path in [*written, *report.draw(output, results)]:
        out.print(f"wrote {path}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
