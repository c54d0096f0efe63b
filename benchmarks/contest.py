"""A contest: contestants take the same step in turn, A B C A B C …, and what counts is the ratio within each round.

A machine's speed drifts, with its temperature and its neighbours. Two steps that follow each other see nearly the same
machine, so their ratio says more than either time; the median of the rounds' ratios is the figure, and their smallest
and largest show how far to trust it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_ROUNDS = 2
TURN = 0.1  # seconds that a turn lasts at least: a shorter step is taken several times, and its mean counts
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COLD = 3.0  # seconds: a step shorter than that is taken once untimed, since the first one after a wait tends to be slow
PAUSE = 0.05  # seconds before each turn, in which the threads of the last contestant stop spinning


@dataclass(frozen=True)
class Entry:
    """Who takes part: a name for the tables, a module of `benchmarks.contestants`, and the task it is set.

    scale: what its seconds are multiplied by, for a contestant that does another amount of the same work.
    """

    name: str
    contestant: str
    task: dict[str, Any]
    scale: float = 1.0


@dataclass(frozen=True)
class Contest:
    """What is timed side by side, each entry with `threads` threads of the host, on the CPU or on "cuda"."""

    group: str
    name: str
    threads: int
    entries: Sequence[Entry]
    device: str = "cpu"


class Spread(NamedTuple):
    """The median of some numbers, their smallest and their largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The p of value ∝ size^p: the slope of the least-squares line through the logarithms of both."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


@dataclass
class Result:
    """What a contest found, by the names of its entries; those who could not take part are in `failed`, with why."""

    contest: Contest
    seconds: dict[str, list[float]] = field(default_factory=dict)  # of each round
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)  # peak bytes: after the imports, and in all
    who: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def families(self) -> list[str]:
        """The names, in order, where "PyTorch NCHW" and "PyTorch channels-last" are one, "PyTorch"."""
        return list(dict.fromkeys("PyTorch" if name.startswith("PyTorch") else name for name in self.seconds))

    def members(self, family: str) -> list[str]:
        return [name for name in self.seconds if f"{name} ".startswith(f"{family} ")]

    def rounds(self, family: str) -> list[float]:
        """Seconds of each round, the best of the family's counting; none where it did not take part."""
        return [min(seconds) for seconds in zip(*(self.seconds[name] for name in self.members(family)), strict=True)]

    def ratios(self, family: str) -> list[float]:
        """The family's seconds over PyTorch's, round by round; none where either did not take part."""
        return [mine / theirs for mine, theirs in zip(self.rounds(family), self.rounds("PyTorch"), strict=False)]

    def peak(self, family: str) -> tuple[int, int]:
        """Peak bytes in all, and beyond the imports: those of the family's thriftiest."""
        peaks = (self.memory[name] for name in self.members(family))
        return min((peak, peak - imported) for imported, peak in peaks)


class Worker:
    """A process that takes an entry's steps when it is asked to."""

    def __init__(self, entry: Entry, contest: Contest, python: str) -> None:
        self.entry, self.steps, self.latest = entry, 1, 0.0
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", entry.contestant, json.dumps(entry.task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=ROOT,
            env=os.environ | dict.fromkeys(THREADS, str(contest.threads)) | {"BENCHMARK_DEVICE": contest.device},
            text=True,
        )

    def ask(self, question: str) -> Any:
        """The worker's answer; ChildProcessError, with the last thing it said, if it has died."""
        try:
            print(question, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()  # type: ignore[union-attr]
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.errors.seek(0)
            last_words = self.errors.read().strip().rpartition("\n")[2]
            raise ChildProcessError(f"{self.entry.name} ended with code {self.process.wait()}: {last_words}")
        return json.loads(answer)

    def turn(self) -> float:
        """Seconds of one step."""
        time.sleep(PAUSE)
        if self.latest < COLD:
            self.ask("go")
        self.latest = self.ask(f"go {self.steps}")
        return self.latest

    def warm_up(self) -> None:
        self.steps = math.ceil(TURN / self.turn())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def run(contest: Contest, rounds: int, pythons: Mapping[str, str], tick: Callable[[], object]) -> Result:
    """Hold a contest. `pythons`: interpreters of contestants that need another one. `tick` is called each round."""
    result = Result(contest)
    with ExitStack() as stack:
        workers = []
        for entry in contest.entries:
            python = pythons.get(entry.contestant, sys.executable)
            workers.append(stack.enter_context(Worker(entry, contest, python)))
        for _ in range(WARM_UP_ROUNDS):
            for worker in list(workers):
                try:
                    worker.warm_up()
                except ChildProcessError as error:
                    result.failed[worker.entry.name] = str(error)
                    workers.remove(worker)
            tick()
        for _ in range(rounds):
            for worker in workers:
                seconds = worker.turn() * worker.entry.scale
                result.seconds.setdefault(worker.entry.name, []).append(seconds)
            tick()
        for worker in workers:
            result.memory[worker.entry.name] = tuple(worker.ask("memory"))
            result.who[worker.entry.name] = worker.ask("who")
    return result
