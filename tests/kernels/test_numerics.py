"""Numbers at the edges of the floating-point range."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from kernel_cases import CASES
from numeric import copied, gradients_of
from tinyres import kernels
from tinyres.backend import to_device, to_host
from tinyres.kernels import gradients


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_outputs_and_gradients_keep_the_dtype_and_nearly_the_values(row, dtype):
    narrow = [
        value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
        for value in row.arguments
    ]
    wide = [
        value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == dtype else value
        for value in narrow
    ]
    y, pullback = row.kernel(*copied(narrow), **row.options)
    expected_y, expected_pullback = row.kernel(*copied(wide), **row.options)
    assert y.dtype == dtype
    g = np.asarray(rng().standard_normal(np.shape(y)).astype(dtype))
    found = gradients_of(pullback, g, row.wrt)
    expected = gradients_of(expected_pullback, g.astype(np.float64), row.wrt)
    tolerance = 30 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(y, expected_y, rtol=tolerance, atol=tolerance * np.abs(expected_y).max())
    for i in row.wrt:
        assert found[i].dtype == dtype
        np.testing.assert_allclose(found[i], expected[i], rtol=tolerance, atol=tolerance * np.abs(expected[i]).max())


# Batch norm


@pytest.mark.parametrize("shape", [(16, 3, 9, 7), (8, 64, 16, 16), (200, 5)])
def test_batch_norm_where_the_mean_is_10_000_times_the_spread(device, shape):
    """E[x²] − E[x]² would lose all digits of the variance here."""
    axes = (0, *range(2, len(shape)))
    x = (rng().standard_normal(shape) + 1e4).astype(np.float32)
    mean, var = (to_device(start(shape[1], np.float32), device) for start in (np.zeros, np.ones))
    y, pullback = kernels.batch_norm(to_device(x, device), mean, var, training=True, momentum=1.0)
    y, mean, var = map(to_host, (y, mean, var))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(axes, ddof=1), rtol=1e-3)  # x itself is known to 1e-3 of its spread
    centred = exact - exact.mean(axes, keepdims=True)
    std = np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, centred / std, atol=5e-3)
    g = rng().standard_normal(shape)
    normed = centred / std
    expected = (g - g.mean(axes, keepdims=True) - normed * (g * normed).mean(axes, keepdims=True)) / std
    dx = gradients(pullback, to_device(g.astype(np.float32), device))[0]
    np.testing.assert_allclose(to_host(dx), expected, atol=5e-3)


@pytest.mark.parametrize("value", [0.0, 3.0, 1e4])
def test_batch_norm_of_a_constant_channel(device, value):
    x = np.full((4, 2, 3, 3), value, np.float32)
    x[:, 1] = rng().standard_normal((4, 3, 3))
    y, pullback = kernels.batch_norm(to_device(x, device), None, None, training=True)
    g = to_device(rng().standard_normal(x.shape).astype(np.float32), device)
    y, dx = map(to_host, (y, gradients(pullback, g)[0]))
    assert np.isfinite(dx).all()
    rounding = value * np.finfo(np.float32).eps / np.sqrt(1e-5)  # of x, made larger by 1/√ε
    np.testing.assert_allclose(y[:, 0], 0, atol=2 * rounding + 1e-6)
    np.testing.assert_allclose(dx.sum((0, 2, 3)), 0, atol=1e-2)


def test_batch_norm_in_float16_sums_beyond_its_range():
    x = (rng().standard_normal((32, 2, 16, 16)) * 30 + 300).astype(np.float16)  # sums to 2.5e6, squares to 7e8
    mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    y, pullback = kernels.batch_norm(x, mean, var, training=True, momentum=1.0)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(var, exact.var((0, 2, 3)), rtol=1e-2)
    np.testing.assert_allclose(y, (exact - mean[:, None, None]) / np.sqrt(var)[:, None, None], atol=2e-2)
    ones = np.ones_like(x)
    _, pullback = kernels.batch_norm(x, mean, var, np.ones(2, np.float32), np.zeros(2, np.float32), True)
    dx, _, _, _, dbias = gradients(pullback, ones)
    assert dbias.tolist() == [32 * 16 * 16] * 2
    np.testing.assert_allclose(dx, 0, atol=1e-3)


# Convolution


def test_convolution_in_float16_sums_beyond_its_range():
    """Terms of 200 that add up to 102,400 and come down again: the range of float16 ends at 65,504."""
    x = np.full((2, 1024, 3, 3), 200, np.float16)
    weight = np.repeat(np.array([1, -1], np.float16), 512).reshape(1, 1024, 1, 1)
    y, pullback = kernels.conv2d(x, weight)
    assert np.array_equal(y, np.zeros((2, 1, 3, 3)))
    dx, dweight, _ = gradients(pullback, np.array([1, -1], np.float16).reshape(2, 1, 1, 1) * np.ones_like(y))
    assert np.array_equal(dweight, np.zeros_like(weight))
    assert np.array_equal(dx[0, :, 0, 0], weight[0, :, 0, 0])


def test_convolution_in_float16_counts_beyond_its_digits():
    """Adding ones in float16 stops at 2048."""
    x, weight = np.ones((16, 3, 32, 32), np.float16), np.ones((5, 3, 1, 1), np.float16)
    y, pullback = kernels.conv2d(x, weight, np.zeros(5, np.float16))
    _, dweight, dbias = gradients(pullback, np.ones_like(y))
    assert (dweight == 16 * 32 * 32).all()
    assert (dbias == 16 * 32 * 32).all()


def test_linear_in_float16_counts_beyond_its_digits():
    x, weight = np.ones((10_000, 3), np.float16), np.ones((5, 3), np.float16)
    y, pullback = kernels.linear(x, weight, np.zeros(5, np.float16))
    _, dweight, dbias = gradients(pullback, np.ones_like(y))
    assert (dweight == 10_000).all()
    assert (dbias == 10_000).all()


# Losses


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_huge_logits(dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [1e4, 1e4, -1e4]], dtype)
    losses, pullback = kernels.cross_entropy(x, np.array([0, 0, 1]), reduction="none")
    np.testing.assert_allclose(losses, [0, 2e4, np.log(2)], rtol=1e-6)
    g = np.array([2, 3, 5], dtype)
    np.testing.assert_allclose(
        gradients(pullback, g)[0], [[0, 0, 0], [-3, 3, 0], [2.5, -2.5, 0]], rtol=1e-6, atol=1e-30
    )


def test_log_softmax_and_softmax_of_huge_logits():
    x = np.array([[1e4, -1e4, 1e4]], np.float32)
    np.testing.assert_allclose(kernels.softmax(x, 1)[0], [[0.5, 0, 0.5]])
    np.testing.assert_allclose(kernels.log_softmax(x, 1)[0], [[-np.log(2), -2e4 - np.log(2), -np.log(2)]], rtol=1e-6)
    _, pullback = kernels.log_softmax(x, 1)
    np.testing.assert_allclose(gradients(pullback, np.array([[1, 2, 4]], np.float32))[0], [[-2.5, 2, 0.5]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_huge_logits(dtype):
    x = np.array([1e3, -1e3, 1e3, -1e3, 0], dtype)
    target = np.array([1, 0, 0, 1, 1], dtype)
    losses, pullback = kernels.binary_cross_entropy_with_logits(x, target, reduction="none")
    np.testing.assert_allclose(losses, [0, 0, 1e3, 1e3, np.log(2)], rtol=1e-6)
    g = np.array([2, 3, 4, 5, 6], dtype)
    np.testing.assert_allclose(gradients(pullback, g)[0], [0, 0, 4, -5, -3], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_tanh_of_huge_numbers(dtype):
    x = np.array([-1e3, -30, 0, 30, 1e3], dtype)
    y, pullback = kernels.sigmoid(x)
    expected = np.array([0, np.exp(-30), 0.5, 1, 1])  # 1/(1 + e³⁰) is e⁻³⁰ to 13 digits
    np.testing.assert_allclose(y, expected, atol=1e-7)
    np.testing.assert_allclose(gradients(pullback, np.array([2, 2, 2, 2, 2], dtype))[0], [0, 0, 0.5, 0, 0], atol=1e-7)
    y, pullback = kernels.tanh(x)
    assert y.tolist() == [-1, -1, 0, 1, 1]
    assert gradients(pullback, np.array([2, 3, 4, 5, 6], dtype))[0].tolist() == [0, 0, 4, 0, 0]


@pytest.mark.parametrize("kernel", [kernels.binary_cross_entropy_with_logits, kernels.mse_loss])
def test_integer_targets_do_not_widen_the_loss(kernel):
    x, target = np.array([0.5, -1, 2], np.float32), np.array([1, 0, 1])
    y, pullback = kernel(x, target)
    expected, expected_pullback = kernel(x, target.astype(np.float32))
    assert (y.dtype, y) == (np.float32, expected)
    g = np.asarray(1, np.float32)
    (dx,), (expected_dx,) = (gradients_of(p, g, [0]).values() for p in (pullback, expected_pullback))
    assert dx.dtype == np.float32
    assert np.array_equal(dx, expected_dx)


# Max pooling


def test_max_pool_borders_count_as_minus_infinity_not_zero():
    x = -1 - rng().random((2, 3, 4, 5))
    y, pullback = kernels.max_pool2d(x, 2, 2, 1)
    assert y.shape == (2, 3, 3, 3)
    assert (y < 0).all()
    assert np.array_equal(y[:, :, 0, 0], x[:, :, 0, 0])  # the corner's window holds one pixel and three of border
    g = rng().standard_normal(y.shape)
    (dx,) = gradients(pullback, g)
    np.testing.assert_allclose(dx.sum((2, 3)), g.sum((2, 3)))  # nothing is lost to the border
    assert np.array_equal(dx[:, :, 0, 0], g[:, :, 0, 0])


def test_max_pool_of_minus_infinity():
    x = np.full((1, 1, 2, 2), -np.inf)
    y, pullback = kernels.max_pool2d(x, 3, 1, 1)
    assert (y == -np.inf).all()
    (dx,) = gradients(pullback, np.ones_like(y))
    assert dx.sum() == y.size


def test_max_pool_passes_nan_on():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    x[0, 0, 1, 2] = np.nan
    y, pullback = kernels.max_pool2d(x, 2)
    assert np.array_equal(y[0, 0], [[5, np.nan], [13, 15]], equal_nan=True)
    g = np.array([[2.0, 3], [5, 7]])[None, None]
    (dx,) = gradients(pullback, g)
    assert dx[0, 0, 1].tolist() == [0, 2, 3, 0]
    assert dx.sum() == g.sum()


def test_first_of_tied_maxima_takes_all():
    _, pullback = kernels.max_pool2d(np.ones((1, 1, 2, 4)), 2)
    assert gradients(pullback, np.array([3.0, 5.0]).reshape(1, 1, 1, 2))[0][0, 0].tolist() == [[3, 0, 5, 0], [0] * 4]


def test_relu_and_abs_have_no_gradient_at_zero():
    x = np.array([-0.0, 0.0])
    for kernel in (kernels.relu, kernels.abs):
        assert not gradients(kernel(x)[1], np.array([3.0, 5.0]))[0].any()


def test_square_at_zero_and_power_zero():
    x = np.array([0.0, 2.0])
    g = np.array([3.0, 5.0])
    assert gradients(kernels.pow(x, 2)[1], g)[0].tolist() == [0, 20]
    assert gradients(kernels.pow(x, 1)[1], g)[0].tolist() == [3, 5]
    assert gradients(kernels.pow(x, 0)[1], g)[0].tolist() == [0, 0]


# Dropout


def test_dropout_keeps_the_mean():
    tinyres.manual_seed(0)
    x = np.ones(100_000)
    for p in (0.1, 0.5, 0.9):
        y, pullback = kernels.dropout(x, p)
        kept = y != 0
        assert np.allclose(y[kept], 1 / (1 - p))
        assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / x.size)
        g = rng().standard_normal(x.shape)
        np.testing.assert_allclose(gradients(pullback, g)[0], np.where(kept, g / (1 - p), 0))


def test_dropout_of_everything_is_zero():
    y, pullback = kernels.dropout(np.array([1.0, -2.0, 3e300]), 1.0)
    assert y.tolist() == [0, 0, 0]
    assert gradients(pullback, np.ones(3))[0].tolist() == [0, 0, 0]
