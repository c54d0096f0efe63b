"""Identities that hold for every input: Hypothesis draws the shapes and a seed, NumPy the values.

⟨a, b⟩ is the sum of the element-wise product; g is always a random cotangent. An adjoint identity
⟨f(x), g⟩ = ⟨x, dx⟩ pins a linear backward pass exactly, with no step size and no kink to guard.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import CASES
from numeric import copied, dot, gradients_of

from tinyres import backend, kernels
from tinyres.kernels import gradients
from tinyres.kernels.windows import Window

# The same examples at each run, so that a failure is the change's and not the draw's.
examples = settings(max_examples=25, deadline=None, derandomize=True)


def close(found, expected, rtol=1e-10):
    """Equal up to rounding, measured on the largest number in sight."""
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * (1 + np.abs(expected).max(initial=0)))


def small(least, most):
    return st.integers(least, most)


@st.composite
def convolutions(draw, **fixed):
    """A convolution whose window fits: strides that leave a rest, padding up to beyond the kernel, dilation, groups."""

    def axis():
        k, d, p, s = (
            fixed[name] if name in fixed else draw(values)
            for name, values in dict(
                kernel=small(1, 4), dilation=small(1, 2), padding=small(0, 4), stride=small(1, 3)
            ).items()
        )
        extent = d * (k - 1) + 1
        return draw(small(max(1, extent - 2 * p), extent + 5)), k, d, p, s

    groups = fixed.get("groups") or draw(small(1, 3))
    (h, kh, dh, ph, sh), (w, kw, dw, pw, sw) = axis(), axis()
    n, c, o = draw(small(1, 3)), draw(small(1, 3)), draw(small(1, 3))
    rng = np.random.default_rng(draw(small(0, 2**32 - 1)))
    x, weight = rng.standard_normal((n, groups * c, h, w)), rng.standard_normal((groups * o, c, kh, kw))
    bias = rng.standard_normal(groups * o)
    window = Window((kh, kw), (sh, sw), (ph, pw), (dh, dw))
    return SimpleNamespace(
        x=x, w=weight, b=bias, options=(window[1], window[2], window[3], groups), window=window, rng=rng
    )


def conv_and_gradients(c):
    """y, g, dx, dw, db."""
    y, pullback = kernels.conv2d(c.x, c.w, c.b, *c.options)
    g = c.rng.standard_normal(y.shape)
    return y, g, *gradients(pullback, g)


@st.composite
def batches(draw, least=2):
    """(N, C, H, W) or (N, C), each channel with a spread of 0.5 to 2 about a mean of its own; γ, β and ε."""
    rng = np.random.default_rng(draw(small(0, 2**32 - 1)))
    c = draw(small(1, 5))
    shape = draw(st.sampled_from([(3, c), (least, c, 1, 1), (1, c, 2, 3), (2, c, 3, 1), (4, c, 2, 5), (3, c, 7, 6)]))
    axes = (0, *range(2, len(shape)))
    x = rng.standard_normal(shape)
    x = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    spread, mean = rng.uniform(0.5, 2, c), rng.normal(0, 3, c)
    per_channel = (c, *[1] * (len(shape) - 2))
    x = x * spread.reshape(per_channel) + mean.reshape(per_channel)
    eps = draw(st.sampled_from([1e-5, 1e-3, 0.1]))
    var = x.var(axes)
    return SimpleNamespace(
        x=x,
        axes=axes,
        count=x.size // c,
        column=lambda vector: vector.reshape(per_channel),
        weight=rng.choice([-1, 1], c) * rng.uniform(0.5, 2, c),
        bias=rng.standard_normal(c),
        eps=eps,
        var=var,
        s=np.sqrt(var + eps),
        normed=(x - x.mean(axes, keepdims=True)) / np.sqrt(var + eps).reshape(per_channel),
        rng=rng,
    )


def norm(b, x=None, weight=None, bias=None, eps=None):
    """Batch norm in training, without running statistics."""
    return kernels.batch_norm(b.x if x is None else x, None, None, weight, bias, True, 0.1, eps or b.eps)


# Convolution


@examples
@given(convolutions())
def test_convolution_is_bilinear(c):
    x2, w2 = c.rng.standard_normal(c.x.shape), c.rng.standard_normal(c.w.shape)
    conv = lambda x, w: kernels.conv2d(x, w, None, *c.options)[0]  # noqa: E731
    close(conv(2 * c.x + x2, c.w), 2 * conv(c.x, c.w) + conv(x2, c.w))
    close(conv(c.x, 2 * c.w + w2), 2 * conv(c.x, c.w) + conv(c.x, w2))


@examples
@given(convolutions())
def test_convolution_against_its_definition(c):
    (sh, sw), (ph, pw), (dh, dw), groups = c.options
    x = np.pad(c.x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    y, _ = kernels.conv2d(c.x, c.w, c.b, *c.options)
    o, per_group, kh, kw = c.w.shape
    for f, p, q in np.ndindex(o, *y.shape[2:]):
        first = f // (o // groups) * per_group
        rows, columns = p * sh + dh * np.arange(kh), q * sw + dw * np.arange(kw)
        seen = x[:, first : first + per_group, rows[:, None], columns]
        close(y[:, f, p, q], (seen * c.w[f]).sum((1, 2, 3)) + c.b[f])


@examples
@given(convolutions())
def test_convolution_adjoint_identities(c):
    y, g, dx, dw, db = conv_and_gradients(c)
    linear = dot(y, g) - dot(db, c.b)
    scale = np.abs(y * g).sum()
    close(dot(c.x, dx), linear, 1e-12 * (1 + scale))
    close(dot(c.w, dw), linear, 1e-12 * (1 + scale))
    close(db, g.sum((0, 2, 3)))


def coverage(shape, window):
    """How many windows see each pixel of an image (N, H, W, C)."""
    _, h, w, _ = shape
    (ph, pw), (kh, kw), (sh, sw), (dh, dw) = window.padding, window.kernel, window.stride, window.dilation
    count = np.zeros((h + 2 * ph, w + 2 * pw))
    for p in range(0, h + 2 * ph - dh * (kh - 1), sh):
        for q in range(0, w + 2 * pw - dw * (kw - 1), sw):
            count[p : p + dh * (kh - 1) + 1 : dh, q : q + dw * (kw - 1) + 1 : dw] += 1
    return count[ph : ph + h, pw : pw + w, None]


@examples
@given(convolutions())
def test_im2col_and_col2im_are_adjoint(c):
    x = c.x.transpose(0, 2, 3, 1)
    columns = kernels.im2col(x, c.window)
    other = c.rng.standard_normal(columns.shape)
    close(
        dot(columns, other),
        dot(x, kernels.col2im(other, x.shape, c.window)),
        1e-12 * (1 + np.abs(columns * other).sum()),
    )
    close(kernels.col2im(columns, x.shape, c.window), x * coverage(x.shape, c.window))


@examples
@given(convolutions(kernel=2, stride=4, padding=0))
def test_pixels_that_no_window_covers_have_no_gradient(c):
    _, _, dx, _, _ = conv_and_gradients(c)
    assert not dx.transpose(0, 2, 3, 1)[:, coverage((1, *c.x.shape[2:], 1), c.window)[..., 0] == 0].any()


@examples
@given(convolutions(groups=1, stride=1, dilation=1, kernel=3, padding=1))
def test_at_stride_1_dx_is_a_convolution_with_the_flipped_kernels(c):
    _, g, dx, _, _ = conv_and_gradients(c)
    wide = np.pad(g, [(0, 0), (0, 0), (1, 1), (1, 1)])  # k − 1 − padding
    close(dx, kernels.conv2d(wide, c.w[:, :, ::-1, ::-1].swapaxes(0, 1))[0])


@examples
@given(convolutions(groups=1, stride=1, dilation=1, kernel=3, padding=1), small(1, 3), small(1, 3))
def test_circular_shifts_commute_with_circular_convolution(c, down, across):
    rows, columns = (np.arange(-1, size + 1) % size for size in c.x.shape[2:])

    def circular(x, g=None):
        y, pullback = kernels.conv2d(x[:, :, rows[:, None], columns], c.w)
        dx = np.zeros_like(x)
        if g is not None:
            np.add.at(dx, (slice(None), slice(None), rows[:, None], columns), gradients(pullback, g)[0])
        return y, dx

    def shift(x):
        return np.roll(x, (down, across), (2, 3))

    g = c.rng.standard_normal(circular(c.x)[0].shape)
    y, dx = circular(c.x, g)
    shifted_y, shifted_dx = circular(shift(c.x), shift(g))
    close(shifted_y, shift(y))
    close(shifted_dx, shift(dx))


@examples
@given(convolutions(groups=1, stride=1, dilation=1, kernel=3, padding=1))
def test_a_dirac_kernel_is_the_identity(c):
    channels = c.x.shape[1]
    c.w, c.b = np.zeros((channels, channels, 3, 3)), None
    c.w[range(channels), range(channels), 1, 1] = 1
    y, g, dx, *_ = conv_and_gradients(c)
    assert np.array_equal(y, c.x) and np.array_equal(dx, g)


@examples
@given(convolutions(groups=1))
def test_permuting_input_channels_permutes_their_gradients(c):
    y, g, dx, dw, _ = conv_and_gradients(c)
    order = c.rng.permutation(c.x.shape[1])
    y2, pullback = kernels.conv2d(c.x[:, order], c.w[:, order], c.b, *c.options)
    dx2, dw2, _ = gradients(pullback, g)
    close(y2, y)
    close(dx2, dx[:, order])
    close(dw2, dw[:, order])


@examples
@given(convolutions())
def test_weight_gradients_of_two_batches_add_up(c):
    other = c.rng.standard_normal((2, *c.x.shape[1:]))
    y, pullback = kernels.conv2d(np.concatenate([c.x, other]), c.w, c.b, *c.options)
    g = c.rng.standard_normal(y.shape)
    _, dw, db = gradients(pullback, g)
    halves = [
        gradients(kernels.conv2d(x, c.w, c.b, *c.options)[1], part)
        for x, part in ((c.x, g[: len(c.x)]), (other, g[len(c.x) :]))
    ]
    close(dw, halves[0][1] + halves[1][1])
    close(db, halves[0][2] + halves[1][2])


# Batch norm. s² = σ² + ε


@examples
@given(batches())
def test_batch_norm_sets_mean_and_variance(b):
    y, _ = norm(b, weight=b.weight, bias=b.bias)
    close(y.mean(b.axes), b.bias)
    close(y.var(b.axes), b.weight**2 * b.var / b.s**2)


@examples
@given(batches())
def test_batch_norm_gradient_sums_to_zero(b):
    y, pullback = norm(b, weight=b.weight, bias=b.bias)
    g = b.rng.standard_normal(y.shape)
    dx, *_ = gradients(pullback, g)
    close(dx.sum(b.axes), np.zeros(len(b.bias)), 1e-10 * (1 + np.abs(dx).sum()))


@examples
@given(batches())
def test_batch_norm_gradient_along_x_hat(b):
    y, pullback = norm(b, weight=b.weight, bias=b.bias)
    g = b.rng.standard_normal(y.shape)
    dx, *_ = gradients(pullback, g)
    expected = b.weight / b.s * (b.eps / b.s**2) * (g * b.normed).sum(b.axes)
    close((dx * b.normed).sum(b.axes), expected, 1e-11 * (1 + np.abs(dx).sum()))


@examples
@given(batches())
def test_batch_norm_forgets_scale_and_shift(b):
    c = len(b.bias)
    a, shift = b.rng.choice([-1, 1]) * b.rng.uniform(0.3, 3), b.column(b.rng.standard_normal(c))
    y, _ = norm(b, weight=b.weight)
    scaled, _ = norm(b, x=a * b.x + shift, weight=b.weight, eps=a * a * b.eps)
    close(scaled, np.sign(a) * y)


@examples
@given(batches())
def test_batch_norm_jacobian_is_symmetric(b):
    """At γ = 1."""
    y, pullback = norm(b)
    g, u = b.rng.standard_normal(y.shape), b.rng.standard_normal(y.shape)
    close(dot(gradients(pullback, g)[0], u), dot(g, gradients(pullback, u)[0]), 1e-11 * (1 + b.x.size))


@examples
@given(batches())
def test_batch_norm_output_against_its_own_gradients(b):
    y, pullback = norm(b, weight=b.weight, bias=b.bias)
    g = b.rng.standard_normal(y.shape)
    _, _, _, dweight, dbias = gradients(pullback, g)
    close((y * g).sum(b.axes), b.weight * dweight + b.bias * dbias)
    close(dbias, g.sum(b.axes))


@examples
@given(batches())
def test_batch_norm_annihilates_constants_and_nearly_x_hat(b):
    y, pullback = norm(b)
    constant = np.broadcast_to(b.column(b.rng.standard_normal(len(b.bias))), y.shape)
    close(gradients(pullback, constant)[0], np.zeros(y.shape))
    close(gradients(pullback, b.normed)[0], b.column(b.eps / b.s**3) * b.normed)


@examples
@given(batches(least=3))
def test_batch_norm_moves_running_statistics(b):
    mean, var = b.rng.standard_normal(len(b.bias)), b.rng.uniform(0.5, 2, len(b.bias))
    expected_mean = 0.7 * mean + 0.3 * b.x.mean(b.axes)
    expected_var = 0.7 * var + 0.3 * b.x.var(b.axes, ddof=1)
    kernels.batch_norm(b.x, mean, var, b.weight, b.bias, True, 0.3, b.eps)
    close(mean, expected_mean)
    close(var, expected_var)


@examples
@given(batches(), st.booleans(), st.booleans())
def test_fused_batch_norm_is_the_three_operations_to_the_bit(b, with_residual, training):
    mean, var = b.rng.standard_normal(len(b.bias)), b.rng.uniform(0.5, 2, len(b.bias))
    residual = b.rng.standard_normal(b.x.shape) if with_residual else None
    rest = (b.weight, b.bias, training, 0.1, b.eps)
    normed, back_norm = kernels.batch_norm(b.x, mean.copy(), var.copy(), *rest)
    added, back_add = kernels.add(normed, residual) if with_residual else (normed, lambda dy: (dy, None))
    y, back_relu = kernels.relu(added)
    fused, back_fused = kernels.batch_norm_add_relu(b.x, residual, mean.copy(), var.copy(), *rest)
    assert np.array_equal(fused, y)
    g = b.rng.standard_normal(y.shape)
    (inner,) = gradients(back_relu, g)
    branch, skip = gradients(back_add, inner)
    dx, _, _, dweight, dbias = gradients(back_norm, branch)
    for found, expected in zip(gradients(back_fused, g), (dx, skip, None, None, dweight, dbias), strict=True):
        assert (found is None) == (expected is None)
        assert expected is None or np.array_equal(found, expected)


# Conservation


@examples
@given(batches(), small(1, 3), small(1, 3), small(0, 1))
def test_rectifier_and_pooling_are_homogeneous(b, size, stride, padding):
    """⟨x, dx⟩ = ⟨y, g⟩: each output is a weighted sum of the inputs it came from."""
    images = b.rng.standard_normal((2, 3, 5, 4))
    padding = min(padding, size // 2)
    for y, pullback in (
        kernels.relu(b.x),
        kernels.max_pool2d(images, size, stride, padding),
        kernels.avg_pool2d(images, size, stride, padding),
        kernels.avg_pool2d(images, size, stride, padding, False),
        kernels.adaptive_avg_pool2d(images, size),
    ):
        g = b.rng.standard_normal(y.shape)
        (dx,) = gradients(pullback, g)
        x = b.x if dx.shape == b.x.shape else images
        close(dot(x, dx), dot(y, g), 1e-12 * (1 + np.abs(y * g).sum()))


@examples
@given(small(0, 2**32 - 1), small(1, 3), small(1, 3), small(1, 3), small(1, 3))
def test_average_pooling_that_covers_every_pixel_conserves_the_gradient(seed, kh, kw, down, across):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, kh * down, kw * across))
    for y, pullback in (kernels.avg_pool2d(x, (kh, kw)), kernels.adaptive_avg_pool2d(x, (down, across))):
        g = rng.standard_normal(y.shape)
        close(gradients(pullback, g)[0].sum((2, 3)), g.sum((2, 3)))


@examples
@given(small(0, 2**32 - 1), small(1, 4), small(1, 5), st.sampled_from([0.0, 0.1, 1.0]))
def test_rows_of_the_cross_entropy_gradient_sum_to_zero(seed, n, classes, smoothing):
    rng = np.random.default_rng(seed)
    x, target = rng.normal(0, 3, (n, classes, 2)), rng.integers(0, classes, (n, 2))
    weight = rng.uniform(0.5, 2, classes)
    y, pullback = kernels.cross_entropy(x, target, weight, reduction="none", label_smoothing=smoothing)
    dx = gradients(pullback, rng.standard_normal(y.shape))[0]
    close(dx.sum(1), np.zeros((n, 2)))


@examples
@given(small(0, 2**32 - 1), small(1, 4), small(1, 5), st.sampled_from([0, 1, -1]))
def test_softmax_ignores_a_shift(seed, n, classes, dim):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 3, (n, classes))
    for kernel in (kernels.softmax, kernels.log_softmax):
        y, pullback = kernel(x, dim)
        close(kernel(x + 1000, dim)[0], y, 1e-11)
        close(gradients(pullback, rng.standard_normal(y.shape))[0].sum(dim), np.zeros(y.sum(dim).shape))


# Residual


@examples
@given(convolutions(groups=1, stride=1, dilation=1, kernel=3, padding=1))
def test_the_gradient_of_a_residual_sum_is_the_gradient_plus_the_branchs(c):
    """y = x + F(x): dx = g + J_Fᵀ g."""
    c.w, c.b = c.rng.standard_normal((c.x.shape[1], c.x.shape[1], 3, 3)), None
    branch, pull_branch = kernels.conv2d(c.x, c.w, c.b, *c.options)
    y, pull_add = kernels.add(branch, c.x)
    g = c.rng.standard_normal(y.shape)
    by_branch, by_skip = gradients(pull_add, g)
    close(y, c.x + branch)
    assert np.array_equal(by_skip, g)
    close(gradients(pull_branch, by_branch)[0] + by_skip, g + gradients(pull_branch, g)[0])


@examples
@given(batches())
def test_with_zero_gamma_a_residual_block_is_the_identity_to_the_bit(b):
    zero = np.zeros(len(b.bias))
    branch, pull_branch = norm(b, weight=zero, bias=zero)
    y, pull_add = kernels.add(branch, b.x)
    g = b.rng.standard_normal(y.shape)
    by_branch, by_skip = gradients(pull_add, g)
    assert np.array_equal(y, b.x)
    assert np.array_equal(gradients(pull_branch, by_branch)[0] + by_skip, g)
    fused, pull_fused = kernels.batch_norm_add_relu(b.x, b.x, None, None, zero, zero, True, 0.1, b.eps)
    dx, dresidual, *_ = gradients(pull_fused, g)
    assert np.array_equal(fused, np.maximum(b.x, 0))
    assert np.array_equal(dx + dresidual, g * (b.x > 0))


# Broadcasting and summing


@examples
@given(st.lists(small(1, 3), min_size=1, max_size=4), st.data())
def test_broadcasting_and_summing_are_adjoint(shape, data):
    rng = np.random.default_rng(data.draw(small(0, 2**32 - 1)))
    kept = [data.draw(st.sampled_from([1, size])) for size in shape]
    x, g = rng.standard_normal(kept), rng.standard_normal(shape)
    y, pullback = kernels.expand(x, *shape)
    (dx,) = gradients(pullback, g)
    close(dot(y, g), dot(x, dx))
    dims = tuple(axis for axis, (one, size) in enumerate(zip(kept, shape, strict=True)) if one != size)
    total, pull_sum = kernels.sum(g, dims, keepdim=True)
    close(total, dx)
    close(gradients(pull_sum, x)[0], y)
    first, second = gradients(kernels.add(x, np.zeros(shape))[1], g)
    close(first, dx)
    close(second, g)


# What holds for every kernel


def with_cotangents(row):
    """A case's output and pullback, and two random cotangents."""
    y, pullback = row()
    rng = np.random.default_rng(0)
    g, h = (np.asarray(rng.standard_normal(np.shape(y))) for _ in range(2))
    return y, pullback, g, h


