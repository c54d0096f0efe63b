"""Histograms of magnitude, against NumPy's own counting."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres.backend import to_device
from tinyres.flow.histogram import BINS, LOWEST, histogram, to_text

rng = np.random.default_rng(0)


def counted(array: np.ndarray) -> np.ndarray:
    """Bin k by its definition: 2^(k - 48) <= |x| < 2^(k - 47); the first and last take what is beyond."""
    values = np.abs(array[np.isfinite(array) & (array != 0)]).astype(np.float64)
    edges = 2.0 ** np.arange(-48, 17)
    edges[0], edges[-1] = 0, np.inf
    return np.histogram(values, edges)[0]


ARRAYS = {
    "normal": rng.standard_normal((20, 30)),
    "powers of two": 2.0 ** np.arange(-60, 60) * rng.choice([-1, 1], 120),
    "just below powers of two": np.nextafter(np.float32(2) ** np.arange(-60, 60, dtype=np.float32), np.float32(0)),
    "beyond all bins": np.array([1e-45, -1e-40, 1e-38, 1e-30, 1e5, -1e30, 3e38]),
    "zero and not finite": np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0]),
    "nothing": np.zeros((0, 3)),
    "one value": np.array(-3.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ARRAYS)
def test_bins_are_powers_of_two(name, dtype):
    array = ARRAYS[name].astype(dtype)
    np.testing.assert_array_equal(histogram(array), counted(array))


def test_other_dtypes():
    halves = rng.standard_normal(500).astype(np.float16)
    np.testing.assert_array_equal(histogram(halves), counted(halves))
    numbers = rng.integers(-5, 5, 500)
    np.testing.assert_array_equal(histogram(numbers), counted(numbers))


@pytest.mark.parametrize("channels", [1, 3, 16, 48, 64])
def test_of_a_large_array_the_sample_is_spread_over_all_images_and_channels(channels):
    """A sample that always fell on the same channel, or left out an image, would not have its share of their values."""
    scale = 2.0 ** np.arange(channels) * 2.0**-40  # a bin for each channel
    maps = np.repeat((1.5 * scale.astype(np.float32))[None, :], 1_000_000 // channels, axis=0)
    shares = histogram(maps) / histogram(maps).sum()
    expected = counted(maps) / maps.size
    np.testing.assert_allclose(shares[shares > 0], expected[expected > 0], rtol=0.15)
    images = np.repeat(np.float32(1.5) * 2.0 ** np.arange(-20, 12, dtype=np.float32)[:, None], 40_000, axis=1)
    shares = histogram(images) / histogram(images).sum()
    np.testing.assert_allclose(shares[28:60], 1 / 32, rtol=0.1)


def test_channels_last_views_and_views_with_gaps():
    memory = rng.standard_normal((2, 5, 6, 3), dtype=np.float32)
    for view in (memory.transpose(0, 3, 1, 2), memory[:, ::2], memory[::-1]):
        np.testing.assert_array_equal(histogram(view), counted(view))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*ARRAYS, "large"])
def test_a_gpu_counts_the_same_without_being_waited_for(cupy, name, dtype):
    array = (ARRAYS | {"large": rng.standard_normal(100_000)})[name].astype(dtype)
    on_device = to_device(array, "cuda")
    waits = cupy.synchronisations()
    counts = histogram(on_device)
    assert cupy.synchronisations() == waits
    np.testing.assert_array_equal(counts.get(), histogram(array))


def test_as_text():
    counts = np.zeros(BINS, np.uint32)
    counts[-12 - LOWEST], counts[-11 - LOWEST] = 34, 50
    assert to_text(counts) == "-12:34 -11:50"
    assert to_text(counts * 0) == ""
