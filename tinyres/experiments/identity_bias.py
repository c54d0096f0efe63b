"""Batch norm biases deep residual blocks to the identity before training (De & Smith 2020, §2).

Without it a branch is as large as its skip in every block, and the signal doubles. With it each branch is of the size
1 and the skip the sum of all before: in block l the branch is 1/√l of the skip, the deeper the smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.autograd import Tensor, no_grad
from tinyres.experiments import convnets
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.mlp import MLP, Kind
from tinyres.nn import Add, Module

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH = 50
MEASURED = 0.143  # in the last block: this experiment's own settings, 8 seeds
NETS = {"BN": Kind(skip=1, norm="batch"), "no norm": Kind(skip=1)}
CONVNETS = {
    "ResNet": ("resnet", True),
    "pre-activation": ("preact_resnet", True),
    "pre-activation, no norm": ("preact_resnet", False),
}
TICKS = (1, 2, 5, 10, 20, 50)  # of the picture's blocks


class Row(NamedTuple):
    net: str
    seed: int
    block: int  # the first is 1
    branch_std: float  # over all elements of what the branch adds
    skip_std: float  # of what it is added to


@dataclass(frozen=True)
class IdentityBias(Experiment):
    """The small network of 50 blocks with Gaussian inputs, and ResNets of `layers` layers, `factor` times as wide as
    the paper's, with digits.

    tolerance: how far the ratio in the last block may be from 0.143, what was measured before (8 seeds), in each seed.
    """

    seeds: int = 8
    width: int = 200
    batch: int = 256
    layers: int = 110
    factor: float = 0.5
    images: int = 16
    tolerance: float = 0.01

    name: ClassVar[str] = "identity_bias"
    quick: ClassVar[dict[str, Any]] = {"seeds": 2, "layers": 20}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in (*NETS, *CONVNETS) for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        rng = np.random.default_rng(seed)
        if net in NETS:
            model: Module = MLP(NETS[net], DEPTH, self.width, rng)
            x = rng.normal(size=(self.batch, self.width))
        else:
            family, norm = CONVNETS[net]
            model = convnets.build(f"{family}{self.layers}", self.factor, seed, norm)
            x = convnets.images(self.images, rng)
        return [Row(net, seed, block, *stds) for block, stds in enumerate(additions(model, x), start=1)]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
        titles = "Residual blocks of one layer, Gaussian inputs", "Convolutional networks, digits"
        for axis, nets, title in zip(axes, (list(NETS), list(CONVNETS)), titles, strict=True):
            style.axes(axis)
            for index, net in enumerate(nets):
                values = ratios(rows, net)  # (seeds, blocks)
                block, look = np.arange(1, values.shape[1] + 1), style.line(index)
                axis.plot(block, np.exp(np.log(values).mean(axis=0)), **look, label=net)
                lower, upper = values.min(axis=0), values.max(axis=0)
                axis.fill_between(block, lower, upper, color=look["color"], alpha=0.2, linewidth=0)
            axis.plot(block, block**-0.5, color="black", linestyle=":", linewidth=1.2, label="1/√block")
            axis.set(title=title, xscale="log", yscale="log", xlabel="block (1: the first)")
            ticks = [tick for tick in TICKS if tick <= block[-1]]
            axis.set_xticks(ticks, ticks)
            axis.set_xticks([], minor=True)
            style.legend(axis)
        axes[0].set_yticks([2, 1, 1 / 2, 1 / 5, 1 / 10], ["2", "1", "1/2", "1/5", "1/10"])
        axes[0].set_yticks([], minor=True)
        axes[0].set_ylabel("std of the branch / std of the skip")
        return figure

    def claim(self, rows: Rows) -> Claim:
        last = {net: ratios(rows, net)[:, -1] for net in dict.fromkeys(rows.net)}  # (seeds,) each
        verdicts = np.abs(last["BN"] - MEASURED) <= self.tolerance
        seen = "; ".join(f"{net} {ratio.mean():.3f} ± {ratio.std():.3f}" for net, ratio in last.items())
        return Claim(
            f"with batch norm the branch of block {DEPTH} is {MEASURED} of its skip, about 1/√{DEPTH} = "
            f"{DEPTH**-0.5:.3f}",
            f"in the last block {seen}",
            tuple(map(bool, verdicts)),
        )


def additions(model: Module, x: np.ndarray) -> list[tuple[float, float]]:
    """The standard deviations of branch and skip at each of the model's additions."""
    seen = []

    def look(_module: Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        branch, skip = inputs
        seen.append((float(branch.data.std()), float(skip.data.std())))

    for module in model.modules():
        if isinstance(module, Add):
            module.register_forward_hook(look)
    with no_grad():
        model(Tensor(x))
    return seen


def ratios(rows: Rows, net: str) -> np.ndarray:
    """How large one net's branches are beside their skips: (seeds, blocks)."""
    mine = rows[rows.net == net]
    return np.asarray((mine.branch_std / mine.skip_std).reshape(-1, mine.block.max()))
