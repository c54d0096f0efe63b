"""The spread over initialisations at the quick size."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import run  # noqa: E402
from tinyres.experiments.finite_width import FiniteWidth, Row, fit, log_norm, variances  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return run(FiniteWidth(**FiniteWidth.quick), progress=False)


def test_the_claim_holds(result):
    claim = result.claim()
    assert claim.holds, str(claim)


def test_a_group_that_shows_otherwise_does_not_hold(result):
    rows = result.rows.copy()
    rows.log_norm[rows.seed == 1] *= 1.5  # the variances are 2.25 times as large
    assert result.experiment.claim(rows).verdicts == (True, False)
    rows = result.rows.copy()
    rows.log_norm[(rows.seed == 0) & (rows.width == 100)] *= 4
    assert not result.experiment.claim(rows).verdicts[0]


def made_up(slope, intercept):
    """Rows of two nets each, whose variances lie on a line."""
    rows = []
    for width, depth in [(50, 5), (50, 20), (100, 20)]:
        half = np.sqrt((intercept + slope * depth / width) / 2)
        rows += [(width, depth, 0, 0, 7 - half), (width, depth, 0, 1, 7 + half)]
    return np.rec.fromrecords(rows, names=list(Row._fields))


def test_the_fit_finds_a_line():
    rows = made_up(1.3, 0.2)
    np.testing.assert_allclose(variances(rows), [[0.1, 0.4, 0.2], [0.33, 0.72, 0.46]])
    np.testing.assert_allclose(fit(rows), [1.3, 0.2, 1])


def test_the_norm_is_of_the_gradient():
    rng = np.random.default_rng(3)
    weight = rng.normal(0, np.sqrt(2 / 30), (30, 30))
    x, v = rng.normal(size=30), rng.normal(size=30)
    expected = np.log(np.linalg.norm((v / np.linalg.norm(v)) @ weight * (x > 0)))
    assert log_norm(30, 1, np.random.default_rng(3)) == pytest.approx(expected)


def test_groups_differ(result):
    rows = result.rows
    one, other = (rows[(rows.width == 50) & (rows.depth == 10) & (rows.seed == seed)].log_norm for seed in (0, 1))
    assert len(one) == len(other) == 200
    assert not np.isin(one, other).any()


def test_the_picture(result):
    left, right = result.plot().axes
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    norms = result.rows[(result.rows.width == 100) & (result.rows.depth == 20)].log_norm
    assert lines["width 100"][-1] == pytest.approx(np.exp(np.median(norms)))
    assert "theory, slope 5/4" in right.get_legend_handles_labels()[1]
    plt.close("all")


def test_settings_that_give_no_line():
    with pytest.raises(ValueError, match="three or more different ratios"):
        FiniteWidth(widths=(10,), depths=(5, 10))