every_kernel = pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)


@every_kernel
def test_pullback_is_linear(row):
    _, pullback, g, h = with_cotangents(row)
    by_g, by_h, by_both = (gradients_of(pullback, dy, row.wrt) for dy in (g, h, 2 * g - 3 * h))
    for i in row.wrt:
        close(by_both[i], 2 * by_g[i] - 3 * by_h[i])


@every_kernel
def test_repeatable_to_the_bit(row):
    y, pullback, g, _ = with_cotangents(row)
    again, pullback_again = row()
    assert np.array_equal(y, again)
    first, second, third = (gradients_of(pull, g, row.wrt) for pull in (pullback, pullback_again, pullback))
    for i in row.wrt:
        assert np.array_equal(first[i], second[i]) and np.array_equal(first[i], third[i])


@every_kernel
def test_nothing_is_mutated_or_shared(row):
    """No argument changes, but for running statistics; no gradient is memory that an argument, the output or the next
    call of the pullback sees."""
    arguments = copied(row.arguments)
    running = (1, 2) if row.name.startswith("batch_norm ") else (2, 3) if "batch_norm" in row.name else ()
    y, pullback = row.kernel(*arguments, **row.options)
    y = np.asarray(y)
    output, g = y.copy(), np.asarray(np.random.default_rng(0).standard_normal(y.shape))
    cotangent = g.copy()
    found = gradients_of(pullback, g, row.wrt)
    expected = {i: gradient.copy() for i, gradient in found.items()}
    assert np.array_equal(g, cotangent) and np.array_equal(y, output)
    for i, (value, before) in enumerate(zip(arguments, row.arguments, strict=True)):
        assert i in running or not isinstance(value, np.ndarray) or np.array_equal(value, before)
    for gradient in found.values():
        assert not np.shares_memory(gradient, y)
        for value in arguments:
            assert not isinstance(value, np.ndarray) or not np.shares_memory(gradient, value)
        if gradient.flags.writeable and not np.shares_memory(gradient, g):
            gradient.fill(np.nan)
    for i, gradient in gradients_of(pullback, cotangent, row.wrt).items():
        assert np.array_equal(gradient, expected[i])


