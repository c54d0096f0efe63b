"""Layer by step: a whole training run of a whole network at one glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.drawing import (
    LOGARITHMIC,
    WORDS,
    colours,
    fill,
    legend_of_fills,
    name_ticks,
    note,
    undrawable,
)
from tinyres.flow.plots.reading import Source, grid, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def heatmap(
    record: Source,
    role: str = "activation_grad",
    statistic: str = "rms",
    kind: str | None = "Conv2d",
    ax: Axes | None = None,
) -> Axes:
    """Draw a statistic as the colour of a cell for each layer, the input's at the top, and each recorded step.

    Magnitudes have a log colour scale. Cells without a value are hatched, those that are exactly zero are dotted.

    Args:
        record: one record. role, statistic: as in `Record.depth`.
        kind: only modules of this class; None for all.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    cells = grid(read(record), role, statistic, kind)
    layers, steps = cells.values.shape
    ax = style.axes(ax, (9, min(10, max(3.5, 1.2 + 0.14 * layers))))
    if not cells.values.size:
        return note(ax, f"no {role} of {kind or 'any module'} was recorded")
    logarithmic = statistic in LOGARITHMIC
    missing, zero = undrawable(cells.values, logarithmic)
    edges = np.arange(steps + 1) - 0.5, np.arange(layers + 1) - 0.5
    shown = np.ma.masked_where(missing | zero, cells.values)
    mesh = ax.pcolormesh(*edges, shown, cmap=style.MAP, norm=colours(cells.values, logarithmic))
    fills = {word: where for word, where in {"missing": missing, "exactly zero": zero}.items() if where.any()}
    for word, where in fills.items():
        boxes = [Rectangle((step - 0.5, layer - 0.5), 1, 1) for layer, step in np.argwhere(where)]
        ax.add_collection(PatchCollection(boxes, **fill(word), linewidth=0, label=word))
    legend_of_fills(ax, fills)
    if not (missing | zero).all():
        ax.figure.colorbar(mesh, ax=ax, label=f"{WORDS[role]}\n({WORDS[statistic]})")
    ax.grid(False)
    ax.invert_yaxis()
    name_ticks(ax.yaxis, cells.names)
    name_ticks(ax.xaxis, list(map(str, cells.steps)))
    ax.set(xlabel="step", ylabel=f"layer ({kind or 'all modules'}), the input at the top")
    return ax
