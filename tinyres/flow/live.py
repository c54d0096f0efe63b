"""A run watched while it goes on: a figure that redraws itself in a notebook, a table in a terminal, else nothing.

Drawing takes at most a tenth of the time, and is done at most once a second.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres.flow.record import Record, Rows

if TYPE_CHECKING:
    from rich.console import RenderableType

SECONDS = 1.0  # between two drawings, at least
SHARE = 0.1  # of the time that may go into drawing
MULTIPLYING = ("Conv2d", "Linear")  # kinds of layers to look at first
SPARKS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # of a sparkline
MARGIN = 6  # lines of the terminal that are not layers: title (two), header, a progress bar, the prompt


@contextlib.contextmanager
def on_screen(record: Record) -> Iterator[Callable[[], None]]:
    """Gives a function to be called whenever `record` has grown, which draws it if it is time to. The last state is
    drawn when all is over."""
    with canvas(record) as draw:
        due = 0.0

        def grown() -> None:
            nonlocal due
            start = time.monotonic()
            if start >= due and record.steps:
                draw()
                end = time.monotonic()
                due = end + max(SECONDS, (end - start) / SHARE)

        yield grown
        if record.steps:
            draw()


def canvas(record: Record) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """How to draw where this program runs."""
    if in_notebook():
        return contextlib.nullcontext(cell(record))
    from rich import get_console

    console = get_console()
    if console.is_terminal and not console.is_dumb_terminal:
        return terminal(record)
    return contextlib.nullcontext(lambda: None)


def in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None) is not None


# In a notebook


def cell(record: Record, newest: int = 4) -> Callable[[], None]:
    """Draws the newest steps as a depth plot, always into the same output."""
    handle: Any = None

    def draw() -> None:
        nonlocal handle
        import IPython.display
        import matplotlib.pyplot as plt

        notebook: Any = IPython.display
        figure: Any = record.plot(steps=record.steps[-newest:], kind=usual_kind(record)).figure
        png = io.BytesIO()
        figure.savefig(png, format="png", bbox_inches="tight")
        plt.close(figure)  # or the notebook would show it again below
        if handle is None:
            handle = notebook.display(notebook.Image(png.getvalue()), display_id=True)
        else:
            handle.update(notebook.Image(png.getvalue()))

    return draw


# In a terminal


@contextlib.contextmanager
def terminal(record: Record) -> Iterator[Callable[[], None]]:
    """Draws a table, which stays at the bottom of the terminal. A progress bar of the same console joins it."""
    from rich import get_console
    from rich.live import Live

    console = get_console()
    with Live(console=console, refresh_per_second=2) as display:
        yield lambda: display.update(table(record, console.height - MARGIN), refresh=True)


class Line(NamedTuple):
    """What is shown of a layer, or of a block."""

    name: str
    gradients: list[float]  # rms of the gradient by its output at each recorded step
    ratio: float  # rms of the update over rms of the weight, a block's largest


def table(record: Record, height: int) -> RenderableType:
    """The newest step in at most `height` lines of layers."""
    from rich.table import Table

    lines = fit(record, height)
    newest = [line.gradients[-1] for line in lines]
    title = f"step {record.steps[-1]}"
    if len(lines) > 1 and (factor := quotient(newest[0], newest[-1])) > 0:
        title += f": the gradient at {lines[0].name} is {factor:.3g} × that at {lines[-1].name}"
    result = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
    result.add_column("layer", no_wrap=True)
    result.add_column(f"gradient, steps {record.steps[0]} to {record.steps[-1]}", no_wrap=True)
    for heading in ("rms", "× next", "update/weight"):
        result.add_column(heading, justify="right", no_wrap=True)
    for index, line in enumerate(lines):
        factor = quotient(newest[index], newest[index + 1]) if index + 1 < len(lines) else math.nan
        numbers = f"{newest[index]:.2e}", f"{factor:.3g}", f"{line.ratio:.1e}"
        result.add_row(line.name, sparkline(line.gradients), *("" if n == "nan" else n for n in numbers))
    return result


def fit(record: Record, height: int) -> list[Line]:
    """A line for each layer of the usual kind, or for each block if these are too many, or for some blocks, evenly
    from the first to the last."""
    rows, kind = record.rows, usual_kind(record)
    rows = rows if kind is None else rows[rows["kind"] == kind]
    groups = [[position] for position in np.unique(rows["position"])]
    if len(groups) > height:
        place = dict(zip(rows["position"].tolist(), zip(rows["block"], rows["name"], strict=True), strict=True))
        blocks: dict[str, list[int]] = {}
        for position, (block, name) in sorted(place.items()):
            blocks.setdefault(block or name, []).append(position)
        groups = list(blocks.values())
    picks = np.unique(np.linspace(0, len(groups) - 1, min(max(height, 2), len(groups))).round().astype(int))
    whole = any(len(group) > 1 for group in groups)
    return [line(rows[np.isin(rows["position"], groups[pick])], record.steps, whole) for pick in picks]


def line(rows: Rows, steps: Sequence[int], whole: bool) -> Line:
    """A layer's rows as a line, or those of a `whole` block: the gradient by its last layer's output."""
    last = rows[rows["position"] == rows["position"].max()]
    gradients = last[last["role"] == "activation_grad"]
    by_step = dict(zip(gradients["step"].tolist(), gradients["rms"].tolist(), strict=True))
    now = rows[rows["step"] == steps[-1]]
    sizes = {role: now["rms"][now["role"] == role] for role in ("update", "weight")}
    ratios = [*map(quotient, sizes["update"].tolist(), sizes["weight"].tolist())]
    name = str((whole and last["block"][0]) or last["name"][0])
    return Line(name, [by_step.get(step, math.nan) for step in steps], max(ratios, default=math.nan))


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Positive numbers as bars on a log scale from the least to the largest, a decade at least; at most `width` of
    them, evenly chosen, with the first and last. A ring is exactly zero, a cross is missing or not finite."""
    picks = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    chosen = [values[pick] for pick in picks]
    logs = [math.log10(value) for value in chosen if 0 < value < math.inf]
    least, span = min(logs, default=0), max(logs, default=0) - min(logs, default=0)
    if span < 1:
        least, span = least - (1 - span) * 3.5 / len(SPARKS), 1  # in the middle of a bar

    def bar(value: float) -> str:
        if not 0 < value < math.inf:
            return "○" if value == 0 else "×"
        return SPARKS[min(len(SPARKS) - 1, int(len(SPARKS) * (math.log10(value) - least) / span))]

    return "".join(map(bar, chosen))


def quotient(value: float, by: float) -> float:
    return value / by if by else math.nan


def usual_kind(record: Record) -> str | None:
    """The kind of layer by whose order depth is counted: the convolutions, else the linear layers, else (None) all."""
    kinds = set(record.rows["kind"].tolist())
    return next((kind for kind in MULTIPLYING if kind in kinds), None)
