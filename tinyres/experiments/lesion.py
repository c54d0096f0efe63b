"""Lesions: one block deleted, or blocks exchanged, after training (Veit et al. 2016, §4.1 and §4.3).

A plain net is one path, and a block cut out of it breaks it. A ResNet of L blocks is 2^L paths; without one block, half
of them are left, and the error hardly rises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres import flow
from tinyres.data import DataLoader, Subset
from tinyres.experiments.experiment import Case, Claim, Rows
from tinyres.experiments.trained import FAMILIES, TrainingExperiment, by_seed, pretrained, train
from tinyres.training import evaluate

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
class Lesion(TrainingExperiment):
    """A plain net and a ResNet, trained or from a file, each block deleted in turn, and blocks exchanged.

    plain, residual: the depths. weights: a file with a trained ResNet of width 1 for images normalised as is usual
    for ImageNet, used in place of training one. test_images: how many to measure the error on. swaps: how many
    exchanges, each `draws` times at random. little, much: by how much, from 0 to 1, the error may rise and has to
    rise where one block is deleted.
    """

    plain: int = 20
    residual: int = 56
    weights: str = ""
    test_images: int = 1000
    swaps: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 5
    little: float = 0.1
    much: float = 0.2

    name: ClassVar[str] = "lesion"
    quick: ClassVar[dict[str, Any]] = {
        "seeds": 1,
        "train_images": 2000,
        "epochs": 5,
        "residual": 32,
        "test_images": 250,
        "draws": 2,
    }

    def cases(self) -> list[Case]:
        return [(family, seed) for seed in range(self.seeds) for family in FAMILIES]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        family, seed = case
        recipe = self.recipe(f"plain{self.plain}" if family == "plain" else f"resnet{self.residual}", seed)
        if family == "ResNet" and self.weights:
            model, recipe = pretrained(replace(recipe, model_options={}), self.weights)
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

    def plot(self, rows: Rows) -> Figure:
        """Left, the first seed's error with each block deleted; right, all seeds' errors with blocks shuffled."""
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, (left, right) = plt.subplots(1, 2, figsize=(14, 4.8), layout="constrained", sharey=True)
        names = {"plain": f"plain-{self.plain}", "ResNet": f"ResNet-{self.residual}"}
        lesions = {}
        for index, (family, name) in enumerate(names.items()):
            mine = rows[rows.family == family]
            one = mine[(mine.seed == 0) & (mine.swaps == 0)]
            lesions[name] = dict(zip(one.deleted.tolist(), 100 * one.error, strict=True))
            moved = mine[mine.deleted == ""]
            look = {**style.line(index), "linestyle": "", "markersize": 5}
            right.plot(moved.tau, 100 * moved.error, **look, label=name)
        flow.lesion_plot(lesions, "test error (%)", left)
        left.get_legend().remove()
        left.set(title="One block deleted", ylim=(0, 100))
        style.axes(right)
        right.set(title="Blocks exchanged", xlabel="how much of the order is left (Kendall's τ)")
        right.invert_xaxis()
        figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False)
        return figure

    def claim(self, rows: Rows) -> Claim:
        rises = {family: [median_rise(rows, family, seed) for seed in np.unique(rows.seed)] for family in FAMILIES}
        points = {family: [100 * rise for rise in values] for family, values in rises.items()}
        seen = f"median rise of the test error, in points: {by_seed(points, '{:.1f}')}"
        expected = (
            f"deleting a block raises the test error of ResNet-{self.residual} by {100 * self.little:g} points at "
            f"most, in the median over the blocks, and that of plain-{self.plain} by {100 * self.much:g} points or "
            "more (Veit et al. 2016, fig. 3)"
        )
        verdicts = (a >= self.much and b <= self.little for a, b in zip(*rises.values(), strict=True))
        return Claim(expected, seen, tuple(map(bool, verdicts)))


def median_rise(rows: Rows, family: str, seed: int) -> float:
    """By how much one deleted block raises the error, in the median over the blocks that can be deleted."""
    mine = rows[(rows.family == family) & (rows.seed == seed) & (rows.swaps == 0)]
    whole, broken = mine[mine.deleted == ""].error, mine[mine.deleted != ""].error
    return float(np.nanmedian(broken) - whole[0])
