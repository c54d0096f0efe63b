"""What experiments that train networks share: their settings, and training that goes on to the bit where it was
interrupted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tinyres.backend import manual_seed
from tinyres.experiments.experiment import Experiment
from tinyres.models import load_state_dict_file
from tinyres.nn import Module
from tinyres.training import History, Recipe, fit

FAMILIES = "plain", "ResNet"  # the same layers, without additions and with them

Make = Callable[..., Module]  # (num_classes=, in_channels=) → a network


@dataclass(frozen=True)
class TrainingExperiment(Experiment):
    """Settings of experiments that train small networks by one recipe, without augmentation.

    data: a name, or a folder that holds train/ and test/, as `tinyres.training.Recipe` takes it. train_images: how
    many of its images, 0 for all. image_size: side to shrink them to, 0 for their own. width: factor on the channels
    16, 32, 64. Depths are 6n + 2.
    """

    data: str = "digits"
    train_images: int = 0
    image_size: int = 14
    width: float = 0.25
    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.05

    def recipe(self, model: str, seed: int, **options: Any) -> Recipe:
        """How the named model is trained. options: of the model, beside its width."""
        return Recipe(
            model=model,
            model_options={"width": self.width, **options},
            data=self.data,
            train_images=self.train_images,
            image_size=self.image_size,
            augment=False,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=seed,
        )


def by_seed(values: Mapping[str, Iterable[float]], form: str) -> str:
    """Numbers in words, each net's by name, one for each seed: "plain-20 58.8%, 57.9%; …". form: as in "{:.1%}"."""
    return "; ".join(f"{net} {', '.join(map(form.format, numbers))}" for net, numbers in values.items())


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
