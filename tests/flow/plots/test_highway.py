"""The highway: shares of rms², forward upwards, backward downwards, and the cosines below."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import synthetic
from tinyres.flow import Record, plots


@pytest.fixture
def record():
    return synthetic.record(14, shortcut="B")


def bars(ax):
    """By label, the (bottom, top) of each bar."""
    return {
        group.get_label(): np.array([(bar.get_y(), bar.get_y() + bar.get_height()) for bar in group])
        for group in ax.containers
    }


def rms(record, role, step=10):
    rows = record.rows
    return rows[(rows["step"] == step) & (rows["role"] == role)]["rms"]


@pytest.mark.parametrize("step", [0, 10])
def test_the_bars_are_the_shares(record, step):
    drawn = bars(plots.highway(record, step))
    for way, sign, end in (("forward", 1, ""), ("backward", -1, "_grad")):
        skip, branch = rms(record, f"skip{end}", step), rms(record, f"branch{end}", step)
        share = skip**2 / (skip**2 + branch**2)
        np.testing.assert_allclose(drawn[f"_skip, {way}"], np.stack([0 * share, sign * share], axis=1))
        np.testing.assert_allclose(drawn[f"_branch, {way}"], np.stack([sign * share, sign + 0 * share], axis=1))


def test_the_cosines_are_below(record):
    ax = plots.highway(record)
    below = ax.figure.axes[1]
    lines = {line.get_label(): line for line in below.lines}
    rows = record.rows[record.rows["step"] == 10]
    for way, role in (("forward", "skip"), ("backward", "skip_grad")):
        np.testing.assert_array_equal(lines[way].get_ydata(), rows[rows["role"] == role]["cosine"])
    assert below.get_window_extent().y1 < ax.get_window_extent().y0
    names = [f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1)]
    assert [label.get_text() for label in below.get_xticklabels()] == names


def test_skip_and_branch_differ_in_grey(record):
    ax = plots.highway(record)
    grey = {group.get_label(): np.dot(group[0].get_facecolor()[:3], (0.299, 0.587, 0.114)) for group in ax.containers}
    assert abs(grey["skip"] - grey["branch"]) > 0.2


def test_sizes_whose_squares_overflow_have_shares(record):
    rows = record.rows.copy()
    rows["rms"] *= 1e200
    drawn = bars(plots.highway(Record(rows)))["_skip, forward"]
    np.testing.assert_allclose(drawn, bars(plots.highway(record))["_skip, forward"])


def test_a_branch_of_zero_and_missing_gradients(record):
    rows = record.rows.copy()
    rows["rms"][rows["role"] == "branch"] = 0
    rows["rms"][(rows["role"] == "skip_grad") & (rows["name"] == "layer2.0.add")] = np.nan
    ax = plots.highway(Record(rows))
    np.testing.assert_array_equal(bars(ax)["_skip, forward"][:, 1], np.ones(6))
    (marks,) = [line for line in ax.lines if line.get_label() == "_missing"]
    assert marks.get_xdata().tolist() == [2]


def test_a_plain_network_has_none():
    ax = plots.highway(synthetic.record(8, residual=False))
    assert "no additions" in ax.texts[0].get_text()


def test_axes_that_cannot_be_split_are_refused(record):
    with pytest.raises(ValueError, match="expected one made by subplots"):
        plots.highway(record, ax=plt.figure().add_axes((0, 0, 1, 1)))
