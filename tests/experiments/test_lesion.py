"""Lesions: the experiment deletes every block and shuffles them, in trained nets and in one from a file."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from oracle import cifar  # noqa: E402
from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.experiments.lesion import Lesion, Row  # noqa: E402

TINY = Lesion(
    seeds=1, train_images=64, image_size=8, plain=20, residual=20, epochs=1, test_images=50, swaps=(1, 3), draws=2
)
BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


def rows_of(*seeds):
    """Rows of (whole, deleted, deleted, shuffled) errors of the plain net and of the ResNet, for each seed."""
    rows = []
    for seed, nets in enumerate(seeds):
        for family, (whole, first, second, shuffled) in zip(("plain", "ResNet"), nets, strict=True):
            rows += [Row(family, seed, "", 0, 1.0, whole)]
            rows += [Row(family, seed, "layer1.0", 0, 1.0, first), Row(family, seed, "layer1.1", 0, 1.0, second)]
            rows += [Row(family, seed, "", 1, 0.5, shuffled)]
    return table(rows)


@pytest.mark.parametrize("family", ["plain", "ResNet"])
def test_every_block_is_deleted_and_blocks_are_exchanged(family):
    rows = table(TINY.measure((family, 0)))
    one = rows[rows.swaps == 0]
    assert one.deleted.tolist() == ["", *BLOCKS]
    missing = ["layer2.0", "layer3.0"] if family == "plain" else []
    assert one.deleted[np.isnan(one.error)].tolist() == missing
    moved = rows[rows.swaps > 0]
    assert moved.swaps.tolist() == [1, 1, 3, 3]
    assert (moved.tau < 1).all()
    hits = 50 * (1 - rows.error[np.isfinite(rows.error)])
    np.testing.assert_allclose(hits, hits.round(), atol=1e-9)


def test_the_claim():
    good = ((0.2, np.nan, 0.9, 0.9), (0.1, 0.11, 0.13, 0.3))
    fragile = ((0.2, 0.9, 0.9, 0.9), (0.1, 0.4, 0.5, 0.3))
    robust = ((0.2, 0.25, 0.25, 0.9), (0.1, 0.1, 0.1, 0.3))
    experiment = Lesion(little=0.05, much=0.2)
    claim = experiment.claim(rows_of(good, fragile, robust))
    assert claim.verdicts == (True, False, False)
    assert "plain 70.0, 70.0, 5.0; ResNet 2.0, 35.0, 0.0" in claim.seen


def test_the_picture():
    figure = Lesion().plot(rows_of(((0.2, np.nan, 0.9, 0.8), (0.1, 0.11, 0.13, 0.3))))
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [np.nan, 90])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [10, 30])
    plt.close(figure)


def test_a_really_trained_network(tmp_path):
    """On real images a ResNet-20 from a file is as good as it should be, and no deleted block that keeps the shape
    brings it down to guessing."""
    weights = cifar.shared("weights/resnet20-12fca82f.th")
    with zipfile.ZipFile(cifar.shared("data/cifar10-jpeg.zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        for name in names[::100]:  # 20 training and 10 test images of each class
            archive.extract(name, tmp_path)
    experiment = Lesion(
        data=str(tmp_path / "cifar10"),
        image_size=0,
        residual=20,
        weights=str(weights),
        test_images=100,
        swaps=(1,),
        draws=1,
    )
    rows = table(experiment.measure(("ResNet", 0)))
    whole, errors = rows.error[0], dict(zip(rows.deleted.tolist(), rows.error, strict=True))
    assert whole < 0.35  # 18.65 % on 2,000 images, by PyTorch
    kept = [errors[f"layer{stage}.{block}"] for stage in (1, 2, 3) for block in (1, 2)]
    print(f"whole {whole:.0%}, one block deleted {', '.join(f'{error:.0%}' for error in kept)}")
    assert max(kept) < 0.8
