"""From records to what the page's script reads: nested lists of short numbers, None where there is nothing to draw."""

from __future__ import annotations

import csv
import math
import os
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.flow.plots.reading import spread
from tinyres.flow.record import NUMBERS, Record, Rows

STEPS = 60  # of a run, at most: a page should stay a few megabytes
LOSSES = 400  # points of a loss curve, at most
LEVELS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"  # 64 characters, 0 to 63


def pack(name: str, record: Record, history: Any = None) -> dict[str, Any]:
    """One run. The grids of each role are (S, L'): S steps, and the L' of all layers that have rows of this role."""
    rows = record.rows
    steps = spread(record.steps, STEPS)
    positions, first = np.unique(rows["position"], return_index=True)
    return {
        "name": name,
        "steps": steps,
        "recorded": len(record.steps),
        "layers": [[str(rows[field][i]) for field in ("name", "kind", "block")] for i in first],
        "roles": {role: grids(rows[rows["role"] == role], steps, positions) for role in in_order(rows["role"])},
        "loss": None if history is None else losses(history),
    }


def grids(rows: Rows, steps: Sequence[int], positions: np.ndarray[Any, Any]) -> dict[str, Any]:
    """All that is known of one role: {"layers": (L',), each statistic: (S, L')}, and "histogram" if rows have one."""
    rows = rows[np.isin(rows["step"], steps)]
    mine = np.unique(rows["position"])
    where = np.searchsorted(steps, rows["step"]), np.searchsorted(mine, rows["position"])
    shape = len(steps), len(mine)
    result: dict[str, Any] = {"layers": np.searchsorted(positions, mine).tolist()}
    fields = rows.dtype.names or ()
    for statistic in NUMBERS:
        if statistic in fields and (statistic != "cosine" or not np.isnan(rows[statistic]).all()):
            grid = np.full(shape, math.nan)
            grid[where] = rows[statistic]
            result[statistic] = [[short(value) for value in line] for line in grid.tolist()]
    if "histogram" in fields:
        lines = [[""] * len(mine) for _ in steps]
        for step, layer, counts in zip(*where, rows["histogram"], strict=True):
            lines[step][layer] = letters(counts)
        result["histogram"] = lines
    return result


def short(value: float) -> float | None:
    """`value` to 5 significant digits, None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def letters(counts: np.ndarray[Any, Any]) -> str:
    """A histogram (64,) as text: the first bin that is not empty, then each bin's height up to the last, 63 being the
    highest, one of LEVELS each. A bin with anything in it is at least 1 high; an empty histogram is ""."""
    full = np.flatnonzero(counts)
    if not full.size:
        return ""
    heights = np.ceil(63 * (counts / counts.max())[full[0] : full[-1] + 1]).astype(int)
    return "".join(LEVELS[i] for i in (full[0], *heights))


def losses(history: Any) -> list[list[float | None]]:
    """[steps, losses] of a History or its steps.csv, at most LOSSES of each: beyond that, means of neighbours.

    A history counts steps from 1, a record from 0; here they count as the record's.
    """
    if hasattr(history, "steps"):
        table = [(row.step, row.loss) for row in history.steps]
    else:
        with open(history, newline="", encoding="utf-8") as file:
            try:
                table = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(
                    f"report: {os.fspath(history)} is no table of steps, expected columns step and loss"
                ) from error
    parts = np.array_split(np.array(table, float).reshape(-1, 2), min(LOSSES, len(table)) or 1)
    steps, values = np.array([part.mean(axis=0) if len(part) else [math.nan] * 2 for part in parts]).T
    return [[short(step - 1) for step in steps.tolist()], [short(value) for value in values.tolist()]]


def in_order(roles: np.ndarray[Any, Any]) -> list[str]:
    """Each role once, in the order in which they first come."""
    return list(dict.fromkeys(roles.tolist()))
