"""What an experiment is: settings, cases that are measured one by one, a picture, and a claim that is judged.

An experiment is a frozen dataclass. Its fields are its settings, `seeds` among them; `cases` lists what is to be
measured, `measure` measures one of them and depends on nothing else, so that cases can run in any order, in other
processes, and not again after an interruption. `plot` and `claim` look at the rows alone, which a CSV file holds.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from tinyres.files import atomic_write, write_csv
from tinyres.flow.style import save_figure
from tinyres.threads import set_num_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Case: TypeAlias = tuple[Any, ...]  # what tells it from the others, strings and numbers: (seed,), (network, seed), …
Rows: TypeAlias = Any  # a NumPy record array, a field for each column: rows.net, rows[rows.seed == 0].error, …


class Claim(NamedTuple):
    """What was to be seen, and whether it was.

    expected: the claim and its source. seen: what came, in numbers. verdicts: for each seed, whether it shows it.
    """

    expected: str
    seen: str
    verdicts: tuple[bool, ...]

    @property
    def holds(self) -> bool:
        """Whether every seed shows it."""
        return bool(self.verdicts) and all(self.verdicts)

    def __str__(self) -> str:
        verdict = "seen" if self.holds else "not seen"
        count = f"in {sum(self.verdicts)} of {len(self.verdicts)} seeds"
        return f"claim: {self.expected}\n{verdict} ({count}): {self.seen}"


@dataclass(frozen=True)
class Experiment:
    """Settings that all experiments have. seeds: how many times each case is measured, with seeds 0, 1, …"""

    seeds: int = 3

    name: ClassVar[str]
    quick: ClassVar[dict[str, Any]] = {}  # the settings that make it take less than a minute

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"{self.name}: seeds is {self.seeds}, expected at least 1")

    def cases(self) -> list[Case]:
        """What is to be measured, each case on its own. The seed comes last."""
        return [(seed,) for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Any]:
        """Measure one case: rows, NamedTuples of strings and numbers. It begins by seeding what it draws.

        output: a folder of its own to save in on the way, for those that train. progress: whether to tell of it.
        """
        raise NotImplementedError

    def plot(self, rows: Rows) -> Figure:
        """The picture."""
        raise NotImplementedError

    def claim(self, rows: Rows) -> Claim:
        """The claim, judged by the rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class Result:
    """What an experiment brought. `rows`: a record array, a row for each measurement."""

    experiment: Experiment
    rows: Rows

    def plot(self) -> Figure:
        return self.experiment.plot(self.rows)

    def claim(self) -> Claim:
        return self.experiment.claim(self.rows)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows, a header first, numbers in full precision."""
        write_csv(path, self.rows.dtype.names, self.rows.tolist())

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write picture, rows, settings and claim; returns the files' paths."""
        paths = [Path(folder) / f"{self.experiment.name}.{ending}" for ending in ("png", "csv", "npz", "txt")]
        save_figure(self.plot(), paths[0])
        self.to_csv(paths[1])
        with atomic_write(paths[2], "wb") as file:
            settings = json.dumps(asdict(self.experiment))
            np.savez_compressed(file, rows=np.asarray(self.rows), name=self.experiment.name, settings=settings)
        with atomic_write(paths[3]) as file:
            file.write(f"{self.experiment}\n\n{self.claim()}\n")
        return paths


