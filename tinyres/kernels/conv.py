"""Convolution as im2col and one matrix product (Chellapilla et al. 2006).

Each output pixel sees a window of KH·KW·C inputs. Lay the windows out as the rows of a matrix, and convolution
is that matrix times the kernels. Two things make this fast without making it another algorithm:

* Images are channels-last in memory, so a window is KH runs of KW·C neighbouring numbers, copying it is nearly a
  memcpy, and the product comes out channels-last again: nothing is ever transposed.
* The matrix is KH·KW times larger than the image, so it is built for a few images at a time, small enough to stay
  in the cache, and built again in the backward pass rather than kept.
"""

from __future__ import annotations

from typing import Any

from tinyres.backend import Array, blocks, xp
from tinyres.kernels.elementwise import Result, check_floating, sum_dtype
from tinyres.kernels.windows import Pair, Window, channels_first, channels_last
from tinyres.threads import in_parallel


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Result:
    """Two-dimensional cross-correlation, as networks call convolution.

    y[n, o, p, q] = b[o] + Σ_{c,i,j} w[o, c, i, j] · x[n, c, p·s + i·d − pad, q·s + j·d − pad]

    input: (N, C, H, W), weight: (O, C/groups, KH, KW), bias: (O,). Returns (N, O, OH, OW).
    """
    check(input, weight, bias, groups)
    if groups > 1:
        return grouped(input, weight, bias, stride, padding, dilation, groups)
    window = Window.of("conv2d", weight.shape[2:], stride, padding, dilation)
    x = channels_last(input)  # (N, H, W, C)
    kernels = weight.transpose(0, 2, 3, 1)  # (O, KH, KW, C)
    y = correlate(x, kernels, window)  # (N, OH, OW, O)
    if bias is not None:
        y += bias

    def pullback(dy: Array) -> Any:  # dy: (N, O, OH, OW)
        g = channels_last(dy)  # (N, OH, OW, O)
        return (
            lambda: channels_first(input_gradient(g, kernels, x.shape, window)),  # (N, C, H, W)
            lambda: channels_first(weight_gradient(g, x, window)),  # (O, C, KH, KW)
            lambda: g.sum(axis=(0, 1, 2), dtype=sum_dtype(g)).astype(g.dtype, copy=False),  # (O,)
        )

    return channels_first(y), pullback


def im2col(x: Array, window: Window) -> Array:
    """Windows as rows: (N, H, W, C) → (N·OH·OW, KH·KW·C)."""
    n, h, w, c = x.shape
    oh, ow = window.output_size("im2col", h, w)
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    x = window.pad(x)
    if (kh, kw) == (1, 1):
        return x[:, ::sh, ::sw].reshape(-1, c)
    n_, h_, w_, c_ = x.strides
    view = xp(x).lib.stride_tricks.as_strided(x, (n, oh, ow, kh, kw, c), (n_, h_ * sh, w_ * sw, h_ * dh, w_ * dw, c_))
    return view.reshape(n * oh * ow, kh * kw * c)  # this copies


def col2im(columns: Array, shape: tuple[int, ...], window: Window) -> Array:
    """The adjoint of im2col: add each window's values back to the pixels they came from; `shape`: (N, H, W, C)."""
    n, h, w, c = shape
    (kh, kw), (ph, pw) = window.kernel, window.padding
    oh, ow = window.output_size("col2im", h, w)
    columns = columns.reshape(n, oh, ow, kh, kw, c)
    x = xp(columns).zeros((n, h + 2 * ph, w + 2 * pw, c), dtype=columns.dtype)
    for i, j, pixels in window.taps(oh, ow):
        x[pixels] += columns[:, :, :, i, j]
    return window.unpad(x)


def correlate(x: Array, kernels: Array, window: Window) -> Array:
    """x: (N, H, W, C), kernels: (O, KH, KW, C). Returns (N, OH, OW, O)."""
    n, h, w, _ = x.shape
    matrix = kernels.reshape(len(kernels), -1).T  # (KH·KW·C, O)
    oh, ow = window.output_size("conv2d", h, w)
    y = xp(x).empty((n, oh, ow, len(kernels)), dtype=x.dtype)

    def work(share: list[slice]) -> None:
        for images in share:
            xp(x).matmul(im2col(x[images], window), matrix, out=y[images].reshape(-1, len(kernels)))

    in_parallel(work, blocks(n, oh * ow * matrix.shape[0] * x.itemsize, x), x)
    return y


