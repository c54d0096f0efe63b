"""The heat map: every cell is one number of the record."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.colors import LogNorm

import synthetic
from tinyres.flow import Record, plots


@pytest.fixture
def record():
    return synthetic.record(8, steps=[0, 5, 20])


def cells(ax):
    (mesh,) = [artist for artist in ax.collections if isinstance(artist, QuadMesh)]
    return mesh


def blanks(ax):
    """Layer and step of the cells that are filled otherwise, by what that means."""
    patches = {artist.get_label(): artist for artist in ax.collections if isinstance(artist, PatchCollection)}
    return {
        label: [tuple(np.floor(path.get_extents().max)[::-1].astype(int)) for path in patch.get_paths()]
        for label, patch in patches.items()
    }


@pytest.mark.parametrize(("role", "statistic"), [("activation_grad", "rms"), ("weight", "abs_max"), ("update", "mean")])
def test_the_cells_are_the_record(record, role, statistic):
    ax = plots.heatmap(record, role, statistic)
    mesh = cells(ax)
    columns = [record.depth(role, statistic, step, "Conv2d")[2] for step in (0, 5, 20)]
    np.testing.assert_array_equal(mesh.get_array(), np.transpose(columns))
    assert isinstance(mesh.norm, LogNorm) == (statistic != "mean")
    assert blanks(ax) == {}


def test_the_axes_say_which_layer_and_which_step(record):
    ax = plots.heatmap(record)
    names = record.depth("activation_grad", kind="Conv2d")[1]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    assert ax.yaxis_inverted()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "5", "20"]
    assert "gradient" in ax.figure.axes[-1].get_ylabel()


def test_of_many_layers_some_names_are_written_at_their_places():
    record = synthetic.record(56, steps=[0])
    ax = plots.heatmap(record, kind=None)
    names = record.depth("activation_grad")[1]
    assert 10 < len(ax.get_yticks()) < len(names) / 2
    for place, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
        assert names[int(place)] == label.get_text()


def test_the_colours_span_the_values_and_a_decade_at_least(record):
    rows = record.rows.copy()
    rows["rms"] = 3.0
    low, high = cells(plots.heatmap(Record(rows))).get_clim()
    np.testing.assert_allclose([low, high], [3 / np.sqrt(10), 3 * np.sqrt(10)])
    rows["rms"][rows["step"] == 5] = 3e-4
    np.testing.assert_allclose(cells(plots.heatmap(Record(rows))).get_clim(), [3e-4, 3])


def test_missing_and_zero_cells_are_filled_otherwise(record):
    rows = record.rows.copy()
    gradients = rows["role"] == "activation_grad"
    rows["rms"][gradients & (rows["name"] == "layer1.0.conv1") & (rows["step"] == 5)] = np.nan
    rows["rms"][gradients & (rows["name"] == "layer1.0.conv2") & (rows["step"] == 20)] = 0
    rows = rows[~(gradients & (rows["name"] == "conv1") & (rows["step"] == 0))]
    ax = plots.heatmap(Record(rows))
    assert blanks(ax) == {"missing": [(0, 0), (1, 1)], "exactly zero": [(2, 2)]}
    np.testing.assert_array_equal(np.argwhere(cells(ax).get_array().mask), [(0, 0), (1, 1), (2, 2)])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["missing", "exactly zero"]


def test_zero_is_a_number_on_a_linear_scale(record):
    ax = plots.heatmap(record, "activation", "zero_fraction")
    assert blanks(ax) == {}
    assert not cells(ax).get_array().mask.any()


def test_what_it_does_not_know_it_says(record):
    with pytest.raises(ValueError, match="role is 'momentum'"):
        plots.heatmap(record, "momentum")
    with pytest.raises(ValueError, match="statistic is 'norm'"):
        plots.heatmap(record, statistic="norm")
