"""The shattered gradients problem (Balduzzi et al. 2017, §2, fig. 1 and 2), and what it takes to see it.

A network of one number, f(x), on an even grid: how alike are df/dx at neighbouring points? In a deep plain net with
batch norm hardly more than white noise, in a residual one nearly as much as a random walk. But it is the centring that
shatters: without it, a plain net as deep has two inputs so alike after 24 layers that their gradients are alike as
well; centred alone, it shatters as with batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.autograd import Tensor
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.mlp import MLP, Kind
from tinyres.flow.autocorrelation import autocorrelation, autocorrelation_plot, brown_noise, white_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Net(NamedTuple):
    """kind: with statistics that are constant to the gradient, so that each point's is its own. blocks: how many.
    measured: lag-1 autocorrelation before (this experiment's own settings, 10 seeds)."""

    kind: Kind
    blocks: int
    measured: float


NETS = {
    "plain-24": Net(Kind(), 24, 0.885),
    "plain-24, centred": Net(Kind(norm="centre", constant_statistics=True), 24, -0.01),
    "plain-24 + BN": Net(Kind(norm="batch", constant_statistics=True), 24, 0.02),
    "ResNet-50 + BN": Net(Kind(skip=1, norm="batch", constant_statistics=True), 50, 0.72),
    "ResNet-50 + BN, β = 0.1": Net(Kind(skip=1, branch=0.1, norm="batch", constant_statistics=True), 50, 0.91),
}
NOISE = {"white noise": white_noise, "brown noise": brown_noise}
SHATTERED = ("plain-24, centred", "plain-24 + BN")


class Row(NamedTuple):
    net: str
    seed: int
    point: int  # of the grid
    x: float
    gradient: float  # df/dx there
    autocorrelation: float  # at the lag of `point` steps


@dataclass(frozen=True)
class Shattering(Experiment):
    """f(x) = v·h of a network whose input is h₀ = w·x + b; v, w, b Gaussian; `points` from −2 to 2."""

    seeds: int = 10
    width: int = 200
    points: int = 256

    name: ClassVar[str] = "shattering"
    quick: ClassVar[dict[str, Any]] = {"seeds": 3}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in (*NETS, *NOISE) for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        rng = np.random.default_rng(seed)
        grid = np.linspace(-2, 2, self.points)
        gradients = NOISE[net](self.points, rng) if net in NOISE else self.gradients(NETS[net], grid, rng)
        columns = grid.tolist(), gradients.tolist(), autocorrelation(gradients).tolist()
        return [Row(net, seed, point, *numbers) for point, numbers in enumerate(zip(*columns, strict=True))]

    def gradients(self, net: Net, grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """df/dx at each point of the grid: (points,)."""
        w, b, v = rng.normal(size=(3, self.width))
        model = MLP(net.kind, net.blocks, self.width, rng)
        x = Tensor(grid[:, None], requires_grad=True)
        (model(x * w + b) * v).sum().backward()
        return np.asarray(x.grad)[:, 0]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure = plt.figure(figsize=(13, 6), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(3, 2))
        left, right = halves
        nets = [net for net in dict.fromkeys(rows.net) if net not in NOISE]
        axis = autocorrelation_plot({net: table(rows, net, "gradient") for net in nets}, ax=left.subplots())
        axis.set_title(f"Mean over {len(np.unique(rows.seed))} seeds")
        for index, (small, net) in enumerate(zip(right.subplots(len(nets), sharex=True), nets, strict=True)):
            one = rows[(rows.net == net) & (rows.seed == rows.seed[0])]
            style.axes(small)
            small.plot(one.x, one.gradient / np.abs(one.gradient).max(), color=style.COLOURS[index], linewidth=0.9)
            small.set(ylim=(-1.1, 1.1), yticks=[0])
            small.set_title(net, fontsize="medium", loc="left")
        small.set_xlabel("x")
        right.supylabel("df/dx, relative to its largest", fontsize="medium")
        return figure

    def claim(self, rows: Rows) -> Claim:
        lag1 = {net: table(rows, net, "autocorrelation")[:, 1] for net in dict.fromkeys(rows.net)}  # (seeds,) each
        highest = np.max([lag1[net] for net in SHATTERED], axis=0)
        others = np.min([lag1[net] for net in NETS if net not in SHATTERED], axis=0)
        verdicts = (highest < 0.4) & (others > 0.5) & (lag1["ResNet-50 + BN, β = 0.1"] > lag1["ResNet-50 + BN"])
        expected = ", ".join(f"{name} {net.measured:.2f}" for name, net in NETS.items())
        seen = "; ".join(f"{net} {values.mean():.3f} ± {values.std():.3f}" for net, values in lag1.items())
        return Claim(
            "neighbouring gradients are unlike (lag-1 autocorrelation below 0.4) in a plain net of 24 layers that is "
            "centred or normalised, alike (above 0.5) in one that is not and in residual nets, and more so with a "
            f"smaller β; on average {expected}, brown noise 0.975",
            seen,
            tuple(map(bool, verdicts)),
        )


def table(rows: Rows, net: str, column: str) -> np.ndarray:
    """One net's column: (seeds, points)."""
    return np.asarray(rows[rows.net == net][column].reshape(-1, rows.point.max() + 1))
