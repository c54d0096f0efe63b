"""Layer responses: how much each 3×3 layer changes the signal, once trained (He et al. 2015, §4.2 and fig. 7).

A layer's response is its output after batch norm, before rectifier and addition. Where skips carry the signal, a
branch has only to correct it: ResNets respond less than plain nets, and less still where there are more layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tinyres.experiments.experiment import Case, Claim, Rows
from tinyres.experiments.trained import FAMILIES, TrainingExperiment, by_seed, train
from tinyres.flow import snapshot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    family: str  # "plain" or "ResNet"
    depth: int
    seed: int
    layer: int  # the convolutions from the input on, from 1
    response: float  # the standard deviation of what the layer gives, over a batch


@dataclass(frozen=True)
class LayerResponses(TrainingExperiment):
    """Plain and residual nets of two depths. All norms begin with weight 1, so all responses begin with a standard
    deviation of 1. They are measured on one batch of test images, in training mode."""

    lr: float = 0.1
    shallow: int = 20
    deep: int = 56

    name: ClassVar[str] = "layer_responses"
    quick: ClassVar[dict[str, Any]] = {"seeds": 1, "train_images": 2000, "epochs": 5}

    def cases(self) -> list[Case]:
        nets = [(family, depth) for family in FAMILIES for depth in (self.shallow, self.deep)]
        return [(*net, seed) for seed in range(self.seeds) for net in nets]

    def measure(self, case: Case, output: Path | None = None, progress: bool = False) -> list[Row]:
        family, depth, seed = case
        recipe = self.recipe(f"{family.lower()}{depth}", seed)
        trained = train(recipe, output=output, progress=progress)
        images, labels = next(iter(trained.recipe.loader(train=False)))
        record = snapshot(trained.model, images, labels)
        responses = record.depth("activation", "std", kind="BatchNorm2d")[2]
        return [Row(family, depth, seed, layer, float(std)) for layer, std in enumerate(responses, start=1)]

    def plot(self, rows: Rows) -> Figure:
        import matplotlib.pyplot as plt

        from tinyres.flow import style

        figure, axes = plt.subplots(1, 2, figsize=(13, 4.5), layout="constrained", sharey=True)
        index = 0
        for family in FAMILIES:
            for depth in (self.shallow, self.deep):
                mine = rows[(rows.family == family) & (rows.depth == depth)]
                stds = mine.response.reshape(-1, mine.layer.max())  # (seeds, L)
                look = {**style.line(index), "marker": "", "label": f"{family}-{depth}"}
                layer = np.arange(1, stds.shape[1] + 1)
                for axis, values in zip(axes, (stds, -np.sort(-stds, axis=1)), strict=True):
                    axis.plot(layer, values.mean(axis=0), **look)
                    lower, upper = values.min(axis=0), values.max(axis=0)
                    axis.fill_between(layer, lower, upper, color=look["color"], alpha=0.15, linewidth=0)
                index += 1
        for axis in axes:
            style.axes(axis)
            axis.set(yscale="log")
        axes[0].set(title="In the order of the network", xlabel="layer, from the input", ylabel="std of the response")
        axes[1].set(title="In order of size", xlabel="rank")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        return figure

    def claim(self, rows: Rows) -> Claim:
        def means(family: str, depth: int) -> np.ndarray:  # (seeds,), over the layers
            mine = rows[(rows.family == family) & (rows.depth == depth)]
            return np.asarray(mine.response.reshape(-1, mine.layer.max()).mean(axis=1))

        nets = {f"{family}-{depth}": means(family, depth) for family in FAMILIES for depth in (self.shallow, self.deep)}
        plain, deep_plain, residual, deep_residual = nets.values()
        verdicts = (residual < plain) & (deep_residual < deep_plain) & (deep_residual < residual)
        seen = f"mean standard deviation of the responses: {by_seed(nets, '{:.3f}')}"
        expected = (
            f"layers of ResNet-{self.shallow} and -{self.deep} respond less than those of their plain twins, and those "
            f"of ResNet-{self.deep} less than those of ResNet-{self.shallow} (He et al. 2015, fig. 7)"
        )
        return Claim(expected, seen, tuple(map(bool, verdicts)))