@pytest.mark.parametrize("block_bytes", [1, 1000])
@every_kernel
def test_cutting_the_work_into_blocks_changes_nothing(row, block_bytes, monkeypatch):
    y, pullback, g, _ = with_cotangents(row)
    expected = gradients_of(pullback, g, row.wrt)
    monkeypatch.setitem(backend.BLOCK_BYTES, "cpu", block_bytes)
    again, pullback_again = row()
    close(again, y)
    found = gradients_of(pullback_again, g, row.wrt)
    for i in row.wrt:
        close(found[i], expected[i])


@every_kernel
def test_what_has_no_gradient_says_so(row):
    _, pullback, g, _ = with_cotangents(row)
    parts = pullback(g)
    parts = parts if isinstance(parts, tuple) else (parts,)
    for value, part in zip(row.arguments, parts, strict=False):
        if isinstance(value, np.ndarray) and value.dtype.kind != "f":
            assert part is None


def channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def every_other(array):
    spaced = np.full([2 * size for size in array.shape], 99, array.dtype)
    inside = (slice(None, None, 2),) * array.ndim
    spaced[inside] = array
    return spaced[inside]


def backwards(array):
    reverse = (slice(None, None, -1),) * array.ndim
    return array[reverse].copy()[reverse]


def laid_out(arguments, layout):
    """The arguments, arrays of two axes and more with `layout` applied, vectors copied."""
    return [layout(v) if np.ndim(v) > 1 else v.copy() if isinstance(v, np.ndarray) else v for v in arguments]


