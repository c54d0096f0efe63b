"""The figure of a run: what is drawn is what happened."""

from __future__ import annotations

import pytest

from tinyres.training import History, curves
from tinyres.training.history import Epoch


def history(validation):
    rows = [(0.9, 0.6, 1.0, 0.5), (0.4, 0.8, 0.7, 0.7)]
    return History(
        [
            Epoch(i + 1, 10 * i, 0.1, loss, share, *(other if validation else (None, None)), 1.0)
            for i, (loss, share, *other) in enumerate(rows)
        ]
    )


def test_lines_are_the_rows():
    figure = curves(history(True))
    loss, accuracy = figure.axes
    drawn = {
        (ax.get_ylabel(), line.get_label()): line.get_ydata().tolist() for ax in (loss, accuracy) for line in ax.lines
    }
    assert drawn == {
        ("loss", "training"): [0.9, 0.4],
        ("loss", "validation"): [1.0, 0.7],
        ("right (%)", "training"): [60, 80],
        ("right (%)", "validation"): [50, 70],
    }
    assert loss.lines[0].get_xdata().tolist() == [1, 2]
    figure.canvas.draw()


def test_without_validation_there_is_one_line():
    assert [len(ax.lines) for ax in curves(history(False)).axes] == [1, 1]


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no epoch is done, expected at least one"):
        curves(History())
