"""The update-to-weight ratio: a quotient of two numbers of the record."""

from __future__ import annotations

import numpy as np
import pytest

import synthetic
from tinyres.flow import Record, plots

STEPS = [0, 5, 20]


@pytest.fixture
def record():
    return synthetic.record(8, steps=STEPS)


def ratios(record, kind="Conv2d"):
    """(steps, layers)."""
    pairs = [[record.depth(role, "rms", step, kind)[2] for role in ("update", "weight")] for step in STEPS]
    return np.array([update / weight for update, weight in pairs])


def test_each_layer_has_a_line(record):
    ax = plots.update_ratio(record)
    lines = {line.get_label()[1:]: line for line in ax.lines if line.get_label().startswith("_")}
    assert list(lines) == record.depth("weight", kind="Conv2d")[1]
    for line, values in zip(lines.values(), ratios(record).T, strict=True):
        assert line.get_xdata().tolist() == STEPS
        np.testing.assert_allclose(line.get_ydata(), values)
    assert len({line.get_color() for line in lines.values()}) == len(lines)
    assert ax.get_yscale() == "log"
    assert "depth" in ax.figure.axes[-1].get_ylabel()


def test_a_line_at_a_thousandth(record):
    for records in (record, {"net": record}):
        (line,) = [line for line in plots.update_ratio(records).lines if line.get_label() == "$10^{-3}$"]
        assert set(line.get_ydata()) == {1e-3}


def test_of_several_networks_median_and_range(record):
    other = synthetic.record(14, steps=STEPS, seed=1)
    ax = plots.update_ratio({"one": record, "other": other}, kind=None)
    lines = {line.get_label(): line for line in ax.lines}
    for name, net, band in zip(("one", "other"), (record, other), ax.collections, strict=True):
        values = ratios(net, None)
        np.testing.assert_allclose(lines[name].get_ydata(), np.median(values, axis=1))
        low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
        np.testing.assert_allclose([low, high], [values.min(), values.max()])


def test_missing_and_zero_updates_are_gaps_with_marks(record):
    rows = record.rows.copy()
    rows["rms"][(rows["role"] == "update") & (rows["name"] == "conv1") & (rows["step"] == 5)] = 0
    rows["rms"][(rows["role"] == "weight") & (rows["name"] == "conv1") & (rows["step"] == 20)] = 0
    ax = plots.update_ratio(Record(rows))
    (line,) = [line for line in ax.lines if line.get_label() == "_conv1"]
    assert np.isnan(line.get_ydata()).tolist() == [False, True, True]
    marks = {line.get_marker(): list(line.get_xdata()) for line in ax.lines if len(line.get_xdata())}
    assert (marks["o"], marks["x"]) == ([5], [20])


def test_without_an_optimiser_it_says_so(record):
    rows = record.rows
    ax = plots.update_ratio(Record(rows[rows["role"] != "update"]))
    assert "watch(model, optimizer)" in ax.texts[0].get_text()
