"""Through how many residual branches gradients come before training (Veit et al. 2016, §5), counted exactly.

Without batch norm a gradient comes through all paths alike, and its spectrum is that of the paths: binomial. With it
block l's branch passes on a share that falls as 1/l, since the signal that its norm divides by has grown; short paths
carry the gradient, and their mean length grows with the logarithm of the depth only, whatever the weights' scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.experiments import convnets
from tinyres.experiments.experiment import Case, Claim, Experiment, Rows
from tinyres.experiments.mlp import MLP, Kind
from tinyres.experiments.theory import path_shares
from tinyres.flow.paths import mean_length, path_plot, path_spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS = {
    "no norm, He": Kind(skip=1),
    "no norm, Glorot": Kind(skip=1, gain=1),
    "BN, He": Kind(skip=1, norm="batch"),
    "BN, Glorot": Kind(skip=1, norm="batch", gain=1),
}
CONVNETS = {  # name: model and whether with batch norm
    "ResNet": ("resnet", True),
    "ResNet, no norm": ("resnet", False),
    "pre-activation": ("preact_resnet", True),
    "pre-activation, no norm": ("preact_resnet", False),
}
EXACT = 1e-12  # how far ΣG[k] may be from the gradient, relative to it


class Row(NamedTuple):
    net: str
    seed: int
    length: int  # how many branches: k
    share: float  # ‖G[k]‖² over its sum
    error: float  # ‖ΣG[k] − gradient‖ / ‖gradient‖, of the whole spectrum


@dataclass(frozen=True)
class Paths(Experiment):
    """The small network of `depth` blocks with Gaussian inputs, and ResNets of `layers` layers, `factor` times as wide
    as the paper's, with digits; Gaussian cotangents at the top.

    tolerance: how far a mean length may be from theory's, relative to it, in each seed.
    """

    seeds: int = 6
    depth: int = 54
    width: int = 64
    batch: int = 128
    layers: int = 110
    factor: float = 0.5
    images: int = 16
    tolerance: float = 0.15

    name: ClassVar[str] = "paths"
    quick: ClassVar[dict[str, Any]] = {"seeds": 2, "layers": 20}

    def cases(self) -> list[Case]:
        return [(net, seed) for net in (*NETS, *CONVNETS) for seed in range(self.seeds)]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        net, seed = case
        rng = np.random.default_rng(seed)
        if net in NETS:
            model: Any = MLP(NETS[net], self.depth, self.width, rng)
            x, outputs = rng.normal(size=(self.batch, self.width)), self.width
        else:
            family, norm = CONVNETS[net]
            model = convnets.build(f"{family}{self.layers}", self.factor, seed, norm)
            x, outputs = convnets.images(self.images, rng), 10
        cotangent = rng.normal(size=(len(x), outputs))
        spectrum = path_spectrum(model, x, cotangent, dot)
        leaf = Tensor(x, requires_grad=True)
        dot(model(leaf), cotangent).backward()
        gradient = leaf.grad.data  # type: ignore[union-attr]
        error = float(np.linalg.norm(sum(spectrum.gradients) - gradient) / np.linalg.norm(gradient))
        return [Row(net, seed, length, share, error) for length, share in enumerate(spectrum.shares.tolist())]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, axes = plt.subplots(2, 1, figsize=(9.5, 8), layout="constrained")
        titles = "Residual blocks of one layer, Gaussian inputs", "Convolutional networks, digits"
        for axis, nets, title in zip(axes, (list(NETS), list(CONVNETS)), titles, strict=True):
            path_plot({net: shares(rows, net).mean(axis=0) for net in nets}, axis)
            axis.set_title(title)
        for net, kind in NETS.items():
            axes[0].plot(path_shares(kind, count(rows, net)), color="black", linewidth=0.9, linestyle=":", zorder=3)
        axes[0].lines[-1].set_label("theory, infinite width")
        axes[0].autoscale(axis="y")
        axes[0].set_ylim(bottom=0)
        style.legend(axes[0])
        return figure

    def claim(self, rows: Rows) -> Claim:
        means = {net: mean_length(shares(rows, net)) for net in dict.fromkeys(rows.net)}  # (seeds,) each
        theory = {net: float(mean_length(path_shares(kind, count(rows, net)))) for net, kind in NETS.items()}
        close = [np.abs(means[net] / theory[net] - 1) <= self.tolerance for net in NETS]
        exact = [rows[rows.net == net].error.reshape(-1, count(rows, net) + 1)[:, 0] <= EXACT for net in means]
        expected = ", ".join(f"{net} {length:.1f}" for net, length in theory.items())
        seen = "; ".join(f"{net} {mean.mean():.2f} ± {mean.std():.2f}" for net, mean in means.items())
        return Claim(
            f"mean path lengths of {count(rows, next(iter(NETS)))} blocks are {expected}; ΣG[k] is the gradient",
            f"{seen}; the relative error of ΣG[k] is at most {rows.error.max():.1e}",
            tuple(map(bool, np.all(close + exact, axis=0))),
        )


def shares(rows: Rows, net: str) -> np.ndarray[Any, Any]:
    """One net's spectra: (seeds, L + 1)."""
    return np.asarray(rows[rows.net == net].share.reshape(-1, count(rows, net) + 1))


def count(rows: Rows, net: str) -> int:
    """How many branches a net has: L."""
    return int(rows[rows.net == net].length.max())


def dot(output: Tensor, cotangent: Any) -> Tensor:
    """The number whose gradient by `output` is `cotangent`."""
    return F.sum(output * cotangent)
