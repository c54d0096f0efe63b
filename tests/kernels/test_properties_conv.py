"""Convolution, properties 1 to 10: identities that hold for every input, on NumPy and on the strict fake of CuPy.

⟨a, b⟩ is the sum of the element-wise product; g is always a random cotangent. An adjoint identity
⟨f(x), g⟩ = ⟨x, dx⟩ pins a linear backward pass exactly, with no step size and no kink to guard.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernel_strategies import col2im, columns, im2col, windows
from numeric import dot
from properties import close, normal_like, run
from tinyres import kernels
from tinyres.backend import to_device, to_host
from tinyres.kernels.windows import Window
from tinyres.testing.strategies import conv_cases


def convolve(case, device, *args):
    """y, g, and the gradients dx, dw, db."""
    y, pullback = run(kernels.conv2d, case, device, *args)
    g = normal_like(case, y)
    return y, g, *pullback(g)


def window_of(case):
    options = case.options
    return Window(case.args[1].shape[2:], options["stride"], options["padding"], options["dilation"])


def coverage(h, w, window):
    """How many windows see each pixel: (H, W)."""
    (ph, pw), (kh, kw), (sh, sw), (dh, dw) = window.padding, window.kernel, window.stride, window.dilation
    count = np.zeros((h + 2 * ph, w + 2 * pw))
    for p in range(0, h + 2 * ph - dh * (kh - 1), sh):
        for q in range(0, w + 2 * pw - dw * (kw - 1), sw):
            count[p : p + dh * (kh - 1) + 1 : dh, q : q + dw * (kw - 1) + 1 : dw] += 1
    return count[ph : ph + h, pw : pw + w]


@given(case=conv_cases())
def test_convolution_is_bilinear(device, case):
    (x, w, _), rng = case.args, case.rng
    x2, w2 = rng.standard_normal(x.shape), rng.standard_normal(w.shape)

    def conv(x, w):
        return run(kernels.conv2d, case, device, x, w, None)[0]

    close(conv(2 * x + x2, w), 2 * conv(x, w) + conv(x2, w))
    close(conv(x, 2 * w + w2), 2 * conv(x, w) + conv(x, w2))


@given(case=conv_cases())
def test_convolution_against_its_definition(device, case):
    x, w, b = case.args
    (sh, sw), (ph, pw), (dh, dw), groups = case.options.values()
    o, c, kh, kw = w.shape
    padded = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    y, _ = run(kernels.conv2d, case, device)
    expected = np.zeros(y.shape)
    for i, j in np.ndindex(kh, kw):
        seen = padded[:, :, i * dh :: sh, j * dw :: sw][:, :, : y.shape[2], : y.shape[3]]  # (N, G·C, OH, OW)
        for group in range(groups):
            outputs, inputs = (slice(group * size, (group + 1) * size) for size in (o // groups, c))
            expected[:, outputs] += np.einsum("nchw,oc->nohw", seen[:, inputs], w[outputs, :, i, j])
    close(y, expected if b is None else expected + b[:, None, None])


@given(case=conv_cases())
def test_convolution_and_its_input_gradient_are_adjoint(device, case):
    """⟨conv(x, w), g⟩ = ⟨x, dx⟩, for g of any convolution without bias."""
    x, w, _ = case.args
    y, g, dx, _, _ = convolve(case, device, x, w, None)
    close(dot(x, dx), dot(y, g), 1e-12, np.abs(y * g).sum())


@given(case=conv_cases())
def test_convolution_and_its_weight_gradient_are_adjoint(device, case):
    """⟨conv(x, w), g⟩ = ⟨w, dw⟩."""
    x, w, _ = case.args
    y, g, _, dw, _ = convolve(case, device, x, w, None)
    close(dot(w, dw), dot(y, g), 1e-12, np.abs(y * g).sum())


@given(case=windows())
def test_im2col_and_col2im_are_adjoint(device, case):
    """⟨im2col x, C⟩ = ⟨x, col2im C⟩."""
    x, window = case.args
    rows, _ = run(im2col, case, device)
    other = normal_like(case, rows)
    back, _ = run(col2im, case, device, other, x.shape, window)
    close(dot(x, back), dot(rows, other), 1e-12, np.abs(rows * other).sum())


@given(case=columns())
def test_col2im_and_im2col_are_adjoint(device, case):
    """⟨col2im C, x⟩ = ⟨C, im2col x⟩."""
    rows = case.args[0]
    x, pullback = run(col2im, case, device)
    other = normal_like(case, x)
    close(dot(rows, pullback(other)[0]), dot(x, other), 1e-12, np.abs(x * other).sum())


@given(case=windows())
def test_columns_added_back_count_how_often_each_pixel_is_covered(device, case):
    """col2im(im2col x) = x ⊙ coverage."""
    x, window = case.args
    rows, pullback = run(im2col, case, device)
    close(pullback(rows)[0], x * coverage(*x.shape[1:3], window)[..., None])


@given(case=conv_cases(stride=1))
def test_at_stride_1_dx_is_a_convolution_with_the_flipped_kernels(device, case):
    """dx = conv(pad(g, k − 1 − p), flipped wᵀ): in full with k − 1, and p cut off, for p may be larger."""
    x, w, _ = case.args
    groups, (ph, pw), (dh, dw) = (case.options[key] for key in ("groups", "padding", "dilation"))
    _, g, dx, _, _ = convolve(case, device)
    o, c, kh, kw = w.shape
    flipped = w[:, :, ::-1, ::-1].reshape(groups, o // groups, c, kh, kw).swapaxes(1, 2)
    border = [(0, 0), (0, 0), (dh * (kh - 1),) * 2, (dw * (kw - 1),) * 2]
    full, _ = kernels.conv2d(
        np.pad(g, border), flipped.reshape(-1, o // groups, kh, kw), dilation=(dh, dw), groups=groups
    )
    close(dx, full[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]])


@given(case=conv_cases(stride=1, padding=0), down=st.integers(0, 3), across=st.integers(0, 3))
def test_circular_shifts_commute_with_circular_convolution(device, case, down, across):
    """Forward and backward: the gradient of the shifted image under the shifted cotangent is the shifted gradient."""
    x, w, b = case.args
    extent = window_of(case).extent
    rows, columns = (np.arange(size + reach - 1) % size for size, reach in zip(x.shape[2:], extent, strict=True))
    wrapped = (slice(None), slice(None), rows[:, None], columns)

    def circular(x, g=None):
        y, pullback = run(kernels.conv2d, case, device, x[wrapped], w, b)
        g = normal_like(case, y) if g is None else g
        dx = np.zeros_like(x)
        np.add.at(dx, wrapped, pullback(g)[0])
        return y, g, dx

    def shift(x):
        return np.roll(x, (down, across), (2, 3))

    y, g, dx = circular(x)
    shifted_y, _, shifted_dx = circular(shift(x), shift(g))
    close(shifted_y, shift(y))
    close(shifted_dx, shift(dx))


@st.composite
def same_size(draw):
    """A convolution that keeps the size of the image: odd kernels, padded by half of them."""
    half, dilation = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    return draw(conv_cases(kernel_size=2 * half + 1, stride=1, padding=dilation * half, dilation=dilation))


@given(case=same_size())
def test_a_dirac_kernel_is_the_identity(device, case):
    """y = x and dx = g, to the bit."""
    x, w, _ = case.args
    channels, (_, c, k, _) = x.shape[1], w.shape
    dirac = np.zeros((channels, c, k, k))
    dirac[range(channels), np.arange(channels) % c, k // 2, k // 2] = 1
    y, g, dx, *_ = convolve(case, device, x, dirac, None)
    assert np.array_equal(y, x) and np.array_equal(dx, g)


@given(case=conv_cases(), needed=st.lists(st.booleans(), min_size=3, max_size=3))
def test_a_gradient_is_the_same_whichever_others_are_needed(device, case, needed):
    _, g, *expected = convolve(case, device, *case.args)
    moved = case.to(device)
    _, pullback = kernels.conv2d(*moved.args, **moved.options)
    for part, full, wanted in zip(pullback(to_device(g, device))(needed), expected, needed, strict=True):
        assert (part is not None) == wanted
        if wanted:
            close(to_host(part), full)


@given(case=conv_cases())
def test_permuting_input_channels_permutes_their_gradients(device, case):
    """And leaves y fixed. Within each group: w has the channels of one group."""
    x, w, b = case.args
    groups, c = case.options["groups"], w.shape[1]
    of_weight = case.rng.permutation(c)
    of_input = (np.arange(groups)[:, None] * c + of_weight).ravel()
    y, pullback = run(kernels.conv2d, case, device)
    permuted, permuted_pullback = run(kernels.conv2d, case, device, x[:, of_input], w[:, of_weight], b)
    g = normal_like(case, y)
    (dx, dw, _), (permuted_dx, permuted_dw, _) = pullback(g), permuted_pullback(g)
    close(permuted, y)
    close(permuted_dx, dx[:, of_input])
    close(permuted_dw, dw[:, of_weight])


@given(case=conv_cases())
def test_the_bias_gradient_is_the_sum_and_unseen_pixels_have_none(device, case):
    """db = Σg; where no window looks, dx = 0."""
    x, w, _ = case.args
    _, g, dx, _, db = convolve(case, device, x, w, case.rng.standard_normal(len(w)))
    close(db, g.sum((0, 2, 3)))
    assert not dx[:, :, coverage(*x.shape[2:], window_of(case)) == 0].any()


@given(case=conv_cases())
def test_weight_gradients_of_two_batches_add_up(device, case):
    """dw(A ⊕ B) = dw(A) + dw(B), and db too."""
    x, w, _ = case.args
    b, other = case.rng.standard_normal(len(w)), case.rng.standard_normal((2, *x.shape[1:]))
    _, g, _, dw, db = convolve(case, device, np.concatenate([x, other]), w, b)
    parts = [(x, g[: len(x)]), (other, g[len(x) :])]
    (_, dw1, db1), (_, dw2, db2) = (run(kernels.conv2d, case, device, part, w, b)[1](dy) for part, dy in parts)
    close(dw, dw1 + dw2)
    close(db, db1 + db2)
