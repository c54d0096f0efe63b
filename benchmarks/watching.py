"""What it costs to watch: steps of ResNet-20 in turn, unwatched, recorded each time, every tenth time, and each time
with all values looked at.

python -m benchmarks.watching
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from benchmarks.contest import Contest, Entry, Result, run, spread

CORES = len(os.sched_getaffinity(0))


def contest(depth: int, batch: int, side: int, threads: int) -> Contest:
    """Seconds are those of one step."""
    network = dict(depth=depth, batch=batch, side=side)
    ways = {"every step": (1, False), "every tenth step": (10, False), "every step, all values": (1, True)}
    watched = {
        name: Entry(name, "tinyres_", dict(kind="watching", every=every, exact=exact, **network), 1 / every)
        for name, (every, exact) in ways.items()
    }
    unwatched = Entry("unwatched", "tinyres_", dict(kind="training", **network))
    return Contest("watching", f"ResNet-{depth}, {side}², batch {batch}", threads, [unwatched, *watched.values()])


def costs(result: Result) -> list[str]:
    """A line for each way of watching: its time over that of the unwatched step, round by round."""
    unwatched, *watched = result.seconds
    name = f"{result.contest.name}, {result.contest.threads} threads"
    lines = [f"{name}, unwatched: {1e3 * spread(result.seconds[unwatched]).median:.0f} ms"]
    for way in watched:
        pairs = zip(result.seconds[way], result.seconds[unwatched], strict=True)
        lines.append(f"watched, {way}: {spread([mine / theirs for mine, theirs in pairs])} of that")
    return lines


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 15,
    threads: Annotated[int, typer.Option(min=1)] = CORES,
    batch: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    """Print the median ratio of a watched step to an unwatched one, and the smallest and largest."""
    for line in costs(run(contest(20, batch, 32, threads), rounds, {}, lambda: None)):
        print(line)


if __name__ == "__main__":
    typer.run(main)
