"""Who carries the signal and the gradient past each block: the skip or the branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.drawing import legend, name_ticks, note
from tinyres.flow.plots.reading import Source, Values, at, column, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS: dict[str, dict[str, Any]] = {
    "skip": {"color": style.COLOURS[0]},
    "branch": {"color": style.COLOURS[4], "hatch": "///"},
}
BAR: dict[str, Any] = dict(width=0.8, edgecolor="white", linewidth=0)


def highway(record: Source, step: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the shares of skip and branch at each addition, and below them the cosine between the two.

    A share is rms² over the sum of both rms². Bars upwards are the signal's, forward; bars downwards the gradient's
    by the block's input, backward. How large the parts are, `depth(record, "skip", kind="Add")` shows.

    Args:
        record: one record of a network with residual blocks. step: a recorded step; the last by default.
        ax: where to draw, axes made by `subplots`; a new figure by default. The cosines get axes of their own, which
            take its lower part.
    """
    step, rows = at(read(record), step)
    additions = rows[rows["role"] == "skip"]
    ax = style.axes(ax, (10, 5.5))
    if not len(additions):
        return note(ax, "no additions were recorded: a plain network has no skips")
    blocks, positions = additions["block"].tolist(), additions["position"]
    ways = {"forward": (1, "skip", "branch"), "backward": (-1, "skip_grad", "branch_grad")}
    places = np.arange(len(blocks))
    below = split(ax)
    marks = set()
    for index, (way, (sign, skip, branch)) in enumerate(ways.items()):
        share = share_of_skip(column(rows, skip, "rms", positions), column(rows, branch, "rms", positions))
        ax.bar(places, sign * share, **BAR, **LOOKS["skip"], label=f"_skip, {way}")
        ax.bar(places, sign * (1 - share), bottom=sign * share, **BAR, **LOOKS["branch"], label=f"_branch, {way}")
        if (missing := np.isnan(share)).any():
            marks.add("x")
            ax.plot(places[missing], np.full(missing.sum(), sign * 0.05), "x", color="grey", label="_missing")
        look = {**style.line(index), "color": "0.5" if index else "black"}
        below.plot(places, column(rows, skip, "cosine", positions), **look, label=way)
    for name, look in LOOKS.items():
        ax.bar([0], [0], **BAR, **look, label=name)
    ax.axhline(0, color="black", linewidth=1)
    ax.set_yticks([-1, -0.5, 0, 0.5, 1], ["1", "½", "0", "½", "1"])
    ax.set(ylim=(-1, 1), xlim=(-0.7, len(blocks) - 0.3), ylabel="share of the squared size\n← backward      forward →")
    ax.set_title(f"step {step}", loc="left", fontsize="medium")
    style.axes(below).axhline(0, color="black", linewidth=0.8)
    below.set(ylim=(-1.05, 1.05), yticks=[-1, 0, 1], ylabel="cosine", xlabel="block, from the input")
    name_ticks(below.xaxis, blocks, rotation=90)
    ax.tick_params(labelbottom=False)
    legend(ax, marks)
    style.legend(below)
    return ax


def split(ax: Axes) -> Axes:
    """New axes in the lower quarter of the place of `ax`, which keeps the rest."""
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("highway: ax stands outside of any grid and cannot be split, expected one made by subplots")
    halves = place.subgridspec(2, 1, height_ratios=(3, 1))
    ax.set_subplotspec(halves[0])
    return ax.figure.add_subplot(halves[1], sharex=ax)


def share_of_skip(skip: Values, branch: Values) -> Values:
    """skip² / (skip² + branch²), without squares that overflow; NaN where both are 0 or one is missing."""
    with np.errstate(all="ignore"):
        return np.asarray(1 / (1 + (branch / skip) ** 2))
