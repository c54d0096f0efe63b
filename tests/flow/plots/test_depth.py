"""The picture of a statistic against depth: what is drawn is what was recorded."""

from __future__ import annotations

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import synthetic
from tinyres import Tensor, flow, models, optim
from tinyres import functional as F


def train(residual: bool, steps: int = 6, freeze: bool = False) -> flow.Record:
    rng = np.random.default_rng(0)
    model = models.CifarResNet(8, width=0.25, residual=residual)
    model.requires_grad_(not freeze)
    model.fc.requires_grad_(True)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with flow.watch(model, optimizer) as record:
        for _ in range(steps):
            x = Tensor(rng.standard_normal((4, 3, 8, 8), dtype=np.float32))
            F.cross_entropy(model(x), rng.integers(0, 10, 4)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return record


@pytest.fixture(scope="module")
def records():
    return {"plain": train(residual=False), "resnet": train(residual=True)}


def curves(ax):
    """Lines in data coordinates by label."""
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_the_lines_are_the_record(records):
    ax = flow.depth_plot(records, steps=[0, 5])
    ax.figure.canvas.draw()
    lines = curves(ax)
    assert list(lines) == [f"{name}, step {step}" for name in records for step in (0, 5)]
    for label, line in lines.items():
        name, _, step = label.partition(", step ")
        values = records[name].depth("activation_grad", "rms", int(step), "Conv2d")[2]
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(values) + 1))
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert ax.get_yscale() == "log"
    assert "gradient" in ax.get_ylabel()
    assert "Conv2d" in ax.get_xlabel()


def test_networks_differ_in_colour_line_and_marker_and_steps_in_shade(records):
    lines = curves(flow.depth_plot(records, steps=[0, 5]))
    early, late, other = lines["plain, step 0"], lines["plain, step 5"], lines["resnet, step 5"]
    assert late.get_color() != other.get_color()
    assert late.get_linestyle() != other.get_linestyle()
    assert late.get_marker() != other.get_marker()
    assert sum(early.get_color()) > sum(late.get_color())  # lighter
    assert early.get_linestyle() == late.get_linestyle()


def test_the_legend_is_beside_the_data(records):
    ax = flow.depth_plot(records)
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    assert ax.get_legend().get_window_extent().x1 <= ax.figure.bbox.x1


def test_some_steps_of_many_by_default(records):
    assert list(curves(flow.depth_plot(records["plain"]))) == ["step 0", "step 2", "step 3", "step 5"]


def test_one_record_in_axes_of_ones_own(records):
    ax = plt.figure().add_subplot()
    assert records["resnet"].plot(role="update", statistic="abs_max", kind=None, steps=[1], ax=ax) is ax
    (line,) = curves(ax).values()
    np.testing.assert_array_equal(line.get_ydata(), records["resnet"].depth("update", "abs_max", 1)[2])


def test_fractions_and_means_are_on_a_linear_scale(records):
    for statistic in ("mean", "zero_fraction", "nonfinite_fraction"):
        assert flow.depth_plot(records, "activation", statistic, kind="ReLU").get_yscale() == "linear"


def test_missing_and_zero_gradients_are_gaps_with_marks_at_the_bottom():
    record = train(residual=True, steps=1)
    rows = record.rows.copy()
    convolutions = np.flatnonzero((rows["role"] == "activation_grad") & (rows["kind"] == "Conv2d"))
    rows["rms"][convolutions[1]] = 0
    rows["rms"][convolutions[2]] = np.nan
    ax = flow.depth_plot(flow.Record(rows))
    ax.figure.canvas.draw()
    lines = curves(ax)
    assert np.flatnonzero(np.isnan(lines["step 0"].get_ydata())).tolist() == [1, 2]
    assert {"missing", "exactly zero"} < set(lines)
    marks = {line.get_marker(): line for line in ax.lines if line.get_label().startswith("_")}
    assert {marker: line.get_xdata().tolist() for marker, line in marks.items()} == {"x": [3], "o": [2]}
    bottom, top = ax.get_window_extent().get_points()[:, 1]
    for line in marks.values():
        (_, y), *_ = line.get_transform().transform(line.get_xydata())
        assert bottom < y < bottom + 0.1 * (top - bottom)


def test_a_frozen_network_and_no_steps_at_all_are_no_error():
    frozen = train(residual=True, steps=1, freeze=True)
    for record in (frozen, flow.Record()):
        ax = flow.depth_plot({"net": record}, role="weight_grad")
        ax.figure.canvas.draw()
    assert "missing" in curves(flow.depth_plot(frozen, role="weight_grad"))


@pytest.mark.parametrize("depth", [20, 32])
def test_theory_goes_back_from_the_last_layer_of_the_first_step(depth):
    record = synthetic.record(depth, residual=False)
    lines = curves(flow.depth_plot(record, steps=[0, 10], theory=1.25))
    theory = lines["theory: ×1.25 a layer"]
    last = record.depth("activation_grad", "rms", 0, "Conv2d")[2][-1]
    np.testing.assert_array_equal(theory.get_xdata(), np.arange(1, depth))
    np.testing.assert_allclose(theory.get_ydata()[[0, -2, -1]], [last * 1.25 ** (depth - 2), last * 1.25, last])
    assert theory.get_marker() == "None"
    assert theory.get_color() == "black"


def test_theory_by_name_starts_at_the_network_of_that_name():
    records = {"plain": synthetic.record(20, residual=False), "resnet": synthetic.record(32, seed=1)}
    lines = curves(flow.depth_plot(records, theory={"resnet": 1.5, "a guess": 2}))
    for label, name, factor in (("resnet", "resnet", 1.5), ("a guess", "plain", 2)):
        values = records[name].depth("activation_grad", "rms", 0, "Conv2d")[2]
        theory = lines[f"theory, {label}: ×{factor} a layer"]
        assert len(theory.get_ydata()) == len(values)
        np.testing.assert_allclose(
            theory.get_ydata()[[0, -1]], values[-1] * np.array([factor, 1.0]) ** (len(values) - 1)
        )
    theory, resnet = lines["theory, resnet: ×1.5 a layer"], lines["resnet, step 10"]
    assert to_rgb(theory.get_color()) == to_rgb(resnet.get_color())


def test_theory_starts_at_the_last_value_that_can_be_drawn():
    record = synthetic.record(20, steps=[0])
    rows = record.rows.copy()
    gradients = np.flatnonzero((rows["role"] == "activation_grad") & (rows["kind"] == "Conv2d"))
    rows["rms"][gradients[-2:]] = np.nan, 0
    (theory,) = [
        line for name, line in curves(flow.depth_plot(flow.Record(rows), theory=2)).items() if "theory" in name
    ]
    assert theory.get_xdata()[-1] == len(gradients) - 2
    assert theory.get_ydata()[-1] == rows["rms"][gradients[-3]]


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_theory_is_a_factor(records, factor):
    with pytest.raises(ValueError, match=r"theory is .* for 'plain', expected a factor above 0"):
        flow.depth_plot(records, theory={"plain": factor})


def test_what_it_does_not_know_it_says(records):
    with pytest.raises(ValueError, match="role is 'momentum'"):
        flow.depth_plot(records, role="momentum")
    with pytest.raises(ValueError, match="step 77 was not recorded"):
        flow.depth_plot(records, steps=[77])


def test_matplotlib_is_imported_for_the_first_picture_only():
    code = "import sys, tinyres, tinyres.flow; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
