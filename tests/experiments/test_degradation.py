"""Degradation: rows are the histories of the nets named, the claim is judged by hand-made rows, and a tiny run
resumes to the bit."""

from __future__ import annotations

import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments import trained  # noqa: E402
from tinyres.experiments.degradation import Degradation, Row  # noqa: E402
from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.training import fit, read_checkpoint  # noqa: E402

TINY = Degradation(
    seeds=1, data="digits", train_images=64, image_size=8, shallow=20, deep=32, width=0.25, epochs=2, batch_size=32
)


def rows_of(*errors):
    """Rows with the last epoch's errors of plain-20, plain-56, ResNet-20, ResNet-56 for each seed."""
    nets = [("plain", 20), ("plain", 56), ("ResNet", 20), ("ResNet", 56)]
    return table(
        [
            Row(*net, seed, epoch, error if epoch == 2 else 0.9, 1.0)
            for seed, of_seed in enumerate(errors)
            for net, error in zip(nets, of_seed, strict=True)
            for epoch in (1, 2)
        ]
    )


def test_cases_are_the_four_nets_of_each_seed():
    assert Degradation(seeds=2).cases()[:5] == [
        ("plain", 20, 0),
        ("plain", 56, 0),
        ("ResNet", 20, 0),
        ("ResNet", 56, 0),
        ("plain", 20, 1),
    ]


def test_the_claim():
    seen, plain, residual = (0.5, 0.7, 0.5, 0.5), (0.5, 0.59, 0.5, 0.4), (0.5, 0.7, 0.5, 0.51)
    assert Degradation().claim(rows_of(seen, seen)).holds
    claim = Degradation().claim(rows_of(seen, plain, residual))
    assert claim.verdicts == (True, False, False)
    assert "not seen (in 1 of 3 seeds)" in str(claim)
    assert "plain-56 70.0%, 59.0%, 70.0%" in claim.seen


def test_the_picture():
    figure = Degradation().plot(rows_of((0.5, 0.7, 0.6, 0.5), (0.3, 0.5, 0.6, 0.5)))
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [90, 40])
    np.testing.assert_allclose(left.lines[1].get_ydata(), [90, 60])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [90, 50])
    assert left.lines[1].get_linewidth() > left.lines[0].get_linewidth()
    plt.close(figure)


def test_a_run_that_was_interrupted_goes_on_to_the_bit(tmp_path, monkeypatch):
    def press(step, loss):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    case = ("ResNet", 20, 0)
    whole = TINY.measure(case)
    assert [row.epoch for row in whole] == [1, 2]
    assert all(row[:3] == case and 0 <= row.error <= 1 for row in whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trained, "fit", partial(fit, on_step=press))
        TINY.measure(case, tmp_path)
    assert TINY.measure(case, tmp_path) == whole


@pytest.mark.parametrize("case", TINY.cases())
def test_what_is_trained(case, tmp_path):
    """At a rate at which little changes: norms still have weight 1, the last ones of residual branches 0."""
    replace(TINY, lr=1e-3).measure(case, tmp_path)
    arrays, _ = read_checkpoint(tmp_path / "checkpoint.safetensors")
    last = [array for name, array in arrays.items() if name.startswith("model.layer") and name.endswith("bn2.weight")]
    family, depth, _ = case
    assert len(last) == (depth - 2) // 2
    for weights in last:
        np.testing.assert_allclose(weights, 0 if family == "ResNet" else 1, atol=0.1)
