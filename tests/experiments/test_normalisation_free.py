"""Normalisation-free nets: what diverges is a row that says so, and the claim is judged by hand-made rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.experiments.normalisation_free import NETS, NormalisationFree, Row  # noqa: E402

TINY = NormalisationFree(seeds=1, train_images=64, image_size=8, depth=20, epochs=2)


def rows_of(*seeds):
    """Rows with each net's last error, in the order of NETS, for each seed."""
    return table(
        [
            Row(net, seed, epoch, error if epoch == 2 else 0.9, 1.0)
            for position, net in enumerate(NETS)
            for seed, errors in enumerate(seeds)
            for error in [errors[position]]
            for epoch in (1, 2)
        ]
    )


@pytest.mark.parametrize("net", NETS)
def test_each_net_is_trained(net):
    rows = TINY.measure((net, 0))
    assert [row[:3] for row in rows] == [(net, 0, 1), (net, 0, 2)]
    assert all(math.isnan(row.error) or 0 <= row.error <= 1 for row in rows)


def test_what_diverges_is_missing():
    """At this rate, nothing without a norm survives."""
    rows = NormalisationFree(**{**vars(TINY), "lr": 1e4}).measure(("no norm", 0))
    assert len(rows) == 2
    assert all(math.isnan(row.error) and math.isnan(row.loss) for row in rows)


def test_the_claim():
    seen, late = (0.1, 0.1, 0.1, math.nan, 0.1, 0.1), (0.1, 0.1, 0.1, 0.9, 0.1, 0.8)
    trains = (0.1, 0.1, 0.1, 0.2, 0.1, 0.1)
    claim = NormalisationFree().claim(rows_of(seen, late, trains))
    assert claim.verdicts == (True, False, False)
    assert "no norm diverged, 90.0%, 20.0%" in claim.seen


def test_the_picture():
    figure = NormalisationFree().plot(rows_of((0.1, 0.1, 0.1, math.nan, 0.1, 0.1), (0.3, 0.1, 0.1, 0.9, 0.1, 0.8)))
    (axes,) = figure.axes
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata())]
    np.testing.assert_allclose(drawn[0], [90, 20])
    crosses = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_ydata())]
    assert len(crosses) == 1
    plt.close(figure)