@pytest.mark.parametrize("layout", [np.asfortranarray, channels_last, every_other, backwards], ids=lambda f: f.__name__)
@every_kernel
def test_memory_layout_does_not_matter(row, layout):
    y, pullback, g, _ = with_cotangents(row)
    expected = gradients_of(pullback, g, row.wrt)
    again, pullback_again = row.kernel(*laid_out(row.arguments, layout), **row.options)
    close(again, y)
    found = gradients_of(pullback_again, *laid_out([g], layout), row.wrt)
    for i in row.wrt:
        close(found[i], expected[i])


def stretched(array):
    """An array whose first axis repeats one element without memory of its own."""
    return np.broadcast_to(array[:1], array.shape)


@every_kernel
def test_broadcast_inputs_and_cotangents_work(row):
    arguments = [stretched(v) if i in row.wrt and np.ndim(v) > 1 else v for i, v in enumerate(row.arguments)]
    y, pullback = row.kernel(*laid_out(arguments, lambda view: view), **row.options)
    expected, expected_pullback = row.kernel(*laid_out(arguments, np.copy), **row.options)
    close(y, expected)
    g = np.asarray(np.random.default_rng(0).standard_normal(np.shape(y)))
    g = stretched(g) if g.ndim else g
    found, expected = gradients_of(pullback, g, row.wrt), gradients_of(expected_pullback, g.copy(), row.wrt)
    for i in row.wrt:
        close(found[i], expected[i])


# Permuting the samples of a batch: the batch's axis is the first of input and output.
BATCHED = [
    row
    for row in CASES
    if row.name.split()[0]
    in {"conv2d", "batch_norm", "batch_norm_add_relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "relu"}
    or row.name in ("cross_entropy none", "linear", "linear without bias")
]


@pytest.mark.parametrize("row", BATCHED, ids=lambda row: row.name)
def test_permuting_the_batch_permutes_outputs_and_input_gradients(row):
    y, pullback, g, _ = with_cotangents(row)
    n = len(y)
    order = np.random.default_rng(1).permutation(n)
    of_samples = {0, 1} if row.name.startswith(("batch_norm_add", "cross_entropy")) else {0}
    arguments = [
        value[order] if i in of_samples and isinstance(value, np.ndarray) else value
        for i, value in enumerate(row.arguments)
    ]
    permuted_y, permuted_pullback = row.kernel(*copied(arguments), **row.options)
    close(permuted_y, y[order])
    expected, found = gradients_of(pullback, g, row.wrt), gradients_of(permuted_pullback, g[order], row.wrt)
    for i in row.wrt:
        close(found[i], expected[i][order] if i in of_samples else expected[i])
