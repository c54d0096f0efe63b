"""The loss around a trained network, along filter-normalised random directions (Li et al. 2018, §4).

A step of 1 along such a direction changes each filter by as much as it is long, whatever its scale: so that a network
whose weights are large, which matters nothing before a batch norm, does not look flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres.backend import Array, generator, to_device, to_host
from tinyres.flow import style
from tinyres.nn import Module

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Direction = dict[str, Array]  # a change for each parameter, by name


class Landscape(NamedTuple):
    """A measure around a network. x: (A,), steps along the first direction; y: (B,), along the second, or only 0;
    values: (B, A)."""

    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


def random_direction(model: Module, rng: np.random.Generator | None = None) -> Direction:
    """A Gaussian direction d, filter-normalised: d_ij ← d_ij / ‖d_ij‖ · ‖θ_ij‖ (Li et al. 2018, eq. 1).

    A filter is what makes one output channel of a convolution, or one output of a linear layer. Batch norm's
    parameters and all biases stay where they are: the direction is zero there. Drawn from the global generator unless
    `rng` is given.
    """
    rng = generator() if rng is None else rng
    direction = {}
    for name, parameter in model.named_parameters():
        weights = to_host(parameter.data)
        if weights.ndim < 2:
            change = np.zeros_like(weights)
        else:
            change = rng.normal(size=weights.shape)  # (O, I, …), a filter for each O
            change *= lengths(weights) / lengths(change)
        direction[name] = to_device(change.astype(weights.dtype), parameter.device)
    return direction


def lengths(filters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The 2-norm of each filter of (O, I, …), as (O, 1, …)."""
    axes = tuple(range(1, filters.ndim))
    return np.asarray(np.sqrt(np.square(filters.astype(np.float64)).sum(axis=axes, keepdims=True)))


def landscape(
    model: Module,
    measure: Callable[[Module], float],
    directions: Sequence[Direction],
    x: Sequence[float] = tuple(np.linspace(-1, 1, 21)),
    y: Sequence[float] | None = None,
) -> Landscape:
    """`measure` of the network with its parameters at θ + x·d₁, or at θ + x·d₁ + y·d₂ (Li et al. 2018, §2).

    Args:
        measure: of the network, a number: such as its loss on some batches in evaluation mode.
        directions: one or two of them, as `random_direction` makes them.
        x, y: the steps along each; y is x by default.

    What cannot be computed is NaN or infinite in `values`. Parameters, running statistics, modes and the random
    generator are as they were afterwards.
    """
    if len(directions) not in (1, 2):
        raise ValueError(f"landscape: directions are {len(directions)}, expected 1 or 2")
    for direction in directions:
        if set(direction) != {name for name, _ in model.named_parameters()}:
            raise ValueError("landscape: a direction has other names than the model's parameters")
    first, second = directions[0], directions[-1]
    across = np.asarray(x, np.float64)
    along = np.zeros(1) if len(directions) == 1 else across if y is None else np.asarray(y, np.float64)
    values = np.empty((len(along), len(across)))
    before = [(name, parameter, parameter.data) for name, parameter in model.named_parameters()]
    try:
        for (row, column), _ in np.ndenumerate(values):
            a, b = float(across[column]), float(along[row])
            for name, parameter, centre in before:
                parameter.data = centre.copy("K")  # as it lies in memory: products of another layout round otherwise
                parameter.data += a * first[name] + (b * second[name] if b else 0)
            with model.unchanged(), np.errstate(over="ignore", invalid="ignore"):
                values[row, column] = measure(model)
    finally:
        for _, parameter, centre in before:
            parameter.data = centre
    return Landscape(across, along, values)


def line_plot(landscapes: Landscape | dict[str, Landscape], ylabel: str = "loss", ax: Axes | None = None) -> Axes:
    """Draw landscapes along one direction, one or several by name, on a log scale."""
    several = {"": landscapes} if isinstance(landscapes, Landscape) else landscapes
    ax = style.axes(ax)
    for index, (name, scape) in enumerate(several.items()):
        for row, values in enumerate(scape.values):
            ax.plot(scape.x, values, **{**style.line(index), "marker": ""}, label=None if row or not name else name)
    ax.set(yscale="log", xlabel="step along the direction (filter-normalised)", ylabel=ylabel)
    style.legend(ax)
    return ax


def contour_plot(
    scape: Landscape, levels: Sequence[float] | None = None, label: str = "loss", ax: Axes | None = None
) -> Axes:
    """Draw a landscape along two directions from above, the values as colours between lines of equal height.

    levels: the heights of the lines; by default about 20, even on a log scale. What is not finite is left white.
    """
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    values = np.where(np.isfinite(scape.values), scape.values, np.nan)
    levels = log_levels(np.nanmin(values), np.nanmax(values)) if levels is None else levels
    ax = style.axes(ax, (6, 4.5))
    colours = ax.contourf(scape.x, scape.y, values, levels, cmap=style.MAP, norm="log")
    ax.contour(scape.x, scape.y, values, levels, colors="white", linewidths=0.6)
    bar = ax.figure.colorbar(colours, ax=ax, label=label, ticks=LogLocator(), format=LogFormatterSciNotation())
    bar.minorticks_off()
    ax.plot(0, 0, "+", color="white", markersize=9)
    ax.set(xlabel="step along the first direction", ylabel="along the second", box_aspect=1)
    return ax


def log_levels(low: float, high: float, count: int = 20) -> list[float]:
    """About `count` heights that enclose the two, even on a log scale, whole powers of ten among them."""
    bottom, top = np.log10(low), np.log10(high)
    parts = max(1, round(count / (top - bottom)))  # of a power of ten
    return [float(10 ** (k / parts)) for k in range(math.floor(bottom * parts), math.ceil(top * parts) + 1)]


def surface_plot(scape: Landscape, zlim: tuple[float, float] | None = None, ax: Axes | None = None) -> Axes:
    """Draw a landscape along two directions as a surface in space, its height on a log scale.

    zlim: the heights between which it is drawn, such as another one's; by default its own. ax: one in 3-D. What is
    not finite is drawn at the top.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if ax is None:
        ax = plt.figure(figsize=(6, 5), layout="constrained").add_subplot(projection="3d")
    finite = scape.values[np.isfinite(scape.values)]
    low, high = np.log10(zlim or (finite.min(), finite.max()))
    height = np.full_like(scape.values, high)
    np.log10(scape.values, out=height, where=np.isfinite(scape.values))
    x, y = np.meshgrid(scape.x, scape.y)
    space: Any = ax  # matplotlib's 3-D axes have no types of their own
    space.plot_surface(x, y, np.clip(height, low, high), cmap=style.MAP, vmin=low, vmax=high, rcount=100, ccount=100)
    space.set(xlabel="first direction", ylabel="second direction", zlim=(low, high))
    for axis in (space.xaxis, space.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    space.zaxis.set_major_locator(MaxNLocator(5, integer=True))
    space.zaxis.set_major_formatter(FuncFormatter(lambda power, _: power_of_ten(power)))
    return ax


def power_of_ten(exponent: float) -> str:
    return f"$10^{{{exponent:.0f}}}$"
