"""Networks that experiments train: by a recipe, in a folder where an interrupted run goes on to the bit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tinyres.models import load_state_dict_file
from tinyres.nn import Module
from tinyres.training import History, Recipe, fit


class Trained(NamedTuple):
    """A network, how it learnt, and the recipe with what the data told."""

    model: Module
    history: History
    recipe: Recipe


def train(recipe: Recipe, model: Module | None = None, output: Path | None = None, progress: bool = False) -> Trained:
    """Train `model`, or the one that the recipe names, as the recipe says.

    output: where to save at each epoch's end; what is found there goes on. Raises KeyboardInterrupt at Ctrl-C.
    """
    recipe = recipe.prepared()
    model = recipe.build_model() if model is None else model
    loader, optimizer = recipe.loader(train=True), recipe.build_optimizer(model)
    scheduler = recipe.build_scheduler(optimizer, recipe.epochs * len(loader))
    history = fit(
        model,
        loader,
        optimizer,
        recipe.epochs,
        scheduler=scheduler,
        schedule_per="step",
        output=output,
        resume=output is not None,
        progress=progress,
    )
    if history.interrupted:
        raise KeyboardInterrupt
    return Trained(model, history, recipe)


def pretrained(recipe: Recipe, path: str | Path) -> tuple[Module, Recipe]:
    """The recipe's network with the weights in a file, and the recipe with what the data told, normalised as is usual
    for published weights: by ImageNet's mean and standard deviation. A head named "linear" there is `fc` here."""
    recipe = replace(recipe.prepared(), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = recipe.build_model()
    model.load_state_dict({re.sub(r"^linear\.", "fc.", key): w for key, w in load_state_dict_file(path).items()})
    return model, recipe
