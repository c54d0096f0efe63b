"""What the figures share: their words, their gaps and marks, their colours for numbers, their names along an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.reading import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Normalize

WORDS = {
    "activation": "layer output",
    "activation_grad": "gradient of the loss by the layer output",
    "weight": "weight",
    "weight_grad": "gradient of the loss by the weight",
    "update": "change of the weight in one step",
    "skip": "what an addition gets from the skip",
    "branch": "what an addition gets from the branch",
    "skip_grad": "gradient of the loss through the skip",
    "branch_grad": "gradient of the loss through the branch",
    "mean": "mean",
    "std": "standard deviation",
    "rms": "root mean square",
    "abs_max": "largest magnitude",
    "zero_fraction": "fraction of zeros",
    "nonfinite_fraction": "fraction of NaN or Inf",
    "cosine": "cosine between skip and branch",
}
LOGARITHMIC = ("std", "rms", "abs_max")
MARKS = {"x": "missing", "o": "exactly zero"}  # of points that have no place on a log scale
ABOVE: dict[str, Any] = dict(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False)  # a legend
FILLS = {"missing": ("0.85", "////"), "exactly zero": ("white", "...")}  # of areas that have no colour: face, hatch


def line(ax: Axes, x: Any, values: Values, row: int = 0, **look: Any) -> set[str]:
    """Draw a line with gaps where there is no value or, on a log scale, where it is 0. A mark at the bottom, in its
    network's `row`, says which of the two it is. Returns the marks drawn, for `legend`."""
    x = np.asarray(x)
    missing, zero = undrawable(values, ax.get_yscale() == "log")
    ax.plot(x, np.where(missing | zero, np.nan, values), **look)
    marks = {mark: where for mark, where in zip(MARKS, (missing, zero), strict=True) if where.any()}
    for mark, where in marks.items():
        height = np.full(where.sum(), 0.02 + 0.03 * row)  # of the axes
        across = ax.get_xaxis_transform()
        ax.plot(x[where], height, mark, markersize=5, fillstyle="none", transform=across, color=look["color"])
    return set(marks)


def legend(ax: Axes, marks: Iterable[str] = (), above: bool = False) -> None:
    """The legend beside the data, or above it where a colour bar stands beside it. It also explains the marks."""
    for mark in sorted(marks):
        ax.plot([], [], mark, color="grey", fillstyle="none", label=MARKS[mark])
    if above and ax.get_legend_handles_labels()[0]:
        ax.legend(**ABOVE)
    else:
        style.legend(ax)


def undrawable(values: Values, logarithmic: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where values are missing (or not finite), and where they are 0 and the scale has none."""
    return ~np.isfinite(values), (values == 0) & logarithmic


def colours(values: Values, logarithmic: bool = True) -> Normalize:
    """The scale from numbers to colours. A log scale spans a factor of ten at least, so that a healthy network looks
    level."""
    from matplotlib.colors import LogNorm, Normalize

    missing, zero = undrawable(values, logarithmic)
    drawn = values[~missing & ~zero]
    low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (1.0, 1.0)
    if not logarithmic:
        return Normalize(low, high)
    wider = max(0.0, 1 - math.log10(high) + math.log10(low)) / 2  # decades, on either side
    return LogNorm(low / 10**wider, high * 10**wider)


def fill(word: str) -> dict[str, Any]:
    """How an area is filled that is "missing" or "exactly zero": arguments of a patch."""
    face, hatch = FILLS[word]
    return dict(facecolor=face, hatch=hatch, edgecolor="0.5")


def legend_of_fills(ax: Axes, words: Iterable[str]) -> None:
    """Explain the fills above the picture, to the right."""
    from matplotlib.patches import Patch

    if handles := [Patch(label=word, **fill(word)) for word in words]:
        ax.legend(handles=handles, **ABOVE)


def name_ticks(axis: Axis, names: Sequence[str], places: Sequence[float] | None = None, **look: Any) -> None:
    """Write names at places along an axis, 0, 1, … by default; every second, third, … where not all have room."""
    across = axis is axis.axes.xaxis
    box = axis.axes.get_window_extent()
    length = (box.width if across else box.height) * 72 / axis.axes.figure.dpi  # points
    lying = across and "rotation" not in look
    room = 8 + 4.5 * max(map(len, names), default=0) if lying else 9  # points that a name in small letters takes
    every = max(1, math.ceil(len(names) * room / length))
    axis.set_ticks(list(range(len(names)) if places is None else places)[::every], names[::every], fontsize=7, **look)


def note(ax: Axes, text: str) -> Axes:
    """Say in the middle of an empty picture why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="0.4")
    ax.set(xticks=[], yticks=[])
    return ax
