"""Shattered gradients at the quick size."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import run  # noqa: E402
from tinyres.experiments.mlp import MLP  # noqa: E402
from tinyres.experiments.shattering import NETS, NOISE, Shattering  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return run(Shattering(**Shattering.quick), progress=False)


def test_the_claim_holds(result):
    claim = result.claim()
    assert claim.holds, str(claim)
    for name, net in NETS.items():
        lag1 = result.rows[(result.rows.net == name) & (result.rows.point == 1)].autocorrelation
        assert lag1.mean() == pytest.approx(net.measured, abs=0.15)


@pytest.mark.parametrize("net", ["plain-24 + BN", "ResNet-50 + BN", "plain-24"])
def test_a_seed_that_shows_otherwise_does_not_hold(result, net):
    rows = result.rows.copy()
    wrong = (rows.net == net) & (rows.seed == 1) & (rows.point == 1)
    rows.autocorrelation[wrong] = 0.45
    assert result.experiment.claim(rows).verdicts == (True, False, True)


def test_rows_are_gradients_and_their_autocorrelation(result):
    assert set(result.rows.net) == {*NETS, *NOISE}
    mine = result.rows[(result.rows.net == "plain-24") & (result.rows.seed == 2)]
    np.testing.assert_allclose(mine.x, np.linspace(-2, 2, 256))
    d = mine.gradient - mine.gradient.mean()
    np.testing.assert_allclose(mine.autocorrelation[5], d[5:] @ d[:-5] / (d @ d), rtol=1e-10)


def test_gradients_are_differences_of_the_function():
    """Without a norm f is a function of one number, piecewise linear: differences are exact between its kinks."""
    experiment, net = Shattering(width=20, points=9), NETS["plain-24"]._replace(blocks=3)
    grid, step = np.linspace(-2, 2, 9), 1e-7
    gradients = experiment.gradients(net, grid, np.random.default_rng(5))

    rng = np.random.default_rng(5)
    w, b, v = rng.normal(size=(3, 20))
    weights = [block.weight.data for block in MLP(net.kind, 3, 20, rng).blocks]

    def f(x):
        h = x[:, None] * w + b
        for weight in weights:
            h = np.maximum(h, 0) @ weight.T
        return h @ v

    np.testing.assert_allclose(gradients, (f(grid + step) - f(grid - step)) / (2 * step), rtol=1e-5)


def test_the_picture(result):
    axis, *small = result.plot().axes
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    assert set(lines) == {*NETS, *NOISE}
    for net in NETS:
        values = result.rows[result.rows.net == net].autocorrelation.reshape(3, 256).mean(axis=0)
        np.testing.assert_allclose(lines[net], values[:65], atol=1e-12)
    assert len(small) == len(NETS)
    plt.close("all")
