"""Layer responses: the standard deviations after batch norm."""

from __future__ import annotations

import numpy as np

import synthetic
from tinyres.flow import Record, plots


def stds(record, step=10):
    """Of all norms but the shortcuts'."""
    rows = record.rows[(record.rows["step"] == step) & (record.rows["role"] == "activation")]
    return np.array([row["std"] for row in rows if row["kind"] == "BatchNorm2d" and "downsample" not in row["name"]])


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_the_lines_are_the_record():
    records = {"resnet": synthetic.record(20, shortcut="B"), "plain": synthetic.record(14, residual=False)}
    ax = plots.responses(records)
    assert list(lines(ax)) == ["resnet", "plain"]
    for (name, record), layers in zip(records.items(), (19, 13), strict=True):
        line = lines(ax)[name]
        assert line.get_xdata().tolist() == list(range(1, layers + 1))
        np.testing.assert_array_equal(line.get_ydata(), stds(record))
    assert ax.get_yscale() == "log"
    assert "batch norm" in ax.get_ylabel()


def test_ranked_the_largest_comes_first():
    record = synthetic.record(20)
    (line,) = lines(plots.responses(record, step=0, ranked=True)).values()
    np.testing.assert_array_equal(line.get_ydata(), sorted(stds(record, 0), reverse=True))
    assert line.get_label() == "step 0"


def test_missing_responses_are_ranked_last_and_marked():
    rows = synthetic.record(8).rows.copy()
    rows["std"][rows["name"] == "bn1"] = np.nan
    ax = plots.responses(Record(rows), ranked=True)
    values = lines(ax)["step 10"].get_ydata()
    assert np.isnan(values).tolist() == [False] * 6 + [True]
    assert "missing" in lines(ax)
