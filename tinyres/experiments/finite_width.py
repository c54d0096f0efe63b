"""At finite width gradients differ from one initialisation to the next, the more the deeper and the narrower the net.

In a plain net with He's variance the logarithm of a gradient's norm is nearly Gaussian over initialisations, and each
layer of width n adds 5/(4n) to its variance (Hanin 2018; Hanin & Nica 2020, for rectifiers): what counts is Σ 1/n.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.autograd import Tensor
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.mlp import MLP, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Per layer, ‖g‖² is multiplied by (2/n)·Σ zᵢ² over the half of n Gaussians zᵢ that the rectifier lets pass: a number
# of mean 1 and variance (4/n²)·n·(3/2 − 1/4) = 5/n. So is, to first order, its logarithm's, and log ‖g‖ is half of it.
# (To all orders, by drawing such numbers: 1.35 at width 50, 1.30 at 100, 1.28 at 200 in the place of 5/4.)
SLOPE = 5 / 4


class Row(NamedTuple):
    width: int
    depth: int
    seed: int  # of the group of nets
    net: int  # of the group
    log_norm: float  # log ‖gradient by the input‖ for a cotangent of norm 1


class Fit(NamedTuple):
    """A line through the variances over Σ 1/n, and the share of their spread that it explains."""

    slope: float
    intercept: float
    r2: float


@dataclass(frozen=True)
class FiniteWidth(Experiment):
    """Groups of `nets` plain nets with He's variance for each width and depth, each net with an input of its own.
    Each seed is a group; the claim is judged for each.

    tolerance: how far a slope may be from 5/4, relative to it. least_r2: of the line.
    """

    seeds: int = 4
    nets: int = 200
    widths: tuple[int, ...] = (50, 100, 200)
    depths: tuple[int, ...] = (5, 10, 20, 40)
    tolerance: float = 0.25
    least_r2: float = 0.9

    name: ClassVar[str] = "finite_width"
    quick: ClassVar[dict[str, Any]] = {"seeds": 2, "widths": (50, 100), "depths": (5, 10, 20)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nets < 2 or len({depth / width for depth in self.depths for width in self.widths}) < 3:
            raise ValueError(
                f"finite_width: nets {self.nets}, widths {self.widths}, depths {self.depths}: expected 2 nets or more, "
                "and three or more different ratios of depth to width"
            )

    def cases(self) -> list[Case]:
        return list(itertools.product(self.widths, self.depths, range(self.seeds)))

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        width, depth, seed = case
        rng = np.random.default_rng(case)
        return [Row(width, depth, seed, net, log_norm(width, depth, rng)) for net in range(self.nets)]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        for axis in axes:
            style.axes(axis)
        longest = max(rows.depth / rows.width)
        line = np.array([0, longest])
        for index, width in enumerate(np.unique(rows.width)):
            look, mine = style.line(index), rows[rows.width == width]
            depths = np.unique(mine.depth)
            norms = np.array([mine[mine.depth == depth].log_norm for depth in depths]) / np.log(10)  # (depths, nets)
            lower, middle, upper = np.quantile(norms, [0.05, 0.5, 0.95], axis=1)
            axes[0].plot(depths, 10**middle, **look, label=f"width {width}")
            axes[0].fill_between(depths, 10**lower, 10**upper, color=look["color"], alpha=0.15, linewidth=0)
            for seed in np.unique(rows.seed):
                inverse, variance = variances(mine[mine.seed == seed])
                label = f"width {width}" if seed == rows.seed[0] else None
                axes[1].plot(inverse, variance, look["marker"], color=look["color"], markersize=4, label=label)
        slope, intercept, _ = fit(rows)
        axes[1].plot(line, intercept + slope * line, color="0.4", linewidth=1.4, label=f"fitted, slope {slope:.2f}")
        axes[1].plot(line, SLOPE * line, color="black", linestyle=":", linewidth=1.4, label="theory, slope 5/4")
        axes[0].set(yscale="log", xlabel="depth", ylabel="norm of the gradient by the input")
        axes[0].set_title("Median, and from 5 % to 95 % of initialisations")
        axes[1].set(xlabel="Σ 1/width over the layers", ylabel="variance of the log of that norm")
        axes[1].set_title("A point for each group")
        for axis in axes:
            style.legend(axis)
        return figure

    def claim(self, rows: Rows) -> Claim:
        fits = [fit(rows[rows.seed == seed]) for seed in np.unique(rows.seed)]
        seen = ", ".join(f"{slope:.2f} (R² {r2:.2f})" for slope, _, r2 in fits)
        return Claim(
            "over initialisations, the variance of the log of the gradient's norm grows with Σ 1/width, by 5/4 of it",
            f"slopes {seen}; of all groups together {fit(rows).slope:.2f}",
            tuple(abs(f.slope / SLOPE - 1) <= self.tolerance and f.r2 >= self.least_r2 for f in fits),
        )


def log_norm(width: int, depth: int, rng: np.random.Generator) -> float:
    """log ‖∂(v·h)/∂x‖ of one net at one input, ‖v‖ = 1."""
    model = MLP(Kind(), depth, width, rng)
    x = Tensor(rng.normal(size=(1, width)), requires_grad=True)
    v = rng.normal(size=(1, width))
    model(x).backward(v / np.linalg.norm(v))
    return float(np.log(np.linalg.norm(x.grad.data)))  # type: ignore[union-attr]


def variances(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Σ 1/n and the variance of the log norm over nets, for each width, depth and group: (groups,) each."""
    keys = sorted(set(zip(rows.width.tolist(), rows.depth.tolist(), rows.seed.tolist(), strict=True)))
    groups = [rows[(rows.width == width) & (rows.depth == depth) & (rows.seed == seed)] for width, depth, seed in keys]
    inverse = np.array([depth / width for width, depth, _ in keys])
    return inverse, np.array([group.log_norm.var(ddof=1) for group in groups])


def fit(rows: Rows) -> Fit:
    """Least squares, each variance weighed by what its own error is in proportion to."""
    inverse, variance = variances(rows)
    slope, intercept = np.polyfit(inverse, variance, 1, w=1 / inverse)
    rest = variance - intercept - slope * inverse
    return Fit(float(slope), float(intercept), float(1 - rest.var() / variance.var()))
