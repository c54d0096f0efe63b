"""Branch against skip at the quick size."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import run  # noqa: E402
from tinyres.experiments.identity_bias import CONVNETS, NETS, IdentityBias, additions  # noqa: E402
from tinyres.nn import Add, Module  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return run(IdentityBias(**IdentityBias.quick), progress=False)


def test_the_claim_holds(result):
    claim = result.claim()
    assert claim.holds, str(claim)
    mine = result.rows[result.rows.net == "BN"]
    np.testing.assert_allclose(mine.branch_std / mine.skip_std, mine.block**-0.5, rtol=0.1)


def test_a_seed_that_shows_otherwise_does_not_hold(result):
    rows = result.rows.copy()
    rows.branch_std[(rows.net == "BN") & (rows.seed == 0) & (rows.block == 50)] *= 1.2
    assert result.experiment.claim(rows).verdicts == (False, True)


def test_additions():
    class Twice(Module):
        def __init__(self):
            self.add = Add()

        def forward(self, x):
            return self.add(self.add(3 * x, x), 10 * x)

    x = np.random.default_rng(0).normal(size=(7, 2))
    np.testing.assert_allclose(additions(Twice(), x), np.array([(3, 1), (4, 10)]) * x.std())


def test_rows_and_picture(result):
    assert set(result.rows.net) == {*NETS, *CONVNETS}
    left, right = result.plot().axes
    lines = {line.get_label(): line.get_ydata() for line in (*left.lines, *right.lines)}
    for net, blocks in [("BN", 50), ("ResNet", 9)]:
        mine = result.rows[result.rows.net == net]
        ratio = (mine.branch_std / mine.skip_std).reshape(2, blocks)
        np.testing.assert_allclose(lines[net], np.sqrt(ratio[0] * ratio[1]))
    plt.close("all")
