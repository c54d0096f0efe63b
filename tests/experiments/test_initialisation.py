"""Signals and gradients before training, at the quick size."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import run  # noqa: E402
from tinyres.experiments.initialisation import CONVNETS, NETS, Initialisation  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return run(Initialisation(**Initialisation.quick), progress=False)


def test_the_claim_holds(result):
    claim = result.claim()
    assert claim.holds, str(claim)


# By what gradients grow in each block (He et al. 2015b; Yang et al. 2019): 1, √½, √(π/(π − 1)), √2, √(1 + 1/L).
@pytest.mark.parametrize(
    ("net", "factor"),
    [
        ("plain, He", 1),
        ("plain, Glorot", 0.7071),
        ("plain + BN", 1.2112),
        ("residual", 1.4142),
        ("residual, β = 1/√L", 1.00995),
    ],
)
def test_known_factors(result, net, factor):
    mine = result.rows[result.rows.net == net]
    first, last = (mine[mine.depth == depth].gradient_rms for depth in (0, 50))
    np.testing.assert_allclose((first / last) ** (1 / 50), factor, atol=0.03)


def test_a_seed_that_shows_otherwise_does_not_hold(result):
    rows = result.rows.copy()
    rows.gradient_rms[(rows.net == "residual + BN") & (rows.seed == 1) & (rows.depth == 0)] *= 10
    assert result.experiment.claim(rows).verdicts == (True, False)


def test_signals_double_in_variance_without_norm(result):
    mine = result.rows[(result.rows.net == "residual") & (result.rows.seed == 0)]
    assert np.log2(mine.signal_rms[-1] ** 2 / mine.signal_rms[0] ** 2) == pytest.approx(50, abs=3)


def test_rows_and_picture(result):
    assert set(result.rows.net) == {*NETS, *CONVNETS}
    axes = result.plot().axes
    lines = {line.get_label(): line.get_ydata() for line in (*axes[1].lines, *axes[3].lines)}
    for net in ("plain, He", "ResNet-56"):
        gradients = result.rows[result.rows.net == net].gradient_rms.reshape(2, -1)
        relative = gradients / gradients[:, -1:]
        np.testing.assert_allclose(lines[net], np.sqrt(relative[0] * relative[1]))
    plt.close("all")
