"""How signals and gradients grow or shrink with depth before any training, and what theory says they should do.

Plain nets keep both with He's variance (He et al. 2015b, eq. 10 and 14) and lose them with Glorot's; batch norm makes
gradients grow (Yang et al. 2019); additions without it double the variance in each block, and with it tame the growth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.autograd import Tensor
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.mlp import MLP, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH = 50


class Net(NamedTuple):
    """A kind of network; by what its gradients grow from block to block: theory's word and what was measured before
    (this experiment's own settings, 8 seeds)."""

    kind: Kind
    theory: float | None
    measured: float


NETS = {
    "plain, He": Net(Kind(), 1.0, 0.998),
    "plain, Glorot": Net(Kind(gain=1), 1 / math.sqrt(2), 0.705),
    "plain + BN": Net(Kind(norm="batch"), math.sqrt(math.pi / (math.pi - 1)), 1.192),
    "residual": Net(Kind(skip=1), math.sqrt(2), 1.414),
    "residual + BN": Net(Kind(skip=1, norm="batch"), None, 1.0435),
    "residual, β = 1/√L": Net(Kind(skip=1, branch=1 / math.sqrt(DEPTH)), math.sqrt(1 + 1 / DEPTH), 1.010),
    "residual + BN, λ = 0.5": Net(Kind(skip=0.5, norm="batch"), None, 1.148),
}


class Row(NamedTuple):
    net: str
    seed: int
    depth: int  # how many blocks came before: 0 is the input
    signal_rms: float
    gradient_rms: float  # of a random cotangent at the last block's output, carried back to here


@dataclass(frozen=True)
class Initialisation(Experiment):
    """50 blocks of width 200, a batch of 256 Gaussian inputs, a Gaussian cotangent at the top.

    tolerance: how far a factor may be from the one expected, in each seed.
    """

    seeds: int = 8
    width: int = 200
    batch: int = 256
    tolerance: float = 0.04

    name: ClassVar[str] = "initialisation"
    quick: ClassVar[dict[str, Any]] = {"seeds": 2}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in NETS for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        rng = np.random.default_rng(seed)
        model = MLP(NETS[net].kind, DEPTH, self.width, rng)
        x = Tensor(rng.normal(size=(self.batch, self.width)), requires_grad=True)
        states = list(model.states(x))
        for state in states:
            state.retain_grad()
        states[-1].backward(rng.normal(size=states[-1].shape))
        return [
            Row(net, seed, depth, rms(state.data), rms(state.grad.data))  # type: ignore[union-attr]
            for depth, state in enumerate(states)
        ]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharex=True)
        for axis in axes:
            style.axes(axis)
        for index, net in enumerate(dict.fromkeys(rows.net)):
            mine = rows[rows.net == net]
            depth = np.unique(mine.depth)
            for axis, name in zip(axes, ("signal_rms", "gradient_rms"), strict=True):
                values = mine[name].reshape(-1, len(depth))  # (seeds, depth + 1)
                values = values / values[:, [0 if name == "signal_rms" else -1]]
                middle = np.exp(np.log(values).mean(axis=0))
                look = {**style.line(index), "marker": ""}
                axis.plot(depth, middle, **look, label=net)
                lower, upper = values.min(axis=0), values.max(axis=0)
                axis.fill_between(depth, lower, upper, color=look["color"], alpha=0.2, linewidth=0)
            if (theory := NETS[net].theory) is not None:
                axes[1].plot(depth, theory ** (depth[-1] - depth), color="black", linewidth=0.8, linestyle=":")
        axes[1].plot([], [], color="black", linewidth=0.8, linestyle=":", label="theory")
        axes[0].set(title="Signals on their way up", ylabel="rms, relative to the input's")
        axes[1].set(title="Gradients on their way back", ylabel="rms, relative to the last block's")
        for axis in axes:
            axis.set(yscale="log", xlabel="block (0: the input)")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        return figure

    def claim(self, rows: Rows) -> Claim:
        nets = list(dict.fromkeys(rows.net))
        factors = {net: growth(rows[rows.net == net]) for net in nets}  # (seeds,) each
        close = [np.abs(factors[net] - NETS[net].measured) <= self.tolerance for net in nets]
        seen = "; ".join(f"{net} {factor.mean():.3f} ± {factor.std():.3f}" for net, factor in factors.items())
        expected = ", ".join(f"{net} {NETS[net].measured:.3f}" for net in nets)
        return Claim(f"gradients grow from block to block by {expected}", seen, tuple(map(bool, np.all(close, axis=0))))


def growth(rows: Rows) -> np.ndarray:
    """By what one net's gradients grow from block to block on their way to the input, for each seed."""
    first, last = rows[rows.depth == 0].gradient_rms, rows[rows.depth == rows.depth.max()].gradient_rms
    return np.asarray((first / last) ** (1 / rows.depth.max()))


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(array**2)))
