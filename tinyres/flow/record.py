"""Record: what was seen of a network, one row of numbers for each step, layer and role."""

from __future__ import annotations

import itertools
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyres.backend import Array, to_host, xp
from tinyres.files import atomic_write, write_csv
from tinyres.flow.histogram import BINS, to_text
from tinyres.flow.measure import WIDTH, read
from tinyres.flow.pictures import Pictures
from tinyres.flow.statistics import STATISTICS

PARTS = (
    "skip",
    "branch",
    "skip_grad",
    "branch_grad",
)  # of a residual addition, and of the gradient by its block's input
ROLES = ("activation", "activation_grad", "weight", "weight_grad", "update", *PARTS)
NUMBERS = (*STATISTICS, "cosine")

Rows = np.ndarray[Any, np.dtype[np.void]]


class Key(NamedTuple):
    """What a row is about."""

    step: int
    position: int  # in the order of the forward pass
    name: str
    kind: str  # the module's class
    block: str  # the block around it, or ""
    role: str  # one of ROLES


FIELDS = (*Key._fields, *NUMBERS, "histogram")


class Record:
    """A tidy table of statistics, which fills while a `watch` is open.

    Each row has the fields step, position, name, kind, block and role; the six STATISTICS and `cosine` in float64;
    and `histogram`, uint32 (64,), counts by magnitude (`tinyres.flow.histogram`; of large arrays, of a sample). Rows
    are merged by adding: `rows["histogram"].sum(0)`. A row with NaN in all statistics stands for something that did
    not come: the gradient of a frozen or unused layer.

    A residual addition has four rows more. "skip" and "branch" are what is added. "skip_grad" and "branch_grad" are
    the two parts of the gradient by the block's input: what came back through the skip, and what through the branch.
    `cosine` is the one between skip and branch of a pair, and stands in both of its rows; elsewhere it is NaN.
    """

    def __init__(self, rows: Rows | None = None) -> None:
        self._rows = table([], np.zeros((0, WIDTH))) if rows is None else rows
        self._unread: list[tuple[Sequence[Key], Array]] = []

    def add(self, keys: Sequence[Key], measured: Sequence[Array | None]) -> None:
        """Add a row for each key from what was `measure`d, None for something missing. They stay on their device
        until the rows are read."""
        here = next((array for array in measured if array is not None), np.zeros(0))
        missing = xp(here).full(WIDTH, math.nan)
        self._unread.append((keys, xp(here).stack([missing if array is None else array for array in measured])))

    @property
    def rows(self) -> Rows:
        """The whole table, a NumPy structured array: `rows["name"]`, `rows[rows["role"] == "weight"]["rms"]`, …"""
        if self._unread:
            unread, self._unread = self._unread, []
            self._rows = np.concatenate([self._rows, *(table(keys, to_host(measured)) for keys, measured in unread)])
        return self._rows

    @property
    def steps(self) -> list[int]:
        """The numbers of the recorded steps."""
        return [int(step) for step in np.unique(self.rows["step"])]

    def depth(
        self, role: str, statistic: str = "rms", step: int | None = None, kind: str | None = None
    ) -> tuple[np.ndarray[Any, Any], list[str], np.ndarray[Any, Any]]:
        """One statistic of one role through the depth of the network.

        Args:
            role: one of ROLES. statistic: one of STATISTICS, or "cosine".
            step: a recorded step; the last by default. kind: only modules of this class, such as "Conv2d".

        Returns:
            (positions, names, values) in the order of the forward pass: int (L,), L strings, float64 (L,).
        """
        if role not in ROLES:
            raise ValueError(f"role is {role!r}, expected one of {', '.join(ROLES)}")
        if statistic not in NUMBERS:
            raise ValueError(f"statistic is {statistic!r}, expected one of {', '.join(NUMBERS)}")
        rows, steps = self.rows, self.steps
        if step is None:
            step = steps[-1] if steps else 0
        elif step not in steps:
            raise ValueError(f"step {step} was not recorded, expected one of {', '.join(map(str, steps)) or 'none'}")
        rows = rows[(rows["step"] == step) & (rows["role"] == role)]
        if kind is not None:
            rows = rows[rows["kind"] == kind]
        rows = rows[np.argsort(rows["position"])]
        return rows["position"], rows["name"].tolist(), rows[statistic]

    @property
    def plot(self) -> Pictures:
        """Pictures of this record: `plot.depth(…)`, `plot.heatmap(…)`, …; `plot(…)` is `plot.depth(…)`."""
        return Pictures(self)

    # Elsewhere

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame; each cell of `histogram` is an array (64,).

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError("to_pandas needs pandas, which is not installed: pip install pandas") from error
        rows = self.rows
        return DataFrame({name: list(rows[name]) if rows[name].ndim > 1 else rows[name] for name in fields(rows)})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, a header first, numbers in full precision. Histograms are text: "exponent:count"
        for each bin that is not empty, such as "-12:34 -11:50"."""
        write_csv(path, fields(self.rows), lines(self.rows))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as a compressed .npz file, for `Record.load`."""
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, rows=self.rows)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file. ValueError: if it is no record.
        """
        try:
            with open(path, "rb") as file, np.load(file) as archive:
                rows = archive["rows"]
        except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{os.fspath(path)} is no record of flow: expected an .npz file with rows") from error
        if fields(rows) != FIELDS:
            raise ValueError(f"{os.fspath(path)}: the rows have other fields than a record's: {rows.dtype.names}")
        return cls(rows)

    # In the terminal

    def __repr__(self) -> str:
        rows = self.rows
        return f"Record({len(self.steps)} steps, {len(np.unique(rows['position']))} layers, {len(rows)} rows)"

    def __str__(self) -> str:
        """The last step, a line for each layer; the bar shows the gradient by the output on a log scale."""
        if not self.steps:
            return "nothing recorded yet"
        last = self.rows[self.rows["step"] == self.steps[-1]]
        gradients = last["rms"][last["role"] == "activation_grad"]
        lines = [("layer", "kind", "output rms", "gradient rms", "(log scale)", "weight grad rms", "update/weight", "")]
        for position in np.unique(last["position"]):
            layer = last[last["position"] == position]
            rms = dict.fromkeys(ROLES, math.nan) | dict(zip(layer["role"], layer["rms"], strict=True))
            ratio = rms["update"] / rms["weight"] if rms["weight"] else math.nan
            numbers = rms["activation"], rms["activation_grad"], rms["weight_grad"], ratio
            cells = ["-" if math.isnan(value) else f"{value:.2e}" for value in numbers]
            cells.insert(2, bar(rms["activation_grad"], gradients))
            lines.append((layer["name"][0], layer["kind"][0], *cells, "; ".join([*alarm(layer), *shares(rms)])))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = "{:<{}}  {:<{}}  {:>{}}  {:>{}}  {:<{}}  {:>{}}  {:>{}}  {:<{}}".format
        body = [text(*itertools.chain(*zip(line, widths, strict=True))).rstrip() for line in lines]
        return "\n".join([f"step {self.steps[-1]}", *body])


def table(keys: Sequence[Key], measured: np.ndarray[Any, Any]) -> Rows:
    """Rows of the table: keys (R) and what was measured (R, WIDTH)."""
    text = [max([1, *(len(key[i]) for key in keys)]) for i in range(2, 6)]  # type: ignore[arg-type]
    formats = ["i8", "i8", *(f"U{width}" for width in text), *["f8"] * len(NUMBERS), ("u4", BINS)]
    rows = np.empty(len(keys), np.dtype({"names": FIELDS, "formats": formats}))
    for name, column in zip(Key._fields, zip(*keys, strict=True), strict=False):
        rows[name] = column
    statistics, rows["cosine"], rows["histogram"] = read(measured)
    for name, values in zip(STATISTICS, statistics.T, strict=True):
        rows[name] = values
    return rows


def fields(rows: Rows) -> tuple[str, ...]:
    return rows.dtype.names or ()


def lines(rows: Rows) -> Iterator[tuple[Any, ...]]:
    """The rows as plain values, for a file of text."""
    return ((*values, to_text(histogram)) for *values, histogram in rows.tolist())


def bar(value: float, all_values: np.ndarray[Any, Any], width: int = 12) -> str:
    """`value` as a bar of up to `width` characters: the logarithm between the least and largest of all values, which
    are taken to be three decades apart at least, so that a healthy network looks level."""
    positive = all_values[np.isfinite(all_values) & (all_values > 0)]
    if not (value > 0 and math.isfinite(value)):
        return ""
    top = math.log10(positive.max())
    bottom = min(math.log10(positive.min()), top - 3)
    return "#" * (1 + round((width - 1) * (math.log10(value) - bottom) / (top - bottom)))


def alarm(layer: Rows) -> list[str]:
    """What is wrong with a layer, in words."""
    bad = layer[layer["nonfinite_fraction"] > 0]
    shares = [f"{100 * row['nonfinite_fraction']:.3g} % of {row['role']}" for row in bad]
    return [f"NaN or Inf: {', '.join(shares)}"] if shares else []


def shares(rms: dict[str, float]) -> list[str]:
    """How large an addition's branch is beside its skip, forward and backward."""
    pairs = {"": (rms["branch"], rms["skip"]), ", of gradients ": (rms["branch_grad"], rms["skip_grad"])}
    ratios = [f"{way}{branch / skip:.2g}" for way, (branch, skip) in pairs.items() if branch >= 0 and skip > 0]
    return [f"branch/skip {''.join(ratios)}"] if ratios else []
