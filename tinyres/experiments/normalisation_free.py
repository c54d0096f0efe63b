"""Deep residual nets without normalisation: they train if they start as the identity, and not otherwise (De & Smith
2020; Zhang et al. 2019).

Beside them, nets with batch norm: as they are, with each block starting as the identity (zero-γ; Goyal et al. 2017),
and with blocks left out at random (stochastic depth; Huang et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.experiments.experiment import Case, Claim, Rows
from tinyres.experiments.trained import TrainingExperiment, by_seed, train
from tinyres.experiments.variants import Net, Variant, fixup, stochastic_depth, zero_gamma

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARE = Variant("conv relu conv", stem="conv relu")
NETS: dict[str, tuple[Variant, Callable[[Net], None] | None]] = {  # and what is done to a fresh net
    "BN": (Variant(), None),
    "BN, zero-γ": (Variant(), zero_gamma),
    "BN, stochastic depth": (Variant(), stochastic_depth),
    "no norm": (BARE, None),
    "no norm, SkipInit": (BARE._replace(branch="conv relu conv zero"), None),
    "no norm, Fixup": (BARE._replace(branch="bias conv bias relu bias conv scale bias", stem="conv bias relu"), fixup),
}


class Row(NamedTuple):
    net: str
    seed: int
    epoch: int
    error: float  # share of wrong answers over the epoch's images, 0 to 1; NaN where training diverged
    loss: float


@dataclass(frozen=True)
class NormalisationFree(TrainingExperiment):
    """One residual net, normalised or started in six ways.

    fails: from which training error on, in the last epoch, a net counts as untrained.
    """

    depth: int = 56
    epochs: int = 5
    fails: float = 0.7

    name: ClassVar[str] = "normalisation_free"
    quick: ClassVar[dict[str, Any]] = {"seeds": 1, "train_images": 1000, "depth": 32, "epochs": 10}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in NETS for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        variant, start = NETS[net]

        def make(**data: int) -> Net:
            model = Net(variant, self.depth, width=self.width, **data)
            if start is not None:
                start(model)
            return model

        try:
            history = train(self.recipe("resnet20", seed), make, output, progress).history
        except FloatingPointError:
            return [Row(net, seed, epoch, math.nan, math.nan) for epoch in range(1, self.epochs + 1)]
        return [Row(net, seed, row.epoch, 1 - row.train_accuracy, row.train_loss) for row in history.epochs]

    def plot(self, rows: Rows) -> Figure:
        """Training error against epoch; a net that diverged has a cross at the top."""
        from matplotlib.ticker import MaxNLocator

        from tinyres.flow import style

        axes = style.axes(None, (9, 5))
        for index, net in enumerate(dict.fromkeys(rows.net)):
            mine = rows[rows.net == net]
            epochs = np.unique(mine.epoch)
            errors = 100 * mine.error.reshape(-1, len(epochs))  # (seeds, epochs)
            look = style.line(index)
            trained = errors[np.isfinite(errors).all(axis=1)]
            axes.plot([], [], **look, label=net)
            if len(trained):
                axes.plot(epochs, trained.mean(axis=0), **look)
                lower, upper = trained.min(axis=0), trained.max(axis=0)
                axes.fill_between(epochs, lower, upper, color=look["color"], alpha=0.15, linewidth=0)
            if len(trained) < len(errors):
                axes.plot(epochs, np.full(len(epochs), 98), "x", color=look["color"], markersize=7)
        if np.isnan(rows.error).any():
            axes.plot([], [], "x", color="grey", label="diverged")
        axes.set(xlabel="epoch", ylabel="training error (%)", ylim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.legend(axes)
        return axes.figure  # type: ignore[return-value]

    def claim(self, rows: Rows) -> Claim:
        last = rows[rows.epoch == rows.epoch.max()]
        errors = {net: np.asarray(last[last.net == net].error) for net in dict.fromkeys(rows.net)}
        bad = {net: ~(values < self.fails) for net, values in errors.items()}  # NaN, too
        verdicts = np.all([bad[net] == (net == "no norm") for net in errors], axis=0)
        seen = f"training error in the last epoch: {by_seed(errors, '{:.1%}').replace('nan%', 'diverged')}"
        expected = (
            "without normalisation a deep residual net does not train "
            f"(error {self.fails:.0%} or more), but with SkipInit or Fixup it does; so do all nets with batch norm"
        )
        return Claim(expected, seen, tuple(map(bool, verdicts)))