def run(
    experiment: Experiment,
    folder: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Measure all cases.

    Args:
        folder: where to keep each finished case; those found there are not measured again.
        executor: measures the cases side by side, in threads, processes or on other machines (for instance
            `concurrent.futures.ProcessPoolExecutor`, `mpi4py.futures.MPIPoolExecutor`); one after the other without.
        progress: a line for each finished case.

    Raises:
        ValueError: if `folder` holds cases of other settings.
    """
    keep = None if folder is None else Folder(Path(folder), experiment)
    cases = experiment.cases()
    rows: dict[Case, Rows] = {} if keep is None else {case: keep.read(case) for case in cases if keep.holds(case)}
    rest = [case for case in cases if case not in rows]
    report = reporter(progress, len(rows), len(cases))

    def done(case: Case, measured: list[Any]) -> None:
        rows[case] = table(measured)
        if keep is not None:
            keep.write(case, rows[case])
        report(case)

    def output(case: Case) -> Path | None:
        return None if keep is None else keep.scratch(case)

    if executor is None:
        for case in rest:
            done(case, experiment.measure(case, output(case), progress))
    else:
        from concurrent.futures import as_completed

        futures = {executor.submit(experiment.measure, case, output(case)): case for case in rest}
        try:
            for future in as_completed(futures):
                done(futures[future], future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return Result(experiment, np.concatenate([rows[case] for case in cases]).view(np.recarray))


@contextlib.contextmanager
def processes(count: int) -> Iterator[Executor | None]:
    """An executor for `run`: so many processes with one thread each. None for 1, which is the process itself."""
    if count == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork would have the threads' locks and not the threads
    with ProcessPoolExecutor(count, context, set_num_threads, (1,)) as executor:
        yield executor


def parse(kind: type[Experiment], texts: Sequence[str]) -> dict[str, Any]:
    """Settings given as text, "width=200": each of the type that the setting's default has."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(kind)}
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in defaults:
            raise ValueError(f"{kind.name}: {text!r} is no setting, expected NAME=VALUE with {', '.join(defaults)}")
        wanted = type(defaults[name])
        try:
            parsed = value if wanted is str else json.loads(value)
            settings[name] = wanted(parsed)
            fits = settings[name] == parsed or wanted is tuple
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{kind.name}: {name} is {value!r}, expected a {wanted.__name__} such as {defaults[name]}")
    return settings


class Folder:
    """The finished cases of one experiment, a file for each."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder = folder / "cases"
        settings = json.loads(json.dumps(asdict(experiment)))  # tuples become lists, as in the file
        settings.pop("seeds")  # more of them only add cases
        path = self.folder / "settings.json"
        if not path.exists():
            with atomic_write(path) as file:
                json.dump(settings, file, indent=2)
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != settings:
            changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            was = ", ".join(f"{name} {before.get(name)}, not {settings.get(name)}" for name in changed)
            raise ValueError(f"{folder} holds cases measured with {was}: choose another folder, or the same settings")

    def scratch(self, case: Case) -> Path:
        return self.folder / re.sub(r"[^\w.+=-]+", "_", "-".join(map(str, case)))

    def path(self, case: Case) -> Path:
        scratch = self.scratch(case)
        return scratch.with_name(f"{scratch.name}.npy")

    def holds(self, case: Case) -> bool:
        return self.path(case).exists()

    def read(self, case: Case) -> Rows:
        return np.load(self.path(case)).view(np.recarray)

    def write(self, case: Case, rows: Rows) -> None:
        with atomic_write(self.path(case), "wb") as file:
            np.save(file, np.asarray(rows))


def table(measured: Sequence[Any]) -> Rows:
    """NamedTuples as a record array: float64, int64, bool and strings."""
    columns = {
        name: np.asarray(column) for name, column in zip(measured[0]._fields, zip(*measured, strict=True), strict=True)
    }
    rows = np.empty(len(measured), [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return rows.view(np.recarray)


def reporter(wanted: bool, done: int, count: int) -> Callable[[Case], None]:
    """A function to call for each finished case, which prints a line."""
    import time

    from rich.console import Console

    console, started, finished = Console(highlight=False, markup=False), time.perf_counter(), done
    if wanted and done:
        console.print(f"{done} of {count} cases were measured before")

    def report(case: Case) -> None:
        nonlocal finished
        finished += 1
        if wanted:
            seconds = time.perf_counter() - started
            left = seconds / (finished - done) * (count - finished)
            name = ", ".join(map(str, case))
            console.print(f"{finished}/{count}  {name}  ({seconds:.0f} s, about {left:.0f} s to go)", soft_wrap=True)

    return report
