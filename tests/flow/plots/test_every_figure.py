"""What holds for every picture of a record, whatever it shows."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

import synthetic
from tinyres.flow import Record, plots

FIGURES = {
    "depth": plots.depth,
    "depth with theory": lambda record, **options: plots.depth(record, theory=1.02, **options),
    "heatmap": plots.heatmap,
    "ridge": plots.ridge,
    "ridge of steps": lambda record, **options: plots.ridge(record, layer="conv1", **options),
    "update_ratio": plots.update_ratio,
    "highway": plots.highway,
    "responses": plots.responses,
    "ranked responses": lambda record, **options: plots.responses(record, ranked=True, **options),
    "diagram": plots.diagram,
}

figures = pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)


@pytest.fixture(scope="module")
def records():
    return {
        "ResNet-56": synthetic.record(56, shortcut="B"),
        "plain-56": synthetic.record(56, residual=False, growth=1.06),
    }


@pytest.fixture(scope="module")
def small():
    return synthetic.record(8, shortcut="B")


def image(ax):
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba()).copy()


@figures
def test_a_saved_record_looks_the_same(draw, small, tmp_path):
    path = tmp_path / "run.npz"
    small.save(path)
    np.testing.assert_array_equal(image(draw(path)), image(draw(small)))


@figures
def test_it_draws_where_it_is_told(draw, small):
    figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(14, 5))
    assert draw(small, ax=axes[1]) is axes[1]
    assert plt.get_fignums() == [figure.number]


@figures
@pytest.mark.parametrize("name", ["ResNet-56", "plain-56"])
def test_nothing_is_cut_and_no_two_names_along_an_axis_overlap(draw, records, name):
    figure = draw(records[name]).figure
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    left, bottom, right, top = figure.get_tightbbox().extents
    assert -0.01 < left < right < width + 0.01
    assert -0.01 < bottom < top < height + 0.01
    for ax in filter(lambda ax: ax.axison, figure.axes):
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            boxes = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_visible()]
            for one, other in itertools.pairwise(boxes):
                assert not one.overlaps(other)


@figures
@pytest.mark.parametrize("values", [[np.nan], [0.0], [np.nan, 0.0, np.inf, 1e-40, 1e40, None, None]])
def test_no_value_stops_it(draw, small, values):
    rows = small.rows.copy()
    for place, value in zip(range(len(rows)), itertools.cycle(values), strict=False):
        if value is not None:
            rows["histogram"][place] = 0
            for number in ("mean", "std", "rms", "abs_max", "zero_fraction", "nonfinite_fraction", "cosine"):
                rows[number][place] = value
    draw(Record(rows)).figure.draw_without_rendering()


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "ridge of steps"])
def test_an_empty_record_gives_an_empty_picture(name):
    FIGURES[name](Record()).figure.draw_without_rendering()


@figures
def test_one_step_alone(draw):
    draw(synthetic.record(8, steps=[3])).figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *[(name, "activation_grad") for name in ("depth with theory", "heatmap", "ridge", "ridge of steps", "diagram")],
        *[("highway", role) for role in ("skip", "branch", "skip_grad", "branch_grad")],
        *[("diagram", "activation"), ("diagram", "skip_grad"), ("responses", "activation")],
        *[("update_ratio", "update"), ("update_ratio", "weight")],
    ],
)
def test_rows_that_are_not_there(name, role, small):
    rows = small.rows
    for where in (rows["step"] >= 0, rows["step"] == 10, rows["position"] % 4 > 0):
        FIGURES[name](Record(rows[(rows["role"] != role) | ~where]))


@figures
def test_what_is_no_record_is_refused(draw, small, tmp_path):
    with pytest.raises(TypeError, match="the record is a list, expected a Record or the path of a saved one"):
        draw([small])
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "none.npz")


@pytest.mark.parametrize("draw", [plots.highway, plots.responses, plots.diagram, plots.ridge])
def test_steps_that_were_not_recorded_are_refused(draw, small):
    with pytest.raises(ValueError, match="step 7 was not recorded, expected one of 0, 10"):
        draw(small, step=7)


@pytest.mark.parametrize("draw", [plots.depth, plots.update_ratio, plots.responses])
def test_those_that_compare_take_records_and_paths_by_name(draw, small, tmp_path):
    small.save(tmp_path / "run.npz")
    ax = draw({"one": small, "other": tmp_path / "run.npz"})
    labels = {text.get_text().partition(",")[0] for text in ax.get_legend().get_texts()}
    assert {"one", "other"} <= labels
