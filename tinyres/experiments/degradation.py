"""Degradation: with more layers, plain nets fit even the training images worse, and residual nets do not (He et al.
2015, fig. 1 and 6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.experiments.experiment import Case, Claim, Rows
from tinyres.experiments.trained import FAMILIES, TrainingExperiment, by_seed, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    family: str  # "plain" or "ResNet"
    depth: int
    seed: int
    epoch: int
    error: float  # share of wrong answers over the epoch's images, each as it was shown, 0 to 1
    loss: float  # the cross-entropy's mean over them


@dataclass(frozen=True)
class Degradation(TrainingExperiment):
    """Two depths, plain and residual, trained by one recipe. The residual blocks start as the identity (zero-γ;
    Goyal et al. 2017, §5.1).

    margin: by how much, from 0 to 1, the deep plain net's training error has to be above the shallow one's.
    """

    data: str = "cifar10"
    train_images: int = 3000
    image_size: int = 0
    width: float = 0.5
    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.1
    shallow: int = 20
    deep: int = 56
    margin: float = 0.1

    name: ClassVar[str] = "degradation"
    quick: ClassVar[dict[str, Any]] = {
        "seeds": 1,
        "data": "digits",
        "train_images": 1000,
        "image_size": 14,
        "width": 0.25,
        "epochs": 5,
        "batch_size": 32,
        "lr": 0.05,
    }

    def cases(self) -> list[Case]:
        nets = [(family, depth) for family in FAMILIES for depth in (self.shallow, self.deep)]
        return [(*net, seed) for seed in range(self.seeds) for net in nets]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        family, depth, seed = case
        start = {"zero_init_residual": True} if family == "ResNet" else {}
        recipe = self.recipe(f"{family.lower()}{depth}", seed, **start)
        history = train(recipe, output=output, progress=progress).history
        return [Row(family, depth, seed, row.epoch, 1 - row.train_accuracy, row.train_loss) for row in history.epochs]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        from tinyres.flow import style

        figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
        for axis, family in zip(axes, FAMILIES, strict=True):
            style.axes(axis)
            for index, depth in enumerate((self.shallow, self.deep)):
                mine = rows[(rows.family == family) & (rows.depth == depth)]
                epochs = np.unique(mine.epoch)
                errors = 100 * np.stack([mine[mine.seed == seed].error for seed in np.unique(mine.seed)])  # (seeds, E)
                look = {**style.line(index), "linewidth": (1.2, 2.6)[index], "marker": ""}
                axis.plot(epochs, errors.mean(axis=0), **look, label=f"{depth} layers")
                lower, upper = errors.min(axis=0), errors.max(axis=0)
                axis.fill_between(epochs, lower, upper, color=look["color"], alpha=0.2, linewidth=0)
            axis.set(title=family, xlabel="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set(ylabel="training error (%)", ylim=(0, 100))
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        return figure

    def claim(self, rows: Rows) -> Claim:
        last = rows[rows.epoch == rows.epoch.max()]

        def errors(family: str, depth: int) -> np.ndarray:  # (seeds,), the last epoch's
            return np.asarray(last[(last.family == family) & (last.depth == depth)].error)

        nets = {
            f"{family}-{depth}": errors(family, depth) for family in FAMILIES for depth in (self.shallow, self.deep)
        }
        plain, deep_plain, residual, deep_residual = nets.values()
        expected = (
            f"plain-{self.deep} has a training error {100 * self.margin:g} points or more above that of "
            f"plain-{self.shallow}, and ResNet-{self.deep} is not above "
            f"ResNet-{self.shallow} (He et al. 2015, fig. 6; zero-γ)"
        )
        verdicts = (deep_plain - plain >= self.margin) & (deep_residual <= residual)
        seen = f"training error in the last epoch: {by_seed(nets, '{:.1%}')}"
        return Claim(expected, seen, tuple(map(bool, verdicts)))
