"""Layer responses: what the norms' weights say they are, and the claim judged by hand-made rows."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.experiments.layer_responses import LayerResponses, Row  # noqa: E402

TINY = LayerResponses(seeds=1, train_images=64, image_size=8, shallow=20, deep=32, epochs=1, lr=1e-9)


def rows_of(*means):
    """Rows with the mean responses of plain-20, plain-56, ResNet-20, ResNet-56 for each seed."""
    nets = [("plain", 20), ("plain", 56), ("ResNet", 20), ("ResNet", 56)]
    return table(
        [
            Row(*net, seed, layer, mean + (0.1 if layer == 1 else -0.1))
            for net_index, net in enumerate(nets)
            for seed, of_seed in enumerate(means)
            for mean in [of_seed[net_index]]
            for layer in (1, 2)
        ]
    )


@pytest.mark.parametrize(("family", "depth"), [case[:2] for case in TINY.cases()])
def test_untrained_layers_respond_with_a_deviation_of_1(family, depth):
    """All norms begin with weight 1 and bias 0, and nothing was learnt at this rate."""
    rows = TINY.measure((family, depth, 0))
    assert [row.layer for row in rows] == list(range(1, depth))  # every convolution has a norm
    np.testing.assert_allclose([row.response for row in rows], 1, rtol=0.02)


def test_the_claim():
    seen, deeper, shallow = (1.0, 2.0, 0.9, 0.8), (1.0, 2.0, 0.9, 0.95), (0.8, 2.0, 0.9, 0.8)
    assert LayerResponses().claim(rows_of(seen, seen)).holds
    claim = LayerResponses().claim(rows_of(seen, deeper, shallow))
    assert claim.verdicts == (True, False, False)
    assert "plain-20 1.000, 1.000, 0.800" in claim.seen


def test_the_picture():
    figure = LayerResponses().plot(rows_of((1.0, 2.0, 0.9, 0.8)))
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [2.1, 1.9])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "plain-20",
        "plain-56",
        "ResNet-20",
        "ResNet-56",
    ]
    plt.close(figure)
