"""The ridges: heights are the shares of the histograms, at their magnitudes."""

from __future__ import annotations

import numpy as np
import pytest

import synthetic
from tinyres.flow import Record, plots


@pytest.fixture
def record():
    return synthetic.record(8, steps=[0, 5, 20])


def ridges(ax):
    """By name, each ridge's points above its own base: (x, height)."""
    found = {}
    for index, artist in enumerate(ax.collections):
        x, y = artist.get_paths()[0].vertices.T
        above = y > -index
        found[artist.get_label()[1:]] = dict(zip(x[above], y[above] + index, strict=True))
    return found


def expected(rows):
    """By name, the share of each filled bin at its middle on the log scale."""
    shares = {}
    for row in rows:
        bins = np.flatnonzero(row["histogram"])
        share = row["histogram"][bins] / row["histogram"].sum()
        shares[row["name"]] = dict(zip(2.0 ** (bins - 48) * np.sqrt(2), share, strict=True))
    return shares


def test_the_ridges_are_the_histograms(record):
    ax = plots.ridge(record, "weight_grad", step=5)
    rows = record.rows
    rows = rows[(rows["step"] == 5) & (rows["role"] == "weight_grad") & (rows["kind"] == "Conv2d")]
    drawn, shares = ridges(ax), expected(rows)
    assert list(drawn) == list(shares)
    scale = max(max(share.values()) for share in shares.values()) / max(max(ridge.values()) for ridge in drawn.values())
    for name, ridge in drawn.items():
        at, height = np.transpose(sorted(ridge.items()))
        magnitude, share = np.transpose(sorted(shares[name].items()))
        np.testing.assert_allclose(at, magnitude)
        np.testing.assert_allclose(height * scale, share)


def test_the_axes_say_which_layer_and_which_magnitude(record):
    ax = plots.ridge(record)
    names = record.depth("activation_grad", kind="Conv2d")[1]
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    np.testing.assert_array_equal(ax.get_yticks(), -np.arange(len(names)))
    assert ax.get_xscale() == "log"
    assert "gradient of the loss by the layer output" in ax.get_xlabel()
    assert ax.get_title(loc="left") == "step 20"


def test_a_ridge_for_each_step_of_one_layer(record):
    ax = plots.ridge(record, layer="fc")
    assert list(ridges(ax)) == ["step 0", "step 5", "step 20"]
    assert ax.get_title(loc="left") == "fc"
    many = synthetic.record(8, steps=range(90))
    drawn = list(ridges(plots.ridge(many, layer="fc")))
    assert len(drawn) == 40
    assert (drawn[0], drawn[-1]) == ("step 0", "step 89")


def test_flat_ridges_say_why(record):
    rows = record.rows.copy()
    gradients = (rows["role"] == "activation_grad") & (rows["step"] == 20)
    convolutions = np.flatnonzero(gradients & (rows["kind"] == "Conv2d"))
    rows["histogram"][convolutions[1:3]] = 0
    rows["zero_fraction"][convolutions[1]] = 1
    rows["zero_fraction"][convolutions[2]] = np.nan
    ax = plots.ridge(Record(rows))
    marks = {line.get_marker(): line.get_ydata().tolist() for line in ax.lines if len(line.get_ydata())}
    assert marks == {"o": [-1], "x": [-2]}
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"missing", "exactly zero"}


def test_a_layer_it_does_not_know_it_says(record):
    with pytest.raises(ValueError, match="layer is 'conv9' and step is None, expected a layer of the record"):
        plots.ridge(record, layer="conv9")
    with pytest.raises(ValueError, match=r"layer is 'fc' and step is 5, .* no step beside it"):
        plots.ridge(record, layer="fc", step=5)
    with pytest.raises(ValueError, match="role is 'momentum'"):
        plots.ridge(record, "momentum")
