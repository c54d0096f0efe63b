"""Identity mappings: what happens when something stands on the skip, and which order of norm, rectifier and addition
is best (He et al. 2016, tables 1 and 2).

With nothing on it, the skip hands gradients on as they are: x_L = x_l + ΣF (eq. 4). A factor λ on each skip becomes
Πλ (eq. 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.experiments.experiment import Case, Claim, Rows
from tinyres.experiments.trained import TrainingExperiment, build, by_seed, train
from tinyres.experiments.variants import Net, Variant
from tinyres.flow import snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORTCUTS = {  # figure 2
    "original": Variant(),
    "½ skip": Variant(shortcut="half"),
    "½ skip, ½ branch": Variant(branch="conv norm relu conv norm half", shortcut="half"),
    "gate on skip": Variant(shortcut="gate"),
    "1×1 convolution on skip": Variant(shortcut="convolution"),
    "dropout on skip": Variant(shortcut="dropout"),
}
ORDERS = {  # figure 4
    "BN after addition": Variant("conv norm relu conv", after="norm relu"),
    "ReLU before addition": Variant("conv norm relu conv norm relu", after=""),
    "ReLU-only pre-activation": Variant("relu conv norm relu conv norm", after="", stem="conv", top="relu"),
    "full pre-activation": Variant("norm relu conv norm relu conv", after="", stem="conv", top="norm relu"),
}
NETS = SHORTCUTS | ORDERS


class Row(NamedTuple):
    net: str
    seed: int
    quantity: str  # "gradient" or "error"
    place: int  # for a gradient the block, from 1; for an error the epoch, from 1
    value: float  # rms of the loss's gradient by the block's sum before training; share of wrong answers in the epoch


@dataclass(frozen=True)
class IdentityMappings(TrainingExperiment):
    """Each variant before training, and after it."""

    depth: int = 56
    epochs: int = 5

    name: ClassVar[str] = "identity_mappings"
    quick: ClassVar[dict[str, Any]] = {"seeds": 1, "train_images": 1000, "depth": 32, "epochs": 4}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in NETS for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        recipe = self.recipe("resnet20", seed)  # the model is not looked at
        make = partial(Net, NETS[net], self.depth, width=self.width)
        prepared = recipe.prepared()
        record = snapshot(build(prepared, make), *next(iter(prepared.loader(train=True))))
        gradients = record.depth("activation_grad", "rms", kind="Add")[2]
        history = train(recipe, make, output, progress).history
        return [
            *(Row(net, seed, "gradient", block, float(rms)) for block, rms in enumerate(gradients, start=1)),
            *(Row(net, seed, "error", row.epoch, 1 - row.train_accuracy) for row in history.epochs),
        ]

    def plot(self, rows: Rows) -> Figure:
        """Gradients through the depth before training, and the last epoch's training errors, a mark for each seed."""
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        from tinyres.flow import style

        figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained", sharex="col")
        axes[1, 0].sharey(axes[0, 0])
        errors = last_errors(rows)
        for (left, right), names in zip(axes, (list(SHORTCUTS), ["original", *ORDERS]), strict=True):
            style.axes(left)
            style.axes(right)
            for index, net in enumerate(names):
                mine = rows[(rows.net == net) & (rows.quantity == "gradient")]
                gradients = mine.value.reshape(-1, mine.place.max())  # (seeds, L)
                middle = np.exp(np.log(gradients / gradients[:, -1:]).mean(axis=0))
                left.plot(np.arange(1, len(middle) + 1), middle, **style.line(index), label=net)
                look = {**style.line(index), "linestyle": "", "markersize": 7}
                right.plot(100 * errors[net], np.full(len(errors[net]), index), **look)
            left.set(yscale="log", ylabel="gradient rms, relative to the last block's")
            left.xaxis.set_major_locator(MaxNLocator(integer=True))
            right.set_yticks(range(len(names)), names)
            right.set_ylim(len(names) - 0.5, -0.5)
        axes[0, 0].set_title("Gradients before training")
        axes[0, 1].set_title(f"Training error in epoch {self.epochs}")
        axes[1, 0].set_xlabel("block")
        axes[1, 1].set(xlabel="%", xlim=(0, 100))
        return figure

    def claim(self, rows: Rows) -> Claim:
        errors = last_errors(rows)
        skips = [errors[net] > errors["original"] for net in SHORTCUTS if net != "original"]
        orders = [
            errors["BN after addition"] > errors[net] for net in ("original", *ORDERS) if net != "BN after addition"
        ]
        seen = f"training error in the last epoch: {by_seed(errors, '{:.1%}')}"
        expected = (
            "whatever stands on the skip makes training worse, and of the orders, batch norm after the addition is the "
            "worst (He et al. 2016, tables 1 and 2)"
        )
        return Claim(expected, seen, tuple(map(bool, np.all([*skips, *orders], axis=0))))


def last_errors(rows: Rows) -> dict[str, np.ndarray]:
    """Each net's training errors in the last epoch, (seeds,)."""
    errors = rows[rows.quantity == "error"]
    last = errors[errors.place == errors.place.max()]
    return {net: np.asarray(last[last.net == net].value) for net in dict.fromkeys(rows.net)}
