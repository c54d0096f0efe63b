"""How gradients flow through a deep plain network and through its residual twin (He et al. 2015, fig. 1 and §4.1).

The two networks have the same layers, the same start and the same images in the same order; one has additions around
every pair of convolutions. While both train, the size of the gradient at every convolution is recorded.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinyres.files import atomic_write, write_csv
from tinyres.flow import Record, watch
from tinyres.flow.style import save_figure
from tinyres.training import History, Recipe, evaluate, fit
from tinyres.training.history import Epoch, Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Network:
    """One trained network: how it learnt, what its gradients did, and how it does on the test images."""

    recipe: Recipe
    history: History
    record: Record
    test_accuracy: float

    def spread(self, step: int) -> float:
        """Over the convolutions, the largest gradient rms over the smallest: 1 where all layers get as much."""
        values = self.record.depth("activation_grad", step=step, kind="Conv2d")[2]
        return float(values.max() / values.min())

    def rises_to_input(self, step: int) -> bool:
        """Whether the gradient is larger at the first convolution than at the last."""
        values = self.record.depth("activation_grad", step=step, kind="Conv2d")[2]
        return bool(values[0] > values[-1])

    @property
    def train_accuracy(self) -> float:
        return self.history.epochs[-1].train_accuracy


@dataclass
class Gradflow:
    """Both networks by name, "plain-56" and "ResNet-56"."""

    networks: dict[str, Network]

    def plot(self) -> Figure:
        """Gradient size against depth, and the two training curves beside it."""
        import matplotlib.pyplot as plt

        from tinyres.flow.plots import depth_plot
        from tinyres.flow.style import COLOURS, LINE_STYLES

        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", width_ratios=(3, 2))
        depth_plot({name: network.record for name, network in self.networks.items()}, steps=self.shown(), ax=left)
        left.set_title("Gradients on their way back, from the last layer to the first")
        for (name, network), colour, style in zip(self.networks.items(), COLOURS, LINE_STYLES, strict=False):
            steps = np.array([row.step for row in network.history.steps])
            loss = np.array([row.loss for row in network.history.steps])
            right.plot(steps, loss, color=colour, linewidth=0.8, alpha=0.35)
            label = f"{name}: {network.train_accuracy:.0%} right in the last epoch"
            right.plot(steps, running_mean(loss), color=colour, linestyle=style, linewidth=2, label=label)
        right.set(title="Training", xlabel="step", ylabel="cross-entropy of the batch, and its running mean")
        right.set_ylim(bottom=0)
        right.spines[["top", "right"]].set_visible(False)
        right.legend(loc="upper right", frameon=False)
        return figure

    def shown(self) -> list[int]:
        """The steps to draw: the first, one early, and the last recorded."""
        steps = next(iter(self.networks.values())).record.steps
        return sorted({steps[0], steps[min(1, len(steps) - 1)], steps[-1]})

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """A header, and a row for each network; loss and accuracy are the last epoch's, on the training images."""
        first, last = self.shown()[0], self.shown()[-1]
        header = ("network", f"gradient spread, step {first}", f"step {last}", "loss", "accuracy", "test accuracy")
        rows: list[tuple[str, ...]] = [
            (
                name,
                f"{network.spread(first):,.0f}",
                f"{network.spread(last):,.0f}",
                f"{network.history.epochs[-1].train_loss:.3f}",
                f"{network.train_accuracy:.1%}",
                f"{network.test_accuracy:.1%}",
            )
            for name, network in self.networks.items()
        ]
        return header, rows

    def finding(self) -> str:
        """What the picture shows, in words and in this run's numbers."""
        (plain_name, plain), (residual_name, residual) = self.networks.items()
        first, last = self.shown()[0], self.shown()[-1]
        way = "grows" if plain.rises_to_input(first) else "shrinks"
        verdict = "without the additions, the same layers train worse."
        if residual.train_accuracy <= plain.train_accuracy:
            verdict = "in this run the additions did not help."
        epoch = len(residual.history.epochs)
        return (
            f"Through the depth of {plain_name} the gradient's size varies by a factor of {plain.spread(first):,.0f} "
            f"at step {first} (it {way} on its way to the input), and by {plain.spread(last):,.0f} at step {last};\n"
            f"in {residual_name} by {residual.spread(first):,.0f} and by {residual.spread(last):,.0f}. "
            f"In epoch {epoch} {residual_name} gets {residual.train_accuracy:.1%} of the training images right, "
            f"{plain_name} {plain.train_accuracy:.1%}:\n{verdict}"
        )

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the figure and all numbers behind it; returns the files' paths."""
        folder = Path(folder)
        paths = [folder / "gradflow.png", folder / "recipe.json"]
        save_figure(self.plot(), paths[0])
        with atomic_write(paths[1]) as file:
            json.dump({name: network.recipe.to_dict() for name, network in self.networks.items()}, file, indent=2)
        for name, network in self.networks.items():
            stem = name.lower()
            paths += [
                folder / f"{stem}-{kind}" for kind in ("gradients.csv", "gradients.npz", "epochs.csv", "steps.csv")
            ]
            network.record.to_csv(paths[-4])
            network.record.save(paths[-3])
            write_csv(paths[-2], Epoch._fields, network.history.epochs)
            write_csv(paths[-1], Step._fields, network.history.steps)
        return paths


def run(recipe: Recipe, depth: int = 56, width: float = 0.25, every: int = 10, progress: bool = True) -> Gradflow:
    """Train plain-`depth` and ResNet-`depth`, `width` times as wide as the paper's, by the same recipe.

    Every `every`-th step is recorded. `recipe.model` is not looked at. Raises KeyboardInterrupt at Ctrl-C.
    """
    networks = {}
    for name, model_name in {f"plain-{depth}": f"plain{depth}", f"ResNet-{depth}": f"resnet{depth}"}.items():
        mine = replace(recipe, model=model_name, model_options={"width": width}).prepared()
        model, loader = mine.build_model(), mine.loader(train=True)
        optimizer = mine.build_optimizer(model)
        scheduler = mine.build_scheduler(optimizer, recipe.epochs * len(loader))
        if progress:
            print(f"{name}, width {width:g}, on {mine.data}")
        with watch(model, optimizer, every=every) as record:
            history = fit(
                model, loader, optimizer, recipe.epochs, scheduler=scheduler, schedule_per="step", progress=progress
            )
        if history.interrupted:
            raise KeyboardInterrupt
        test = evaluate(model, mine.loader(train=False))
        networks[name] = Network(mine, history, record, test.accuracy)
    return Gradflow(networks)


def running_mean(values: np.ndarray, share: float = 0.9) -> np.ndarray:
    """Exponential mean, corrected for its start (Kingma & Ba 2015, §3)."""
    mean, means = 0.0, []
    for count, value in enumerate(values, start=1):
        mean = share * mean + (1 - share) * value
        means.append(mean / (1 - share**count))
    return np.array(means)