def weight_gradient(dy: Array, x: Array, window: Window) -> Array:
    """dy: (N, OH, OW, O), x: (N, H, W, C). Returns (O, KH, KW, C) = Σ over windows of dyᵀ · columns."""
    n, oh, ow, o = dy.shape
    (kh, kw), c = window.kernel, x.shape[-1]

    def work(share: list[slice]) -> Array:
        dw = xp(x).zeros((o, kh * kw * c), dtype=x.dtype)
        for images in share:
            dw += dy[images].reshape(-1, o).T @ im2col(x[images], window)
        return dw

    shares = in_parallel(work, blocks(n, oh * ow * kh * kw * c * x.itemsize, x), x)
    return sum(shares[1:], start=shares[0]).reshape(o, kh, kw, c)


def input_gradient(dy: Array, kernels: Array, shape: tuple[int, ...], window: Window) -> Array:
    """dy: (N, OH, OW, O), kernels: (O, KH, KW, C). Returns dx of `shape` (N, H, W, C).

    At stride 1 this is itself a convolution, of dy with the flipped kernels, and so a gather; at other strides the
    gradient of each window is added back to its pixels.
    """
    (eh, ew), (ph, pw) = window.extent, window.padding
    if window.stride == (1, 1) and ph < eh and pw < ew:
        flipped = kernels[:, ::-1, ::-1].transpose(3, 1, 2, 0)  # (C, KH, KW, O)
        return correlate(dy, flipped, window._replace(padding=(eh - 1 - ph, ew - 1 - pw)))
    n, h, w, c = shape
    matrix = kernels.reshape(len(kernels), -1)  # (O, KH·KW·C)
    dx = xp(dy).empty(shape, dtype=dy.dtype)

    def work(share: list[slice]) -> None:
        for images in share:
            block = dy[images]
            dx[images] = col2im(block.reshape(-1, len(kernels)) @ matrix, (len(block), h, w, c), window)

    in_parallel(work, blocks(n, dy[0].size // len(kernels) * matrix.shape[1] * dy.itemsize, dy), dy)
    return dx


def grouped(
    input: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Result:
    """Groups are convolutions side by side: each sees its share of the channels and makes its share of the output."""
    module, (c, o) = xp(input), (weight.shape[1], len(weight) // groups)
    results = [
        conv2d(
            input[:, g * c : (g + 1) * c],
            weight[g * o : (g + 1) * o],
            None if bias is None else bias[g * o : (g + 1) * o],
            stride,
            padding,
            dilation,
        )
        for g in range(groups)
    ]

    def pullback(dy: Array) -> Any:
        parts = [pull(dy[:, g * o : (g + 1) * o]) for g, (_, pull) in enumerate(results)]
        return (
            lambda: join([dx() for dx, _, _ in parts]),
            lambda: module.concatenate([dw() for _, dw, _ in parts]),
            lambda: module.concatenate([db() for _, _, db in parts]),
        )

    def join(images: list[Array]) -> Array:  # along the channels, channels-last in memory
        return channels_first(module.concatenate([channels_last(x) for x in images], axis=-1))

    return join([y for y, _ in results]), pullback


def check(input: Array, weight: Array, bias: Array | None, groups: int) -> None:
    """Refuse shapes that do not fit, in one sentence."""
    check_floating("conv2d", input)
    if input.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            f"conv2d: x is {input.shape} and weight {weight.shape}, expected (N, C, H, W) and (O, C/groups, KH, KW)"
        )
    if len(input) == 0:
        raise ValueError(f"conv2d: the batch is empty: x is {input.shape}")
    if groups < 1 or input.shape[1] % groups or len(weight) % groups:
        raise ValueError(
            f"conv2d: groups is {groups}, expected a divisor of both {input.shape[1]} input "
            f"and {len(weight)} output channels"
        )
    if weight.shape[1] * groups != input.shape[1]:
        per_group = f" in each of {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"conv2d: weight has {weight.shape[1]} input channels{per_group} but x has {input.shape[1]} "
            f"(x: {input.shape}, weight: {weight.shape})"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"conv2d: bias is {bias.shape}, expected ({len(weight)},) for weight {weight.shape}")
