"""The loss around a trained plain net and around its residual twin, along filter-normalised random directions (Li et
al. 2018, fig. 1 and 5): skips keep it smooth where depth alone makes it rough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres import flow
from tinyres.data import DataLoader, Subset
from tinyres.experiments.experiment import Case, Claim, Rows
from tinyres.experiments.trained import FAMILIES, TrainingExperiment, by_seed, train
from tinyres.flow.landscape import log_levels
from tinyres.training import evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    family: str  # "plain" or "ResNet"
    seed: int
    x: float  # steps along the first direction
    y: float  # and along the second
    loss: float  # on training images, in evaluation mode


@dataclass(frozen=True)
class LossLandscape(TrainingExperiment):
    """plain-`depth` and ResNet-`depth`, each in two directions drawn with the seed.

    images: how many of the training set to measure the loss on. extent, points: the grid goes from -extent to extent
    on either axis, so many points.
    """

    depth: int = 56
    images: int = 500
    extent: float = 1.0
    points: int = 21

    name: ClassVar[str] = "landscape"
    quick: ClassVar[dict[str, Any]] = {"seeds": 1, "train_images": 1000, "epochs": 5, "images": 100, "points": 15}

    def cases(self) -> list[Case]:
        return [(family, seed) for seed in range(self.seeds) for family in FAMILIES]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        family, seed = case
        model, _, recipe = train(self.recipe(f"{family.lower()}{self.depth}", seed), output=output, progress=progress)
        rng = np.random.default_rng(seed)
        dataset = recipe.dataset(train=True)
        chosen = rng.permutation(len(dataset))[: self.images]
        batches = list(DataLoader(Subset(dataset, chosen), 250, recipe.transform(train=False)))
        scape = flow.landscape(
            model,
            lambda model: evaluate(model, batches).loss,
            [flow.random_direction(model, rng), flow.random_direction(model, rng)],
            np.linspace(-self.extent, self.extent, self.points).tolist(),
        )
        return [
            Row(family, seed, float(x), float(y), float(scape.values[row, column]))
            for row, y in enumerate(scape.y)
            for column, x in enumerate(scape.x)
        ]

    def plot(self, rows: Rows) -> Figure:
        """The first seed's landscapes: from above, and below it as surfaces between the same heights."""
        import matplotlib.pyplot as plt

        scapes = {family: grid(rows[(rows.family == family) & (rows.seed == 0)]) for family in FAMILIES}
        finite = np.concatenate([scape.values[np.isfinite(scape.values)] for scape in scapes.values()])
        heights = float(finite.min()), float(finite.max())
        figure = plt.figure(figsize=(12, 9.5), layout="constrained")
        for column, (family, scape) in enumerate(scapes.items()):
            above = flow.contour_plot(scape, log_levels(*heights), ax=figure.add_subplot(2, 2, 1 + column))
            above.set_title(f"{family}-{self.depth}")
            flow.surface_plot(scape, heights, figure.add_subplot(2, 2, 3 + column, projection="3d"))
        return figure

    def claim(self, rows: Rows) -> Claim:
        steep = {
            f"{family}-{self.depth}": [
                steepness(grid(rows[(rows.family == family) & (rows.seed == seed)])) for seed in np.unique(rows.seed)
            ]
            for family in FAMILIES
        }
        seen = f"steepest rise, in powers of ten for a step of 1: {by_seed(steep, '{:.1f}')}"
        expected = (
            f"the steepest wall around plain-{self.depth} is at least twice as steep, in log loss, as that around "
            f"ResNet-{self.depth} (Li et al. 2018, fig. 1 and 5: the loss around deep nets without skips has walls)"
        )
        return Claim(expected, seen, tuple(a >= 2 * b for a, b in zip(*steep.values(), strict=True)))


def grid(rows: Rows) -> flow.Landscape:
    """One network's rows as the landscape that they were."""
    x, y = np.unique(rows.x), np.unique(rows.y)
    return flow.Landscape(x, y, rows.loss.reshape(len(y), len(x)))


def steepness(scape: flow.Landscape) -> float:
    """The largest change of log₁₀ loss between neighbours on the grid, for a step of 1; infinite at a loss that is not
    finite."""
    height = np.where(np.isfinite(scape.values), np.log10(scape.values), np.inf)
    slopes = [np.diff(height, axis=0) / np.diff(scape.y)[:, None], np.diff(height, axis=1) / np.diff(scape.x)]
    return float(max(np.nanmax(np.abs(slope)) for slope in slopes))
