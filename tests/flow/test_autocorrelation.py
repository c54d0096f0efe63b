"""Autocorrelation, against its formula term by term and against noises whose own is known."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres import flow
from tinyres.flow.autocorrelation import brown_noise, white_noise


def formula(values):
    mean = sum(values) / len(values)
    total = sum((value - mean) ** 2 for value in values)
    return [
        sum((values[i] - mean) * (values[i + lag] - mean) for i in range(len(values) - lag)) / total
        for lag in range(len(values))
    ]


@pytest.mark.parametrize("count", [2, 3, 17, 64])
def test_it_is_the_formula(count):
    values = np.random.default_rng(count).normal(3, 1, size=(2, 3, count))
    found = flow.autocorrelation(values)
    assert found.shape == values.shape
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(found[index], formula(values[index].tolist()), atol=1e-12)


def test_scale_and_shift_do_not_matter():
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(flow.autocorrelation(1e-20 * values), flow.autocorrelation(values), atol=1e-12)
    np.testing.assert_allclose(flow.autocorrelation(5 - 3 * values), flow.autocorrelation(values), atol=1e-12)


def test_opposite_neighbours():
    np.testing.assert_allclose(flow.autocorrelation([1, -1, 1, -1])[:3], [1, -0.75, 0.5])


def test_equal_gradients_have_none():
    found = flow.autocorrelation([[0.1, 0.1, 0.1], [1, 2, 3]])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("bad", [1.0, [1.0], np.zeros((3, 0))])
def test_too_short(bad):
    with pytest.raises(ValueError, match="expected \\(…, N\\) with N of 2 or more"):
        flow.autocorrelation(bad)


def test_noises():
    rng = np.random.default_rng(0)
    white = flow.autocorrelation([white_noise(256, rng) for _ in range(300)]).mean(axis=0)
    brown = flow.autocorrelation([brown_noise(256, rng) for _ in range(300)]).mean(axis=0)
    # Of white noise, less its mean, the lags 1 … N − 1 sum to −1/2 exactly, evenly but for their number of terms.
    np.testing.assert_allclose(white[1:], -(1 - np.arange(1, 256) / 256) / 255, atol=0.02)
    # A walk's steps have variance 1, its distance from its own mean N/6 on average: 1 − 3/N, and somewhat less.
    assert 0.96 < brown[1] < 1 - 3 / 256
    assert np.all(np.diff(brown[:64]) < 0)


def test_the_picture():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sequences = np.random.default_rng(1).normal(size=(4, 40))
    ax = flow.autocorrelation_plot({"net": sequences, "one": sequences[0]}, draws=5)
    ax.figure.canvas.draw()
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines) == ["brown noise", "white noise", "net", "one"]
    expected = np.mean([formula(sequence.tolist()) for sequence in sequences], axis=0)
    np.testing.assert_allclose(lines["net"], expected[:11], atol=1e-12)
    assert len(flow.autocorrelation_plot({"one": sequences[0]}, lags=3, draws=5).lines[-1].get_ydata()) == 4
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    plt.close("all")
