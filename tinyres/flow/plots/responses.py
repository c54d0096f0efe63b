"""The size of each layer's response: residual networks change their signal a little in each layer, plain ones a lot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.drawing import legend, line
from tinyres.flow.plots.reading import SHORTCUT, Source, at, by_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def responses(
    records: Source | Mapping[str, Source],
    step: int | None = None,
    ranked: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw the standard deviation of each layer's output after batch norm, before rectifier and addition (He et al.
    2015, fig. 7). The norms of projection shortcuts are left out.

    Args:
        records: one record, or several by name.
        step: a recorded step; each record's last by default.
        ranked: the largest response first (the figure's lower half), not the first layer (its upper half).
        ax: where to draw; a new figure by default.
    """
    from matplotlib.ticker import MaxNLocator

    ax = style.axes(ax)
    ax.set_yscale("log")
    marks: set[str] = set()
    for index, (name, record) in enumerate(by_name(records).items()):
        number, rows = at(record, step)
        norms = (rows["role"] == "activation") & (rows["kind"] == "BatchNorm2d")
        values = rows[norms & (np.char.find(rows["name"], SHORTCUT) < 0)]["std"]
        values = -np.sort(-values) if ranked else values  # NaN last
        label = name or f"step {number}"
        marks |= line(ax, np.arange(1, len(values) + 1), values, index, **style.line(index), label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layers by size of their response" if ranked else "layer, counted from the input")
    ax.set_ylabel("standard deviation of the layer's output\n(after batch norm, before ReLU and addition)")
    legend(ax, marks)
    return ax
