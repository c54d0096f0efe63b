"""Several runs side by side: one table, one picture, and layer beside layer where the networks differ in depth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyres.files import write_csv
from tinyres.flow.pictures import Pictures
from tinyres.flow.plots.reading import Source, by_name
from tinyres.flow.record import Record, Rows, fields, lines


def compare(runs: Mapping[str, Source] | None = None, /, **more: Source) -> Comparison:
    """Hold several records, or the paths of saved ones, by name.

    >>> both = flow.compare(plain=a, resnet="runs/resnet.npz")
    >>> print(both)  # layer beside layer, and the ratio
    >>> both.plot.depth(role="weight_grad")

    runs: a mapping, for names that are no Python names, such as "ResNet-56".

    Raises:
        ValueError: if no run is given, or a file is no record. TypeError: for what is no record at all.
    """
    records = by_name({**(runs or {}), **more})
    if not records:
        raise ValueError("compare: no runs came, expected at least one record by name: compare(plain=a, resnet=b)")
    return Comparison(records)


class Layers(NamedTuple):
    """One statistic of R runs at each of L layers."""

    names: list[str]  # L, those of the first run
    values: np.ndarray[Any, np.dtype[np.float64]]  # (R, L)
    paired_by: str  # "name", or "relative depth" where the runs have other layers than the first


class Comparison(Mapping[str, Record]):
    """Records by name, a mapping, so that every picture that compares takes it as it is."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = dict(records)

    def __getitem__(self, name: str) -> Record:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def rows(self) -> Rows:
        """The tables of all runs, one after the other, with a first field `run`."""
        together = np.concatenate([record.rows for record in self.values()])
        kind = ("run", f"U{max(1, *map(len, self))}")
        rows = np.empty(len(together), [kind, *together.dtype.descr])
        rows["run"] = np.repeat(list(self), [len(record.rows) for record in self.values()])
        for name in fields(together):
            rows[name] = together[name]
        return rows

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows` as CSV, as `Record.to_csv` does."""
        write_csv(path, fields(self.rows), lines(self.rows))

    @property
    def plot(self) -> Pictures:
        """The pictures that compare: `plot.depth(…)`, `plot.responses(…)`, …; `plot(…)` is `plot.depth(…)`."""
        return Pictures(self)

    def layers(
        self,
        role: str = "activation_grad",
        statistic: str = "rms",
        step: int | None = None,
        kind: str | None = "Conv2d",
    ) -> Layers:
        """One statistic of all runs, layer beside layer; arguments as in `Record.depth`.

        Runs with layers of the same names are compared by name. Otherwise each layer of the first run stands beside
        that of the other at the same relative depth: 0 is the first layer, 1 the last.
        """
        columns = [record.depth(role, statistic, step, kind)[1:] for record in self.values()]
        names = columns[0][0]
        if all(others == names for others, _ in columns):
            return Layers(names, np.array([values for _, values in columns], np.float64), "name")
        depth = np.linspace(0, 1, len(names))
        values = [at_relative_depth(values, depth) for _, values in columns]
        return Layers(names, np.array(values, np.float64), "relative depth")

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{name}: {record!r}' for name, record in self.items())})"

    def __str__(self) -> str:
        """The gradient by each convolution's output (or each module's, where there are none) at the last step, and
        each run's as a multiple of the first's."""
        convolutions = any("Conv2d" in record.rows["kind"] for record in self.values())
        layers = self.layers(kind="Conv2d" if convolutions else None)
        first, *others = self
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = [*layers.values, *(layers.values[1:] / layers.values[0])]
        lines = [["layer", *self, *(f"{name}/{first}" for name in others)]]
        lines += [[name, *map(number, values)] for name, *values in zip(layers.names, *columns, strict=True)]
        left, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
        body = ["  ".join([name.ljust(left), *map(str.rjust, cells, widths)]) for name, *cells in lines]
        return "\n".join([f"gradient rms at the last step, layers paired by {layers.paired_by}", *body])


def at_relative_depth(values: np.ndarray[Any, Any], depth: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of `values` (L), input first, the nearest to each depth between 0 and 1; NaN if there are none."""
    return values[np.rint(depth * (len(values) - 1)).astype(int)] if len(values) else np.full(len(depth), np.nan)


def number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2e}"
