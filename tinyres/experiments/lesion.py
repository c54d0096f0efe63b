"""Lesions: one block deleted, or blocks exchanged, after training (Veit et al. 2016, §4.1 and §4.3).

A plain net has one path, and any block cut out of it breaks it. A ResNet is many paths of different length; of these,
deleting one of L blocks leaves half, and the error hardly rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres import flow
from tinyres.data import DataLoader, Subset
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.trained import pretrained, train
from tinyres.training import Recipe, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    family: str  # "plain" or "ResNet"
    seed: int
    deleted: str  # the block's name, or ""
    swaps: int  # how many times two blocks changed places
    tau: float  # how much of their order is left (Kendall's), 1 for all
    error: float  # share of wrong answers on test images, 0 to 1


@dataclass(frozen=True)
class Lesion(Experiment):
    """A plain net and a ResNet, trained or from a file, each block deleted in turn, and blocks shuffled.

    data: as `tinyres.training.Recipe` takes it. plain, residual: the depths, 6n + 2. width: factor on the channels
    16, 32, 64 of the nets that are trained. weights: a file with a trained ResNet of width 1, used in place of
    training one; its images are normalised as is usual for ImageNet. test_images: how many to measure the error on.
    swaps: how many exchanges, each `draws` times at random.
    """

    data: str = "digits"
    train_images: int = 0
    image_size: int = 14
    plain: int = 20
    residual: int = 56
    width: float = 0.25
    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.05
    weights: str = ""
    test_images: int = 1000
    swaps: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 5

    name: ClassVar[str] = "lesion"
    quick: ClassVar[dict[str, Any]] = {}

    def cases(self) -> list[Case]:
        return [(family, seed) for seed in range(self.seeds) for family in ("plain", "ResNet")]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        family, seed = case
        from_file = family == "ResNet" and self.weights
        recipe = Recipe(
            model=f"plain{self.plain}" if family == "plain" else f"resnet{self.residual}",
            model_options={} if from_file else {"width": self.width},
            data=self.data,
            train_images=self.train_images,
            image_size=self.image_size,
            augment=False,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=seed,
        )
        if from_file:
            model, recipe = pretrained(recipe, self.weights)
        else:
            model, _, recipe = train(recipe, output=output, progress=progress)
        rng = np.random.default_rng(seed)
        test = recipe.dataset(train=False)
        chosen = rng.permutation(len(test))[: self.test_images]
        batches = list(DataLoader(Subset(test, chosen), 250, recipe.transform(train=False)))

        def error(model: Any) -> float:
            return 1 - evaluate(model, batches).accuracy

        rows = [Row(family, seed, block, 0, 1.0, value) for block, value in flow.lesion(model, error).items()]
        for swaps in self.swaps:
            for _ in range(self.draws):
                order = flow.shuffled(model, swaps, rng)
                with flow.reordered(model, order):
                    rows.append(Row(family, seed, "", swaps, flow.kendall_tau(order), error(model)))
        return rows
