"""A recorded run as one HTML page, which needs no network and no program but a browser.

The page's parts stand beside this file, `page.html`, `page.css` and four scripts, and are put together here with the
numbers.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tinyres.files import atomic_write
from tinyres.flow import style
from tinyres.flow.live import usual_kind
from tinyres.flow.plots.reading import Source, by_name
from tinyres.flow.record import Record
from tinyres.flow.report.pack import pack

SCRIPTS = "numbers.js", "drawing.js", "figures.js", "page.js"  # in the order in which they build on each other


def report(
    run: Source | Mapping[str, Source], path: str | os.PathLike[str] = "report.html", history: Any = None
) -> Path:
    """Write a page of figures that move with the recorded step: the gradient against depth, all layers and steps as
    a map, histograms, what the skips carry, update against weight, the loss, and a table of the numbers.

    Args:
        run: a Record, the path of a saved one, or several of either by name (a mapping, or what `compare` returns).
        path: the page to write.
        history: for the loss curve, a History or the path of a run's steps.csv; several by the same names as `run`.

    Returns:
        `path`.

    Raises:
        FileNotFoundError: if there is no such file. ValueError: if it is no record, if nothing was recorded, or if
            `history` names a run that is not there or is no table of steps. TypeError: for what is no record at all.
    """
    runs = by_name({Path(run).stem: run} if isinstance(run, str | os.PathLike) else run)
    if not runs:
        raise ValueError("report: run is empty, expected at least one record")
    for name, record in runs.items():
        if not record.steps:
            raise ValueError(f"report: {name or 'the record'} has no recorded step, expected at least one")
    histories = history if isinstance(history, Mapping) else dict.fromkeys([*runs][:1], history)
    if strangers := histories.keys() - runs.keys():
        raise ValueError(f"report: history has {', '.join(sorted(strangers))}, expected names of {', '.join(runs)}")
    data = {
        "colours": style.COLOURS,
        "kind": usual_kind(next(iter(runs.values()))) or "",
        "runs": [pack(name, record, histories.get(name)) for name, record in runs.items()],
    }
    parts = {
        "title": html.escape(f"Gradient flow: {' and '.join(filter(None, runs))}".removesuffix(": ")),
        "facts": "\n".join(facts(index, name, record) for index, (name, record) in enumerate(runs.items())),
        "css": part("page.css"),
        "js": "\n".join(map(part, SCRIPTS)),
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    with atomic_write(path) as file:
        file.write(re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], part("page.html")))
    return Path(path)


def part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def facts(index: int, name: str, record: Record) -> str:
    """A card that says what a run was, and what its gradients did."""
    rows, steps, kind = record.rows, record.steps, usual_kind(record)
    sentences = [f"{len(set(rows['position'].tolist()))} layers, {counted(len(steps), 'step')} recorded"]
    for step in dict.fromkeys((steps[0], steps[-1])):
        _, names, values = record.depth("activation_grad", step=step, kind=kind)
        if len(values) > 1 and values[-1] > 0 and math.isfinite(values[0]):
            first, last = html.escape(names[0]), html.escape(names[-1])
            factor = f"<strong>{values[0] / values[-1]:.3g} ×</strong>"
            sentences.append(f"step {step}: the gradient at {first} is {factor} that at {last}")
    missing, bad = int((rows["nonfinite_fraction"] != rows["nonfinite_fraction"]).sum()), rows["nonfinite_fraction"] > 0
    if missing:
        sentences.append(f"{counted(missing, 'row')} of {len(rows):,} missing")
    if bad.any():
        sentences.append(f"NaN or Inf in {counted(int(bad.sum()), 'row')}")
    items = "".join(f"<li>{sentence}</li>" for sentence in sentences)
    heading = html.escape(name or "The run")
    return f'<section class="card" data-run="{index}"><h2>{heading}</h2><ul>{items}</ul></section>'


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
