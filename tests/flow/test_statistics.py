"""Statistics of one array, against NumPy's own formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres.backend import to_device
from tinyres.flow import STATISTICS, statistics
from tinyres.flow.statistics import flat, sums

rng = np.random.default_rng(0)
SEVEN_DIGITS = 2e-7  # of large arrays in float32


def expected(array: np.ndarray) -> list[float]:
    values = array.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    return [
        finite.mean(),
        finite.std(),
        np.sqrt((finite**2).mean()),
        np.abs(finite).max(),
        (values == 0).mean(),
        1 - finite.size / values.size,
    ]


def check(array: np.ndarray, rtol: float = 1e-11) -> None:
    want, found = expected(array), statistics(array)
    assert tuple(found) == STATISTICS
    scale = max(want[2], np.finfo(np.float64).tiny)  # the mean may cancel: its error is measured in rms
    np.testing.assert_allclose(found["mean"] / scale, want[0] / scale, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(list(found.values())[1:], want[1:], rtol=rtol, atol=0)


ARRAYS = {
    "normal": rng.standard_normal((3, 4, 5, 6)),
    "one value": rng.standard_normal((1, 1)),
    "no axes": np.array(2.5),
    "several blocks": rng.standard_normal((5, 40_000)),
    "half zero": np.maximum(rng.standard_normal(1000), 0),
    "negative zero": np.array([-0.0, 0.0, 1.0, -2.0]),
    "all zero": np.zeros((4, 4)),
    "negative": -np.abs(rng.standard_normal(100)) - 1,
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ARRAYS)
def test_they_are_the_formulas(name, dtype):
    check(ARRAYS[name].astype(dtype), rtol=SEVEN_DIGITS if (name, dtype) == ("several blocks", "float32") else 1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [[0], [7, 8], [-1], [0, 70_000, 199_999], slice(0, 199_999)])
def test_values_that_are_not_finite_are_counted_and_left_out(bad, where):
    array = rng.standard_normal(200_000).astype(np.float32)
    array[where] = bad
    array[12_345] = 0 if isinstance(where, list) else bad
    check(array)


def test_where_nothing_is_finite_there_is_nothing_but_a_count():
    found = statistics(np.array([np.nan, np.inf], np.float32))
    assert found.pop("zero_fraction") == 0
    assert found.pop("nonfinite_fraction") == 1
    assert np.isnan(list(found.values())).all()


def test_nothing_at_all():
    assert np.isnan(list(statistics(np.zeros((0, 3), np.float32)).values())).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-38, 1e30, 3e37])
def test_squares_beyond_float32(scale):
    check((rng.standard_normal(1000) * scale).astype(np.float32))
    check((rng.standard_normal(200_000) * scale).astype(np.float32))


def test_squares_beyond_float64_do_not_stop_it():
    found = statistics(np.array([1e200, -1e200]))
    assert found["abs_max"] == 1e200
    assert not np.isfinite(found["rms"])


@pytest.mark.parametrize("mean", [1e3, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_mean_does_not_blur_the_deviation(mean, dtype):
    check((mean + rng.standard_normal(100_000)).astype(dtype), rtol=1e-9)


def test_a_small_part_of_an_array_may_differ_from_the_rest():
    """Each of these is out of float32's range in one block only, or has its mean there."""
    for scale, offset in [(1e-25, 0), (1e25, 0), (1, 1e4)]:
        array = rng.standard_normal(300_000).astype(np.float32)
        array[60_000:200_000] = array[60_000:200_000] * scale + offset
        check(array, SEVEN_DIGITS)


def test_equal_values_have_no_deviation():
    assert statistics(np.full(100_001, 0.1, np.float32))["std"] == 0


def test_integers_and_truth_values():
    check(rng.integers(0, 5, (20, 3)).astype(np.uint8))
    check(rng.integers(0, 2, 50).astype(bool))


def test_a_channels_last_view_is_read_in_place():
    memory = rng.standard_normal((2, 5, 6, 3), dtype=np.float32)
    view = memory.transpose(0, 3, 1, 2)
    assert np.shares_memory(flat(view), memory)
    check(view)


def test_strided_reversed_and_repeated_views():
    array = rng.standard_normal((6, 7, 8), dtype=np.float32)
    for view in (array[:, ::2], array[::-1, :, ::-3], array[1:, 2:3], np.broadcast_to(array[:, :1], array.shape)):
        check(view)


@pytest.mark.parametrize("name", ["normal", "several blocks", "half zero", "all zero", "not finite", "nothing"])
def test_a_gpu_finds_the_same_without_being_waited_for(cupy, name):
    extra = {"not finite": np.array([np.nan, 1, 0, np.inf, -3]), "nothing": np.zeros((0, 2))}
    array = (ARRAYS | extra)[name].astype(np.float32)
    on_device = to_device(array, "cuda")
    waits = cupy.synchronisations()
    sums(on_device)
    assert cupy.synchronisations() == waits
    there, here = list(statistics(on_device).values()), list(statistics(array).values())
    np.testing.assert_allclose(there, here, rtol=SEVEN_DIGITS, atol=SEVEN_DIGITS * here[2])
