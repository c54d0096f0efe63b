"""Networks that experiments train: by a recipe, in a folder where an interrupted run goes on to the bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tinyres.backend import manual_seed
from tinyres.models import load_state_dict_file
from tinyres.nn import Module
from tinyres.training import History, Recipe, fit

Make = Callable[..., Module]  # (num_classes=, in_channels=) → a network


class Trained(NamedTuple):
    """A network, how it learnt, and the recipe with what the data told."""

    model: Module
    history: History
    recipe: Recipe


def build(recipe: Recipe, make: Make | None = None) -> Module:
    """The network that a prepared recipe names, or the one that `make` makes, with weights from the recipe's seed."""
    if make is None:
        return recipe.build_model()
    manual_seed(recipe.seed)
    return make(num_classes=len(recipe.classes), in_channels=len(recipe.mean))


def train(recipe: Recipe, make: Make | None = None, output: Path | None = None, progress: bool = False) -> Trained:
    """Train the network that `build` gives as the recipe says.

    output: where to save at each epoch's end; what is found there goes on. Raises KeyboardInterrupt at Ctrl-C, and
    FloatingPointError where the loss is not finite.
    """
    recipe = recipe.prepared()
    model, loader = build(recipe, make), recipe.loader(train=True)
    optimizer = recipe.build_optimizer(model)
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
