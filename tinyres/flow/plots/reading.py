"""From what a figure is given to the numbers it draws."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinyres.flow.record import Record, Rows

Source: TypeAlias = Record | str | os.PathLike[str]  # a record, or the path of a saved one
Values: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

SHORTCUT = "downsample"  # the module on a block's skip, as the models name it


class Grid(NamedTuple):
    """One statistic of L layers, in the order of the forward pass, at S steps."""

    positions: np.ndarray[Any, Any]  # (L,)
    names: list[str]  # L
    steps: list[int]  # S
    values: Values  # (L, S), NaN where there is no row

    def at(self, positions: np.ndarray[Any, Any]) -> Values:
        """The values of the layers at these positions, (positions, S), NaN where there is none."""
        found = np.full((len(positions), len(self.steps)), np.nan)
        _, here, there = np.intersect1d(positions, self.positions, return_indices=True)
        found[here] = self.values[there]
        return found


def read(source: Source) -> Record:
    """A record as it is, or from the file it was saved in."""
    if isinstance(source, Record):
        return source
    if isinstance(source, str | os.PathLike):
        return Record.load(source)
    raise TypeError(f"the record is a {type(source).__name__}, expected a Record or the path of a saved one")


def by_name(sources: Source | Mapping[str, Source]) -> dict[str, Record]:
    """Several records by name; one alone has the name ""."""
    return {name: read(source) for name, source in (sources if isinstance(sources, Mapping) else {"": sources}).items()}


def at(record: Record, step: int | None) -> tuple[int, Rows]:
    """A step, the last by default, and its rows in the order of the forward pass."""
    steps = record.steps
    if step is None:
        step = steps[-1] if steps else 0
    elif step not in steps:
        raise ValueError(f"step {step} was not recorded, expected one of {', '.join(map(str, steps)) or 'none'}")
    rows = record.rows[record.rows["step"] == step]
    return step, rows[np.argsort(rows["position"], kind="stable")]


def column(rows: Rows, role: str, statistic: str, positions: np.ndarray[Any, Any]) -> Values:
    """One statistic of one step's rows at the given positions, NaN where there is no row."""
    found = {row["position"]: row[statistic] for row in rows[rows["role"] == role]}
    return np.array([found.get(position, np.nan) for position in positions], np.float64)


def grid(record: Record, role: str, statistic: str, kind: str | None) -> Grid:
    """One statistic of one role at every layer of class `kind` (None: at all) and every step."""
    record.depth(role, statistic)  # which refuses names it does not know
    rows, steps = record.rows, record.steps
    rows = rows[(rows["role"] == role) & (True if kind is None else rows["kind"] == kind)]
    positions, first, layer = np.unique(rows["position"], return_index=True, return_inverse=True)
    values = np.full((len(positions), len(steps)), np.nan)
    values[layer, np.searchsorted(steps, rows["step"])] = rows[statistic]
    return Grid(positions, rows["name"][first].tolist(), steps, values)


def spread(steps: list[int], count: int = 4) -> list[int]:
    """At most `count` of the steps, evenly, the first and last among them."""
    picks = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[pick] for pick in picks]
