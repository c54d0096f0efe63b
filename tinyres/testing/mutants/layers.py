"""Broken convolutions, poolings and fully connected layers.

Sizes differ pairwise, since a wrong axis hides behind equal ones; strides do not divide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyres import kernels
from tinyres.backend import Array
from tinyres.testing.mutants.mutant import ADJOINT, CONSERVES, Original, backward_of, distinct, of, same_for_each

# Convolution

CONV = Original(
    "conv2d", kernels.conv2d, of([2, 3, 5, 6], [4, 3, 3, 3], None, 1, 1), checks=(ADJOINT, same_for_each("input"))
)
CONV_BIAS = Original(
    "conv2d", kernels.conv2d, of([2, 3, 5, 6], [4, 3, 3, 2], [4], 1, (1, 0)), checks=(ADJOINT, same_for_each("input"))
)
CONV_STRIDE = Original(
    "conv2d", kernels.conv2d, of([2, 3, 7, 6], [4, 3, 3, 3], None, 2), checks=(ADJOINT, same_for_each("input"))
)
CONV_GROUPS = Original(
    "conv2d", kernels.conv2d, of([2, 6, 5, 4], [4, 3, 3, 3], None, 1, 1, 1, 2), checks=(ADJOINT, same_for_each("input"))
)


@backward_of(CONV)
def conv_kernel_not_flipped(found: Any, dy: Array, x: Array, weight: Array, *rest: Any) -> Any:
    """dx slides the kernel over dy without turning it round."""
    _, wrong = kernels.conv2d(x, weight[:, :, ::-1, ::-1], *rest)
    return kernels.gradients(wrong, dy)[0], *found[1:]


@backward_of(CONV)
def conv_kernel_transposed(found: Any, dy: Array, x: Array, weight: Array, *rest: Any) -> Any:
    """dx swaps the height and the width of the kernel."""
    _, wrong = kernels.conv2d(x, weight.swapaxes(2, 3), *rest)
    return kernels.gradients(wrong, dy)[0], *found[1:]


@backward_of(CONV)
def conv_windows_transposed(found: Any, *_: Any) -> Any:
    """dw comes from windows whose height and width were swapped."""
    return found[0], found[1].swapaxes(2, 3), None


@backward_of(CONV)
def conv_weight_gradient_averaged(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """dw is divided by the batch, which the loss has done already."""
    return found[0], found[1] / len(x), None


@backward_of(CONV)
def conv_padding_left_in(found: Any, *_: Any) -> Any:
    """dx is cut from the padded image without skipping the border: shifted by one pixel."""
    return np.pad(found[0], ((0, 0), (0, 0), (1, 0), (1, 0)))[..., :-1, :-1], *found[1:]


@backward_of(CONV)
def conv_border_lost(found: Any, *_: Any) -> Any:
    """dx is zero in the outermost pixels, as if the border had been cut off twice."""
    dx = np.zeros_like(found[0])
    dx[..., 1:-1, 1:-1] = found[0][..., 1:-1, 1:-1]
    return dx, *found[1:]


@backward_of(CONV_BIAS)
def conv_bias_misses_batch(found: Any, dy: Array, *_: Any) -> Any:
    """db is summed over the pixels of the first image only."""
    return *found[:2], dy[0].sum((1, 2))


@backward_of(CONV_BIAS)
def conv_bias_averaged_over_pixels(found: Any, dy: Array, *_: Any) -> Any:
    """db is a mean over the pixels instead of a sum."""
    return *found[:2], dy.mean((2, 3)).sum(0)


def spread(dy: Array, weight: Array, like: Array, stride: int, add: bool = True) -> Array:
    """dx of a convolution without padding, window by window: dy (N, O, OH, OW), weight (O, C, KH, KW)."""
    dx, (kh, kw) = np.zeros_like(like), weight.shape[2:]
    for p, q in np.ndindex(*dy.shape[2:]):
        window = (..., slice(p * stride, p * stride + kh), slice(q * stride, q * stride + kw))
        dx[window] = add * dx[window] + np.einsum("no,ocij->ncij", dy[:, :, p, q], weight)
    return dx


@backward_of(CONV_STRIDE)
def conv_windows_overwrite(found: Any, dy: Array, x: Array, weight: Array, *_: Any) -> Any:
    """Where windows overlap, the last one's gradient is kept instead of the sum."""
    return spread(dy, weight, x, stride=2, add=False), *found[1:]


