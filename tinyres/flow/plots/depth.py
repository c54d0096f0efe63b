"""A statistic against depth: how signals or gradients grow and shrink from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinyres.flow import style
from tinyres.flow.plots.drawing import LOGARITHMIC, WORDS, legend, line, undrawable
from tinyres.flow.plots.reading import Source, Values, by_name, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def depth(
    records: Source | Mapping[str, Source],
    role: str = "activation_grad",
    statistic: str = "rms",
    steps: Sequence[int] | None = None,
    kind: str | None = "Conv2d",
    theory: float | Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a statistic against depth: a colour for each network, a shade for each step, later ones darker.

    Magnitudes are on a log scale. Where a value cannot be drawn on it the line has a gap, and a mark at the bottom
    says whether it is missing (a cross) or exactly zero (a ring).

    Args:
        records: one record, or several by name. role, statistic: as in `Record.depth`.
        steps: which steps; by default up to four, from the first to the last that a record has.
        kind: only modules of this class; None for all. Depth counts the modules drawn, from 1 at the input.
        theory: by what each layer should multiply what goes back through it, drawn as a dotted line from the last
            layer's value at the first step drawn; or several such factors by label. A label that is a network's name
            starts at that network, all others at the first one.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.ticker import MaxNLocator

    ax = style.axes(ax)
    ax.set_yscale("log" if statistic in LOGARITHMIC else "linear")
    marks: set[str] = set()
    starts: dict[str, Values] = {}  # each network's values at the first step drawn
    for index, (name, record) in enumerate(by_name(records).items()):
        chosen = spread(record.steps) if steps is None else steps
        for step, strength in zip(chosen, np.linspace(1, 0.35, len(chosen))[::-1], strict=True):
            values = record.depth(role, statistic, step, kind)[2]
            starts.setdefault(name, values)
            look = {**style.line(index), "color": style.faded(style.COLOURS[index % len(style.COLOURS)], strength)}
            label = ", ".join(filter(None, [name, f"step {step}" if not name or len(chosen) > 1 else ""]))
            marks |= line(ax, np.arange(1, len(values) + 1), values, index, **look, label=label)
    if theory is not None and starts:
        draw_theory(ax, theory if isinstance(theory, Mapping) else {"": theory}, starts)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f"depth ({kind or 'modules'}, counted from the input)")
    ax.set_ylabel(f"{WORDS[role]}\n({WORDS[statistic]})")
    legend(ax, marks)
    return ax


def draw_theory(ax: Axes, factors: Mapping[str, float], starts: Mapping[str, Values]) -> None:
    """A dotted line for each factor: value · factor^(L − l) at layer l of L, where `value` is the last drawable one."""
    names = list(starts)
    for number, (label, factor) in enumerate(factors.items()):
        if not 0 < factor < np.inf:
            raise ValueError(f"theory is {factor!r}{label and f' for {label!r}'}, expected a factor above 0")
        values = starts.get(label, starts[names[0]])
        missing, zero = undrawable(values, logarithmic=True)
        drawable = np.flatnonzero(~missing & ~zero)
        if drawable.size:
            last = drawable[-1]
            with np.errstate(over="ignore", under="ignore"):
                expected = values[last] * factor ** np.arange(last, -1, -1.0)
            colour = style.COLOURS[names.index(label) % len(style.COLOURS)] if label and label in names else "black"
            text = f"theory{label and f', {label}'}: ×{factor:.4g} a layer"
            ax.plot(np.arange(1, last + 2), expected, color=colour, linestyle=(0, (1, 1.5 + number)), label=text)
