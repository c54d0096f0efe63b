"""The sample of a large array: the same share of everything that it could be made of, and all of a small array."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, flow, models
from tinyres import functional as F
from tinyres.backend import to_device, to_host
from tinyres.flow.measure import LENGTH, RUNS
from tinyres.flow.sample import sample


@pytest.mark.parametrize("size", [0, 5, 64 * 8])
def test_a_small_array_is_looked_at_whole(size):
    vector = np.arange(size)
    assert sample(vector, 64, 8) is vector


@pytest.mark.parametrize("size", [64 * 8 + 1, 1000, 99_999])
def test_each_part_gives_one_run_of_neighbours(size):
    found = sample(np.arange(size), 64, 8).reshape(64, 8)
    np.testing.assert_array_equal(found, found[:, :1] + np.arange(8))
    rows = found[:, 0] // 8
    assert (found[:, 0] % 8 == 0).all()
    starts = np.arange(64) * (size // 8) // 64
    assert ((rows >= starts) & (rows <= starts + size // 8 / 64)).all()


@pytest.mark.parametrize("shape", [(128, 32, 32, 16), (128, 16, 16, 32), (64, 56, 56, 64), (100, 30, 31, 48)])
def test_all_images_rows_columns_and_channels_have_their_share(shape):
    """Sizes that are powers of two above all, which a step of fixed length would keep meeting at the same place."""
    found = sample(np.arange(np.prod(shape)), RUNS, LENGTH)
    for axis, position in enumerate(np.unravel_index(found, shape)):
        counts = np.bincount(position, minlength=shape[axis])
        expected = len(found) / shape[axis]
        assert counts.min() > 0.5 * expected and counts.max() < 1.6 * expected, axis


def test_root_mean_squares_are_good_to_a_few_percent():
    """Of maps whose channels, places and images differ in size, as those of networks do."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((64, 32, 32, 16), dtype=np.float32)
    for axis in range(4):
        sizes = [n if i == axis else 1 for i, n in enumerate(maps.shape)]
        maps *= np.exp(0.7 * rng.standard_normal(sizes)).astype(np.float32)
    rms, expected = (
        np.sqrt(np.mean(np.square(values.astype(np.float64)))) for values in (sample(maps.ravel(), RUNS, LENGTH), maps)
    )
    assert rms == pytest.approx(expected, rel=0.05)


def test_a_gpu_takes_the_same_sample(cupy):
    vector = np.random.default_rng(0).standard_normal(300_000)
    found = sample(to_device(vector, "cuda"), RUNS, LENGTH)
    np.testing.assert_array_equal(to_host(found), sample(vector, RUNS, LENGTH))


def test_watching_takes_samples_and_exactly_does_not():
    """Against a plain snapshot, whose numbers have tests of their own."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((32, 3, 40, 40), dtype=np.float32), rng.integers(0, 10, 32)

    def watched(**options):
        tinyres.manual_seed(0)
        model = models.CifarResNet(8)
        with flow.watch(model, **options) as record:
            F.cross_entropy(model(Tensor(x)), Tensor(labels)).backward()
        return record.rows

    tinyres.manual_seed(0)
    expected = flow.snapshot(models.CifarResNet(8), x, labels).rows
    assert watched(exact=True).tobytes() == expected.tobytes()
    found = watched()
    sampled = found["rms"] != expected["rms"]
    assert 0.2 < sampled.mean() < 0.8  # the large ones: 32 · 16 · 40² values, and 32 · 32 · 20²
    np.testing.assert_allclose(found["rms"], expected["rms"], rtol=0.05)
    np.testing.assert_allclose(found["cosine"], expected["cosine"], atol=0.03)
    assert (found["abs_max"] <= expected["abs_max"]).all()
