"""The network itself, drawn as boxes and skips in the colours of their gradients."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.drawing import LOGARITHMIC, WORDS, colours, fill, legend_of_fills, note, undrawable
from tinyres.flow.plots.reading import SHORTCUT, Source, at, column, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

# Lengths in units of the distance between two layers.
WIDEST = 35  # a row
GAP = 0.5  # between two blocks
PITCH = 3.1  # between two rows
TOP = 0.95  # of a skip's arc above its row
CORNER = 0.3


class Layer(NamedTuple):
    name: str
    kind: str
    block: str
    value: float  # the statistic that colours it
    skip: float  # the same of what came through the skip, for an addition


class Group(NamedTuple):
    """The layers of one block in the main line, and those on its skip; x is where the first one stands."""

    block: str
    layers: list[Layer]
    shortcut: list[Layer]
    x: float


def diagram(
    record: Source,
    statistic: str = "rms",
    step: int | None = None,
    kinds: Sequence[str] = ("Conv2d", "Linear"),
    ax: Axes | None = None,
) -> Axes:
    """Draw the network from the input (top left) to the output, a row for each stage: a box for each layer, a circle
    with a plus for each addition, an arc for each skip, in the colours of the gradients by their outputs.

    An arc has the colour of the gradient that came through the skip, or is grey in a record that lacks it. Layers
    whose gradient is missing are hatched, those where it is exactly zero are dotted.

    Args:
        record: one record. statistic: as in `Record.depth`. step: a recorded step; the last by default.
        kinds: which classes of modules are drawn as boxes.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.cm import ScalarMappable

    record = read(record)
    record.depth("activation_grad", statistic, step)  # which refuses what it does not know
    step, rows = at(record, step)
    lines = arranged(layers_of(rows, statistic, kinds))
    width = max((row[-1].x + len(row[-1].layers) for row in lines), default=10)
    inches = min(0.6, 12 / (width + 1))  # a unit's, in a figure of one's own
    ax = style.axes(ax, ((width + 1) * inches + 1.4, max(2, (PITCH * len(lines) + 0.4) * inches + 0.5)))
    if not lines:
        return note(ax, f"no {' or '.join(kinds) or 'module'} was recorded")
    ax.set(xlim=(-1.2, width + 0.3), ylim=(-PITCH * len(lines) + PITCH - 1.2, 1.4), aspect="equal")
    ax.axis("off")
    values = np.array([value for row in lines for group in row for value in values_of(group)])
    logarithmic = statistic in LOGARITHMIC
    pen = Pen(ax, ScalarMappable(colours(values, logarithmic), style.MAP), logarithmic, points_per_unit(ax))
    for number, row in enumerate(lines):
        y = -PITCH * number
        end = row[-1].x + len(row[-1].layers) - 0.2
        pen.line((-1, y), (end, y))
        if number + 1 < len(lines):
            below = y - PITCH + TOP + 0.55
            pen.line((end, y), (end, below), (-1, below), (-1, y - PITCH))
        for group in row:
            pen.group(group, y)
    if np.isfinite(values).any():
        ax.figure.colorbar(pen.colours, ax=ax, label=f"{WORDS['activation_grad']}\n({WORDS[statistic]})", shrink=0.8)
    legend_of_fills(ax, pen.fills)
    ax.set_title(f"step {step}", loc="left", fontsize="medium")
    return ax


def layers_of(rows: Any, statistic: str, kinds: Sequence[str]) -> list[Layer]:
    """What is to be drawn, in the order of the forward pass. Additions are, whatever the kinds."""
    modules = rows[(rows["role"] == "activation") & np.isin(rows["kind"], [*kinds, "Add"])]
    values = column(rows, "activation_grad", statistic, modules["position"])
    skips = column(rows, "skip_grad", statistic, modules["position"])
    columns = modules["name"].tolist(), modules["kind"].tolist(), modules["block"].tolist(), values, skips
    return [Layer(*fields) for fields in zip(*columns, strict=True)]


def arranged(layers: list[Layer]) -> list[list[Group]]:
    """Rows of blocks: a new one for each stage, and where a row is full. Layers outside of blocks stand alone."""
    lines: list[list[Group]] = []
    stage = ""
    for _, members in itertools.groupby(enumerate(layers), lambda pair: pair[1].block or pair[0]):
        mine = [layer for _, layer in members]
        adds = any(layer.kind == "Add" for layer in mine)
        main = [layer for layer in mine if not (adds and SHORTCUT in layer.name)]
        aside = [layer for layer in mine if adds and SHORTCUT in layer.name]
        block = mine[0].block
        here = block.rpartition(".")[0]
        x = lines[-1][-1].x + len(lines[-1][-1].layers) + GAP if lines else 0.0
        if not lines or (here and stage and here != stage) or x + len(main) > WIDEST:
            lines.append([])
            x = 0.0
        stage = here or stage
        lines[-1].append(Group(block, main, aside, x))
    return lines