@backward_of(CONV_STRIDE)
def conv_stride_forgotten(found: Any, dy: Array, x: Array, weight: Array, *_: Any) -> Any:
    """dx puts the windows side by side, as for a stride of 1."""
    return spread(dy, weight, x, stride=1), *found[1:]


@backward_of(CONV_GROUPS)
def conv_groups_swapped(found: Any, *_: Any) -> Any:
    """The two groups' input gradients are joined in the wrong order."""
    return np.roll(found[0], 3, axis=1), *found[1:]


# Pooling


def tied(*shape: int) -> Any:
    """As `distinct`, but the first two values of the first row are equal and the largest."""

    def draw(rng: np.random.Generator) -> Array:
        x = distinct(*shape)(rng)
        x[0, 0, 0, :2] = 99.0
        return x

    return draw


MAX_POOL = Original(
    "max_pool2d", kernels.max_pool2d, of(distinct(2, 3, 7, 6), 3, 2), checks=(CONSERVES, same_for_each("input"))
)
TIES = Original(
    "max_pool2d", kernels.max_pool2d, of(tied(2, 3, 7, 6), 3, 2), checks=(CONSERVES, same_for_each("input"))
)
AVERAGE_POOL = Original(
    "avg_pool2d",
    kernels.avg_pool2d,
    of([2, 3, 5, 6], 3, 2, 1, count_include_pad=False),
    checks=(ADJOINT, CONSERVES, same_for_each("input")),
)
ADAPTIVE_POOL = Original(
    "adaptive_avg_pool2d",
    kernels.adaptive_avg_pool2d,
    of([2, 3, 5, 7], (2, 3)),
    checks=(ADJOINT, CONSERVES, same_for_each("input")),
)


@backward_of(TIES)
def max_pool_pays_every_tie(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """Each of several equal maxima receives the whole gradient."""
    y, _pullback = kernels.max_pool2d(x, 3, 2)
    dx = np.zeros_like(x)
    for p, q in np.ndindex(*y.shape[2:]):
        window = (..., slice(2 * p, 2 * p + 3), slice(2 * q, 2 * q + 3))
        dx[window] += (x[window] == y[..., p : p + 1, q : q + 1]) * dy[..., p : p + 1, q : q + 1]
    return dx


@backward_of(MAX_POOL)
def max_pool_windows_overwrite(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """A pixel that wins in two windows keeps the last one's gradient instead of the sum."""
    y, _pullback = kernels.max_pool2d(x, 3, 2)
    dx = np.zeros_like(x)
    for p, q in np.ndindex(*y.shape[2:]):
        window = (..., slice(2 * p, 2 * p + 3), slice(2 * q, 2 * q + 3))
        won = x[window] == y[..., p : p + 1, q : q + 1]
        dx[window] = np.where(won, dy[..., p : p + 1, q : q + 1], dx[window])
    return dx


@backward_of(MAX_POOL)
def max_pool_shares_out(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """The gradient is shared out over the window, as for an average."""
    return kernels.gradients(kernels.avg_pool2d(x, 3, 2)[1], dy)


@backward_of(AVERAGE_POOL)
def average_pool_counts_border(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """At the border, dx divides by the whole window, and the forward pass by the pixels inside."""
    return kernels.gradients(kernels.avg_pool2d(x, 3, 2, 1, True)[1], dy)


@backward_of(AVERAGE_POOL)
def average_pool_not_divided(found: Any, dy: Array, *_: Any) -> Any:
    """dx is as for a sum over the window."""
    return 9 * found[0]


@backward_of(ADAPTIVE_POOL)
def adaptive_pool_equal_cells(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """dx divides by H·W/(OH·OW), although the cells overlap and differ in size."""
    dx = np.zeros_like(x)
    (h, w), (oh, ow) = x.shape[2:], dy.shape[2:]
    for p, q in np.ndindex(oh, ow):
        cell = (..., slice(p * h // oh, -(-(p + 1) * h // oh)), slice(q * w // ow, -(-(q + 1) * w // ow)))
        dx[cell] += dy[..., p : p + 1, q : q + 1] / (h * w / (oh * ow))
    return dx


# Fully connected

LINEAR = Original("linear", kernels.linear, of([4, 3], [2, 3], [2]), checks=(ADJOINT, same_for_each("input")))


@backward_of(LINEAR)
def linear_bias_misses_batch(found: Any, dy: Array, *_: Any) -> Any:
    """db is dy of the first sample."""
    return *found[:2], dy[0].copy()


@backward_of(LINEAR)
def linear_weight_misses_batch(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """dw is that of the first sample."""
    return found[0], np.outer(dy[0], x[0]), found[2]
