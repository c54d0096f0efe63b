"""How far each weight goes in a step, as a part of its size: what the learning rate really is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.drawing import legend, line, note
from tinyres.flow.plots.reading import Grid, Source, by_name, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tinyres.flow.record import Record

USUAL = 1e-3  # a rule of thumb for networks that learn well (Karpathy, CS231n course notes)


def update_ratio(
    records: Source | Mapping[str, Source],
    kind: str | None = "Conv2d",
    ax: Axes | None = None,
) -> Axes:
    """Draw rms(update) / rms(weight) against the step, with a line at 10⁻³, about where networks learn well.

    One record has a line for each layer, coloured by depth. Of several, each has its layers' median and a band from
    the least to the largest.

    Args:
        records: one record, or several by name, of a `watch` that knew the optimiser.
        kind: only modules of this class; None for all that have a weight.
        ax: where to draw; a new figure by default.
    """
    ratios = {name: ratio(record, kind) for name, record in by_name(records).items()}
    ax = style.axes(ax)
    if not any(cells.values.size for cells in ratios.values()):
        return note(ax, f"no updates of {kind or 'any module'} were recorded: watch(model, optimizer) sees them")
    ax.set_yscale("log")
    several = isinstance(records, Mapping)
    marks = by_network(ax, ratios) if several else by_layer(ax, ratios[""], kind)
    ax.axhline(USUAL, color="black", linestyle="--", linewidth=1, label="$10^{-3}$")
    ax.set(xlabel="step", ylabel="change of the weight in one step,\nrelative to the weight (root mean squares)")
    legend(ax, marks, above=not several)
    return ax


def ratio(record: Record, kind: str | None) -> Grid:
    """rms(update) / rms(weight) of each layer and step; NaN where either is missing, or the weight is zero."""
    updates, weights = grid(record, "update", "rms", kind), grid(record, "weight", "rms", kind)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = updates.values / weights.at(updates.positions)
    return updates._replace(values=values)


def by_layer(ax: Axes, cells: Grid, kind: str | None) -> set[str]:
    """A line for each layer."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    depth = ScalarMappable(Normalize(1, max(2, len(cells.names))), style.MAP)
    marks: set[str] = set()
    for index, values in enumerate(cells.values):
        look: dict[str, Any] = dict(color=depth.to_rgba(np.asarray(index + 1)), linewidth=1, marker=".", markersize=3)
        marks |= line(ax, cells.steps, values, **look, label=f"_{cells.names[index]}")
    ax.figure.colorbar(depth, ax=ax, label=f"depth ({kind or 'modules'}, counted from the input)")
    return marks


def by_network(ax: Axes, ratios: Mapping[str, Grid]) -> set[str]:
    """The median of each network's layers, and a band from their least to their largest."""
    marks: set[str] = set()
    for index, (name, cells) in enumerate(ratios.items()):
        values = np.ma.masked_invalid(cells.values)  # (layers, steps)
        look = style.line(index)
        middle = [np.median(column.compressed()) if column.count() else np.nan for column in values.T]
        marks |= line(ax, cells.steps, np.array(middle, np.float64), index, **look, label=name)
        drawable = np.ma.masked_equal(values, 0)
        if drawable.count():
            low, high = drawable.min(axis=0), drawable.max(axis=0)
            ax.fill_between(cells.steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
    return marks
