"""How signals and gradients grow or shrink with depth before any training, and what theory says they should do.

Plain nets keep both with He's variance (He et al. 2015b, eq. 10 and 14) and lose them with Glorot's; batch norm makes
gradients grow (Yang et al. 2019); additions without it double the variance in each block, and with it tame the growth.
What convolutional networks do on digits is shown beside it, without a theory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.autograd import Tensor
from tinyres.experiments import convnets
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.mlp import MLP, Kind
from tinyres.experiments.theory import gradient_rms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH = 50


NETS = {
    "plain, He": Kind(),
    "plain, Glorot": Kind(gain=1),
    "plain + BN": Kind(norm="batch"),
    "residual": Kind(skip=1),
    "residual + BN": Kind(skip=1, norm="batch"),
    "residual, β = 1/√L": Kind(skip=1, branch=1 / math.sqrt(DEPTH)),
    "residual + BN, λ = 0.5": Kind(skip=0.5, norm="batch"),
}
CONVNETS = {"plain-20": "plain20", "plain-56": "plain56", "ResNet-20": "resnet20", "ResNet-56": "resnet56"}


class Row(NamedTuple):
    net: str
    seed: int
    depth: int  # how many blocks came before: 0 is the first one's input
    signal_rms: float
    gradient_rms: float  # of a random cotangent at the top, carried back to here


@dataclass(frozen=True)
class Initialisation(Experiment):
    """50 blocks of width 200, a batch of 256 Gaussian inputs; networks `factor` times as wide as the paper's, a batch
    of `images` digits. Gaussian cotangents at the top.

    tolerance: how far a factor may be from theory's, in each seed.
    """

    seeds: int = 8
    width: int = 200
    batch: int = 256
    factor: float = 0.5
    images: int = 32
    tolerance: float = 0.03

    name: ClassVar[str] = "initialisation"
    quick: ClassVar[dict[str, Any]] = {"seeds": 2}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in (*NETS, *CONVNETS) for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        rng = np.random.default_rng(seed)
        if net in NETS:
            model = MLP(NETS[net], DEPTH, self.width, rng)
            states = list(model.states(Tensor(rng.normal(size=(self.batch, self.width)), requires_grad=True)))
            top = states[-1]
        else:
            network = convnets.build(CONVNETS[net], self.factor, seed)
            states, top = convnets.states(network, Tensor(convnets.images(self.images, rng)))
        for state in states:
            state.retain_grad()
        top.backward(rng.normal(size=top.shape))
        return [
            Row(net, seed, depth, rms(state.data), rms(state.grad.data))  # type: ignore[union-attr]
            for depth, state in enumerate(states)
        ]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, grid = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
        titles = "one layer a block, Gaussian inputs", "convolutional, digits"
        for axes, nets, title in zip(grid, (list(NETS), list(CONVNETS)), titles, strict=True):
            for axis in axes:
                style.axes(axis)
                axis.set(yscale="log", xlabel="block (0: the first one's input)")
            for index, net in enumerate(nets):
                draw(axes, rows[rows.net == net], net, {**style.line(index), "marker": ""})
            axes[0].set(title=f"Signals: {title}", ylabel="rms, relative to the first block's input")
            axes[1].set(title=f"Gradients: {title}", ylabel="rms, relative to the last block's")
        for kind in NETS.values():
            grid[0, 1].plot(gradient_rms(kind, DEPTH), color="black", linewidth=0.9, linestyle=":")
        grid[0, 1].lines[-1].set_label("theory, infinite width")
        grid[1, 0].set_yticks([1, 2, 5], [1, 2, 5])
        grid[1, 0].set_yticks([], minor=True)
        for axis in grid[:, 1]:
            style.legend(axis)
        return figure

    def claim(self, rows: Rows) -> Claim:
        theory = {net: gradient_rms(kind, DEPTH)[0] ** (1 / DEPTH) for net, kind in NETS.items()}
        factors = {net: growth(rows[rows.net == net]) for net in dict.fromkeys(rows.net)}  # (seeds,) each
        close = [np.abs(factors[net] - theory[net]) <= self.tolerance for net in NETS]
        seen = "; ".join(f"{net} {factor.mean():.3f} ± {factor.std():.3f}" for net, factor in factors.items())
        expected = ", ".join(f"{net} {factor:.3f}" for net, factor in theory.items())
        return Claim(f"gradients grow from block to block by {expected}", seen, tuple(map(bool, np.all(close, axis=0))))


def draw(axes: np.ndarray[Any, Any], rows: Rows, net: str, look: dict[str, Any]) -> None:
    """One net's signals and gradients: the geometric mean over seeds, and from the least to the largest."""
    depth = np.unique(rows.depth)
    for axis, name, reference in zip(axes, ("signal_rms", "gradient_rms"), (0, -1), strict=True):
        values = rows[name].reshape(-1, len(depth))  # (seeds, depth + 1)
        values = values / values[:, [reference]]
        axis.plot(depth, np.exp(np.log(values).mean(axis=0)), **look, label=net)
        axis.fill_between(depth, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)


def growth(rows: Rows) -> np.ndarray:
    """By what one net's gradients grow from block to block on their way to the input, for each seed."""
    first, last = rows[rows.depth == 0].gradient_rms, rows[rows.depth == rows.depth.max()].gradient_rms
    return np.asarray((first / last) ** (1 / rows.depth.max()))


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(array**2)))
