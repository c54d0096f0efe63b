"""The diagram: every layer once, in the colour of its gradient, rows by stage, an arc for each skip."""

from __future__ import annotations

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.patches import Circle, PathPatch, Rectangle

import synthetic
from tinyres.flow import Record, plots
from tinyres.flow.style import MAP


def parts(ax):
    """Patches by the name of their layer."""
    return {patch.get_gid(): patch for patch in ax.patches if patch.get_gid()}


def colour(values, value):
    """Of a value on the scale from the least to the largest of all, a decade apart at least."""
    return matplotlib.colormaps[MAP](LogNorm(values.min(), values.max())(value))


def centre(patch):
    box = patch.get_path().get_extents(patch.get_patch_transform())
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def rows_of(record, step=10):
    rows = record.rows
    drawn = np.isin(rows["kind"], ["Conv2d", "Linear", "Add"]) & (rows["step"] == step)
    return rows[drawn & np.isin(rows["role"], ["activation_grad", "skip_grad"])]


@pytest.mark.parametrize("step", [0, 10])
def test_every_layer_has_the_colour_of_its_gradient(step):
    record = synthetic.record(20, shortcut="B")
    drawn = parts(plots.diagram(record, step=step))
    rows = rows_of(record, step)
    assert len(drawn) == len(rows)
    for row in rows:
        if row["role"] == "skip_grad":
            patch = drawn[f"{row['name']}, skip"]
            assert isinstance(patch, PathPatch)
            seen = patch.get_edgecolor()
        else:
            patch = drawn[row["name"]]
            assert isinstance(patch, Circle if row["kind"] == "Add" else Rectangle)
            seen = patch.get_facecolor()
        np.testing.assert_allclose(seen, colour(rows["rms"], row["rms"]))


def test_layers_go_from_left_to_right_in_a_row_for_each_stage():
    record = synthetic.record(20)
    drawn = parts(plots.diagram(record))
    names = record.depth("activation", kind="Conv2d")[1] + ["fc"]
    places = [centre(drawn[name]) for name in names]
    assert places == sorted(places, key=lambda place: (-place[1], place[0]))
    stages = {
        y: {name.partition(".")[0] for name, (_, at) in zip(names, places, strict=True) if at == y} for _, y in places
    }
    assert list(stages.values()) == [{"conv1", "layer1"}, {"layer2"}, {"layer3", "fc"}]


@pytest.mark.parametrize(("depth", "shortcut"), [(20, "B"), (56, "A"), (110, "B")])
def test_boxes_and_letters_do_not_overlap(depth, shortcut):
    ax = plots.diagram(synthetic.record(depth, steps=[0], shortcut=shortcut))
    ax.figure.draw_without_rendering()
    boxes = [patch.get_window_extent() for patch in parts(ax).values() if not isinstance(patch, PathPatch)]
    for row in np.unique([round(box.y0) for box in boxes]):
        mine = sorted((box for box in boxes if round(box.y0) == row), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(mine))
    letters = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(letters, 2))
    rows = {round(centre(patch)[1], 1) for name, patch in parts(ax).items() if "conv1" in name}
    assert len(rows) == (6 if depth == 110 else 3)


def test_an_arc_leads_from_before_its_block_to_its_addition():
    ax = plots.diagram(synthetic.record(20))
    drawn = parts(ax)
    arcs = [name for name in drawn if name.endswith(", skip")]
    assert len(arcs) == 9
    for name in arcs:
        block = name.partition(".add")[0]
        start, end = drawn[name].get_path().vertices[[0, -1]]
        first, addition = centre(drawn[f"{block}.conv1"]), centre(drawn[f"{block}.add"])
        assert start[0] < first[0] - 0.5
        assert start[1] == pytest.approx(first[1])
        assert end[0] == pytest.approx(addition[0])


def test_a_projection_stands_on_its_skip():
    drawn = parts(plots.diagram(synthetic.record(20, shortcut="B")))
    for stage in (2, 3):
        _, y = centre(drawn[f"layer{stage}.0.downsample.0"])
        assert y == pytest.approx(drawn[f"layer{stage}.0.add, skip"].get_path().vertices[:, 1].max())


def test_a_plain_network_has_boxes_alone():
    record = synthetic.record(20, residual=False)
    assert list(parts(plots.diagram(record))) == record.depth("activation", kind="Conv2d")[1] + ["fc"]


def test_missing_zero_and_unknown():
    rows = synthetic.record(8).rows.copy()
    gradients = rows["role"] == "activation_grad"
    rows["rms"][gradients & (rows["name"] == "layer1.0.conv1")] = np.nan
    rows["rms"][gradients & (rows["name"] == "layer1.0.add")] = 0
    rows = rows[rows["role"] != "skip_grad"]
    ax = plots.diagram(Record(rows))
    drawn = parts(ax)
    assert drawn["layer1.0.conv1"].get_hatch() == "////"
    assert drawn["layer1.0.add"].get_hatch() == "..."
    assert drawn["layer1.0.conv2"].get_hatch() is None
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"missing", "exactly zero"}
    assert drawn["layer1.0.add, skip"].get_edgecolor() == to_rgba("0.75")


def test_layers_outside_of_blocks_wrap():
    rows = synthetic.record(110, residual=False, steps=[0]).rows.copy()
    rows["block"] = ""
    places = [centre(patch) for patch in parts(plots.diagram(Record(rows))).values()]
    assert len(places) == 110
    assert len({y for _, y in places}) > 3
    assert max(x for x, _ in places) < 40


def test_the_kinds_that_are_drawn():
    drawn = parts(plots.diagram(synthetic.record(8), "abs_max", kinds=["BatchNorm2d"]))
    assert [name for name in drawn if "layer1" in name] == [
        "layer1.0.bn1",
        "layer1.0.bn2",
        "layer1.0.add, skip",
        "layer1.0.add",
    ]
