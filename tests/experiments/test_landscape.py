"""Landscapes: the centre is the trained network's own loss, and the claim is judged by hand-made surfaces."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.data import DataLoader  # noqa: E402
from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.experiments.landscape import LossLandscape, Row, grid, steepness  # noqa: E402
from tinyres.experiments.trained import train  # noqa: E402
from tinyres.training import evaluate  # noqa: E402

TINY = LossLandscape(seeds=1, train_images=64, image_size=8, depth=20, epochs=1, images=64, points=3, extent=0.5)
GRID = np.linspace(-1, 1, 5)


def rows_of(*powers):
    """Rows of surfaces 10^(p·(x² + y²)), p of the plain net and of the ResNet for each seed."""
    return table(
        [
            Row(family, seed, x, y, 10.0 ** (power * (x**2 + y**2)))
            for seed, of_seed in enumerate(powers)
            for family, power in zip(("plain", "ResNet"), of_seed, strict=True)
            for y in GRID
            for x in GRID
        ]
    )


def test_the_centre_is_the_trained_net():
    rows = table(TINY.measure(("plain", 0)))
    assert sorted(set(rows.x)) == sorted(set(rows.y)) == [-0.5, 0, 0.5]
    assert len(set(rows.loss)) == len(rows) == 9
    model, _, recipe = train(TINY.recipe("plain20", 0))
    images = DataLoader(recipe.dataset(train=True), 64, recipe.transform(train=False))  # all of them, in order
    (centre,) = rows.loss[(rows.x == 0) & (rows.y == 0)]
    assert centre == pytest.approx(evaluate(model, images).loss, rel=1e-5)


def test_steepness():
    """10^(x² + y²): the largest step on the grid is from 0.5 to 1, 0.75 powers of ten within 0.5."""
    rows = rows_of((1, 2))
    assert steepness(grid(rows[rows.family == "plain"])) == pytest.approx(1.5)
    rows.loss[-1] = np.inf
    assert steepness(grid(rows[rows.family == "ResNet"])) == np.inf


def test_the_claim():
    claim = LossLandscape().claim(rows_of((4, 1), (1, 1), (2, 1)))
    assert claim.verdicts == (True, False, True)
    assert "plain-56 6.0, 1.5, 3.0; ResNet-56 1.5, 1.5, 1.5" in claim.seen


def test_the_picture():
    figure = LossLandscape().plot(rows_of((4, 1)))
    assert [title for axes in figure.axes if (title := axes.get_title())] == ["plain-56", "ResNet-56"]
    figure.canvas.draw()
    plt.close(figure)