def values_of(group: Group) -> list[float]:
    return [*(layer.value for layer in group.layers + group.shortcut), *(layer.skip for layer in group.layers)]


def points_per_unit(ax: Axes) -> float:
    """How large a unit of the axes will be, about, in points."""
    box = ax.get_window_extent()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    return float(min(box.width / (right - left), box.height / (top - bottom)) * 72 / ax.figure.dpi)


class Pen:
    """Draws a network's parts in the colours of their values, and remembers which other fills it used.

    points: a unit of the axes.
    """

    def __init__(self, ax: Axes, colours: ScalarMappable, logarithmic: bool, points: float) -> None:
        self.ax, self.colours, self.logarithmic = ax, colours, logarithmic
        self.points, self.letters = points, min(8.0, 0.24 * points)
        self.fills: dict[str, None] = {}

    def look(self, value: float) -> dict[str, Any]:
        """A patch's colours."""
        missing, zero = undrawable(np.asarray(value), self.logarithmic)
        if not (missing or zero):
            return dict(facecolor=self.colours.to_rgba(np.asarray(value)), edgecolor="black")
        word = "missing" if missing else "exactly zero"
        self.fills[word] = None
        return fill(word)

    def line(self, *points: tuple[float, float]) -> None:
        """The way from layer to layer."""
        self.ax.plot(*zip(*points, strict=True), color="0.6", linewidth=1, zorder=1)

    def group(self, group: Group, y: float) -> None:
        """A block on its grey ground; or a layer outside of blocks."""
        from matplotlib.patches import Rectangle

        left, width = group.x - 0.5, len(group.layers)
        if group.block:
            top = TOP + 0.3 if any(layer.kind == "Add" for layer in group.layers) else 0.7
            self.ax.add_patch(Rectangle((left, y - 0.95), width, top + 0.95, color="0.95", zorder=0))
            self.ax.text(left + width / 2, y - 0.75, group.block, ha="center", va="center", fontsize=self.letters)
        start = left - GAP / 2
        for x, layer in zip(itertools.count(group.x), group.layers, strict=False):
            if layer.kind == "Add":
                self.skip(layer, start, x, y)
                for index, other in enumerate(group.shortcut):
                    room = 2 / len(group.shortcut)
                    middle = (start + x) / 2 + room * (index + 0.5) - 1
                    self.box(other, other.name.removeprefix(f"{group.block}."), middle, y + TOP, room - 0.1, 0.5)
                self.addition(layer, x, y)
                start = x + 0.5
            else:
                self.box(layer, layer.name.rpartition(".")[2], x, y, 0.78, 1)

    def box(self, layer: Layer, text: str, x: float, y: float, width: float, height: float) -> None:
        from matplotlib.patches import Rectangle

        look = self.look(layer.value)
        corner = x - width / 2, y - height / 2
        self.ax.add_patch(Rectangle(corner, width, height, **look, linewidth=0.6, gid=layer.name, zorder=3))
        self.text(x, y, text, look, max(width, height if len(text) > 5 else 0), upright=width > height or len(text) < 6)

    def addition(self, layer: Layer, x: float, y: float) -> None:
        from matplotlib.patches import Circle

        look = self.look(layer.value)
        self.ax.add_patch(Circle((x, y), 0.3, **look, linewidth=0.6, gid=layer.name, zorder=3))
        self.text(x, y, "+", look, room=0.6)

    def text(self, x: float, y: float, text: str, look: dict[str, Any], room: float, upright: bool = True) -> None:
        """Letters of a size that fits, black or white, whichever stands out."""
        from matplotlib.colors import to_rgb

        brightness = np.dot(to_rgb(look["facecolor"]), (0.299, 0.587, 0.114))
        size = min(self.letters, self.points * room / (0.65 * len(text)))
        options: dict[str, Any] = dict(color="black" if brightness > 0.5 else "white", fontsize=size)
        options["rotation"] = 0 if upright else 90
        if "hatch" in look:
            options["bbox"] = dict(facecolor=look["facecolor"], linewidth=0, pad=0.5)
        self.ax.text(x, y, text, ha="center", va="center", zorder=4, **options)

    def skip(self, layer: Layer, start: float, x: float, y: float) -> None:
        """The arc from before the block to its addition."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path
        from matplotlib.patheffects import Normal, Stroke

        top, r = y + TOP, CORNER
        points = [(start, y), (start, top - r), (start, top), (start + r, top), (x - r, top), (x, top), (x, top - r)]
        codes = [Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3]
        path = Path([*points, (x, y + 0.3)], [*codes, Path.LINETO])
        missing, zero = undrawable(np.asarray(layer.skip), self.logarithmic)
        colour = "0.75" if missing or zero else self.colours.to_rgba(np.asarray(layer.skip))
        width = 0.08 * self.points
        outline = [Stroke(linewidth=width + 1.2, foreground="black"), Normal()]
        name = f"{layer.name}, skip"
        self.ax.add_patch(
            PathPatch(path, fill=False, edgecolor=colour, linewidth=width, path_effects=outline, gid=name, zorder=2)
        )
