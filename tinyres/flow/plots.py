"""Pictures of records. Matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyres.flow import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tinyres.flow.record import Record

WORDS = {
    "activation": "layer output",
    "activation_grad": "gradient of the loss by the layer output",
    "weight": "weight",
    "weight_grad": "gradient of the loss by the weight",
    "update": "change of the weight in one step",
    "mean": "mean",
    "std": "standard deviation",
    "rms": "root mean square",
    "abs_max": "largest magnitude",
    "zero_fraction": "fraction of zeros",
    "nonfinite_fraction": "fraction of NaN or Inf",
}
MARKS = {"x": "missing", "o": "exactly zero"}
LOGARITHMIC = ("std", "rms", "abs_max")


def depth_plot(
    records: Record | Mapping[str, Record],
    role: str = "activation_grad",
    statistic: str = "rms",
    steps: Sequence[int] | None = None,
    kind: str | None = "Conv2d",
    ax: Axes | None = None,
) -> Axes:
    """Draw a statistic against depth: a colour for each network, a shade for each step, later ones darker.

    Magnitudes are on a log scale. Where a value cannot be drawn on it the line has a gap, and a mark at the bottom
    says whether it is missing (a cross) or exactly zero (a ring).

    Args:
        records: one record, or several by name. role, statistic: as in `Record.depth`.
        steps: which steps; by default up to four, from the first to the last that a record has.
        kind: only modules of this class; None for all. Depth counts the modules drawn, from 1 at the input.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.ticker import MaxNLocator

    records = records if isinstance(records, Mapping) else {"": records}
    ax = style.axes(ax)
    ax.set_yscale("log" if statistic in LOGARITHMIC else "linear")
    marks: set[str] = set()
    for index, (name, record) in enumerate(records.items()):
        chosen = spread(record.steps) if steps is None else steps
        for step, strength in zip(chosen, np.linspace(1, 0.35, len(chosen))[::-1], strict=True):
            values = record.depth(role, statistic, step, kind)[2]
            depth = np.arange(1, len(values) + 1)
            zero = (values == 0) & (statistic in LOGARITHMIC)
            missing = ~np.isfinite(values)
            colour = style.faded(style.COLOURS[index % len(style.COLOURS)], strength)
            ax.plot(
                depth,
                np.where(zero | missing, np.nan, values),
                **{**style.line(index), "color": colour},
                label=", ".join(filter(None, [name, f"step {step}" if not name or len(chosen) > 1 else ""])),
            )
            for mark, where in (("x", missing), ("o", zero)):
                if where.any():
                    marks.add(mark)
                    height = np.full(where.sum(), 0.02 + 0.03 * index)  # of the axes, a row for each network
                    across = ax.get_xaxis_transform()
                    ax.plot(depth[where], height, mark, markersize=5, fillstyle="none", transform=across, color=colour)
    for mark in sorted(marks):
        ax.plot([], [], mark, color="grey", fillstyle="none", label=MARKS[mark])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f"depth ({kind or 'modules'}, counted from the input)")
    ax.set_ylabel(f"{WORDS[role]}\n({WORDS[statistic]})")
    style.legend(ax)
    return ax


def spread(steps: list[int], count: int = 4) -> list[int]:
    """At most `count` of the steps, evenly, the first and last among them."""
    picks = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    return [steps[pick] for pick in picks]
