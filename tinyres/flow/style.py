"""One look for all figures: what tells networks apart also does so in grey and for colour-blind readers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tinyres.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that colour-blind readers tell apart (Okabe & Ito 2008); line styles and markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
MAP = "viridis"  # of numbers to colours: even steps, also in grey


def line(index: int) -> dict[str, Any]:
    """How the `index`-th of several lines is drawn: arguments of `Axes.plot`."""
    return dict(
        color=COLOURS[index % len(COLOURS)],
        linestyle=LINE_STYLES[index % len(LINE_STYLES)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=3.5,
        linewidth=1.4,
    )


def faded(colour: str, strength: float) -> tuple[float, float, float]:
    """`colour` mixed with white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - channel) for channel in to_rgb(colour))
    return red, green, blue


def axes(ax: Axes | None, size: tuple[float, float] = (8, 4.5)) -> Axes:
    """`ax`, or the axes of a new figure of `size` inches, with what all figures share."""
    import matplotlib.pyplot as plt

    if ax is None:
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def legend(ax: Axes) -> None:
    """A legend beside the data, where there is something to tell apart."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, and let go of it."""
    import matplotlib.pyplot as plt

    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
    plt.close(figure)
