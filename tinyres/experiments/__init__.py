"""The published experiments on residual networks, in miniature: each one a picture, its numbers, and a claim judged.

>>> from tinyres import experiments
>>> result = experiments.run(experiments.get("initialisation")(seeds=1), progress=False)
>>> result.claim().holds
True
"""

from __future__ import annotations

import importlib
import json
import os

import numpy as np

from tinyres.experiments.experiment import Claim, Experiment, Result, parse, processes, run

NAMES = (
    "initialisation",
    "degradation",
    "layer_responses",
    "identity_mappings",
    "paths",
    "lesion",
    "shattering",
    "landscape",
    "identity_bias",
    "normalisation_free",
    "finite_width",
)


def get(name: str) -> type[Experiment]:
    """The experiment of that name: a frozen dataclass of its settings, for `run`."""
    if name not in NAMES:
        raise ValueError(f"experiment is {name!r}, expected one of {', '.join(NAMES)}")
    module = importlib.import_module(f"tinyres.experiments.{name}")
    kinds: list[type[Experiment]] = [value for value in vars(module).values() if getattr(value, "name", None) == name]
    return kinds[0]


def what(name: str) -> str:
    """What the experiment of that name shows, in a sentence."""
    get(name)
    text = importlib.import_module(f"tinyres.experiments.{name}").__doc__ or ""
    return " ".join(text.partition("\n\n")[0].split())


def load(path: str | os.PathLike[str]) -> Result:
    """What `Result.save` wrote as .npz: to draw it again, or to judge it.

    Raises:
        ValueError: if it is no result of an experiment.
    """
    try:
        with np.load(path) as archive:
            rows, settings, name = archive["rows"], json.loads(str(archive["settings"])), str(archive["name"])
    except (KeyError, ValueError, EOFError) as error:
        raise ValueError(
            f"{os.fspath(path)} is no result of an experiment: expected an .npz that `save` wrote"
        ) from error
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return Result(get(name)(**settings), rows.view(np.recarray))


__all__ = ["NAMES", "Claim", "Experiment", "Result", "get", "load", "parse", "processes", "run", "what"]
