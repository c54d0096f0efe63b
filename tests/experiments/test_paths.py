"""Path lengths at the quick size."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import run  # noqa: E402
from tinyres.experiments.paths import CONVNETS, NETS, Paths  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return run(Paths(**Paths.quick), progress=False)


def mean(rows, net, seed):
    mine = rows[(rows.net == net) & (rows.seed == seed)]
    return sum(mine.length * mine.share)


def test_the_claim_holds(result):
    claim = result.claim()
    assert claim.holds, str(claim)
    for seed in range(2):
        assert mean(result.rows, "BN, He", seed) == pytest.approx(4.9, abs=0.5)
        assert mean(result.rows, "no norm, He", seed) == pytest.approx(26.8, abs=2)


def test_rows(result):
    assert set(result.rows.net) == {*NETS, *CONVNETS}
    for net, count in [("BN, He", 54), ("ResNet", 9)]:
        mine = result.rows[(result.rows.net == net) & (result.rows.seed == 1)]
        np.testing.assert_array_equal(mine.length, range(count + 1))
        assert mine.share.sum() == pytest.approx(1)
    assert result.rows.error.max() < 1e-12


@pytest.mark.parametrize("column", ["share", "error"])
def test_a_seed_that_shows_otherwise_does_not_hold(result, column):
    rows = result.rows.copy()
    wrong = (rows.net == "BN, He") & (rows.seed == 1)
    rows[column][wrong] = rows.share[wrong][::-1] if column == "share" else 1e-3
    assert result.experiment.claim(rows).verdicts == (True, False)


def test_the_picture(result):
    upper, lower = result.plot().axes
    lines = {line.get_label().partition(":")[0]: line.get_ydata() for line in (*upper.lines, *lower.lines)}
    for net in (*NETS, *CONVNETS):
        shares = result.rows[result.rows.net == net].share.reshape(2, -1)
        np.testing.assert_allclose(lines[net], shares.mean(axis=0))
    assert "theory, infinite width" in lines
    plt.close("all")
