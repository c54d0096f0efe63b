"""A ridge of histograms: how the values of every layer are spread over the magnitudes, in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.flow import style
from tinyres.flow.histogram import LOWEST
from tinyres.flow.plots.drawing import WORDS, legend, name_ticks, note
from tinyres.flow.plots.reading import Source, at, read, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 1e-3  # a share that can be seen
OVERLAP = 1.9  # the highest ridge, in distances between two
MOST = 40  # steps


def ridge(
    record: Source,
    role: str = "activation_grad",
    layer: str | None = None,
    step: int | None = None,
    kind: str | None = "Conv2d",
    ax: Axes | None = None,
) -> Axes:
    """Draw the magnitudes of a role's non-zero values as a histogram for each layer, the input's at the top.

    A ridge's height is the share of the values in each factor of two, on one scale for all ridges. A layer without
    any has a flat line, marked with a cross if there was nothing, a ring if all was zero.

    Args:
        record: one record. role: one of ROLES.
        layer: the name of one layer, for a ridge at each of its steps (40 of them at most) instead.
        step: a recorded step; the last by default. kind: only modules of this class; None for all.
        ax: where to draw; a new figure by default.
    """
    record = read(record)
    record.depth(role)  # which refuses a role it does not know
    if layer is None:
        step, rows = at(record, step)
        rows = rows[(rows["role"] == role) & (True if kind is None else rows["kind"] == kind)]
        names, title = rows["name"].tolist(), f"step {step}"
    else:
        known = np.unique(record.rows["name"]).tolist()
        if step is not None or layer not in known:
            raise ValueError(
                f"ridge: layer is {layer!r} and step is {step}, expected a layer of the record ({', '.join(known)}), "
                "and no step beside it"
            )
        rows = record.rows[(record.rows["name"] == layer) & (record.rows["role"] == role)]
        rows = rows[np.isin(rows["step"], spread(record.steps, MOST))]
        names, title = [f"step {step}" for step in rows["step"]], layer
    ax = style.axes(ax, (8, min(10, max(3, 1.4 + 0.15 * len(rows)))))
    if not len(rows):
        return note(ax, f"no {role} of {layer or kind or 'any module'} was recorded")
    counts = rows["histogram"].astype(float)  # (ridges, 64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    middles = 2.0 ** (np.arange(counts.shape[1]) + LOWEST + 0.5)
    heights = shares * (OVERLAP / max(shares.max(), 1e-9))
    marks = set()
    ax.set_xscale("log")
    for index, (height, row) in enumerate(zip(heights, rows, strict=True)):
        look: dict[str, Any] = dict(
            facecolor=style.faded(style.COLOURS[0], 0.45), edgecolor="black", linewidth=0.6, zorder=2 + index
        )
        ax.fill_between(middles, -index, height - index, label=f"_{names[index]}", **look)
        if not height.any():
            mark = "o" if row["zero_fraction"] == 1 else "x"
            marks.add(mark)
            look = dict(markersize=4, fillstyle="none", color="black", transform=ax.get_yaxis_transform())
            ax.plot([0.02], [-index], mark, zorder=3 + len(rows), **look)
    seen = np.flatnonzero((shares > LEAST).any(axis=0))
    low, high = (seen[0], seen[-1]) if seen.size else (0, len(middles) - 1)
    ax.set_xlim(middles[low] / 4, middles[high] * 4)
    ax.set_ylim(-len(rows) + 0.5, OVERLAP + 0.2)
    ax.set_title(title, loc="left", fontsize="medium")
    ax.set_xlabel(f"{WORDS[role]}\n(magnitude of what is not zero)")
    name_ticks(ax.yaxis, names, places=range(0, -len(rows), -1))
    legend(ax, marks)
    return ax
