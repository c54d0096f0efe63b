"""Convolution as im2col and one matrix product (Chellapilla et al. 2006).

Each output pixel sees a window of KH·KW·C inputs. Lay the windows out as the rows of a matrix, and convolution
is that matrix times the kernels. Two things make this fast without making it another algorithm:

* Images are channels-last in memory, so a window is KH runs of KW·C neighbouring numbers, copying it is nearly a
  memcpy, and the product comes out channels-last again: nothing is ever transposed.
* The matrix is KH·KW times larger than the image, so it is built for a few images at a time, small enough to stay
  in the cache, and built again in the backward pass rather than kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyres.backend import Array, workspace, xp
from tinyres.kernels import fewpixels, rowwise, winograd
from tinyres.kernels.activation import where_positive
from tinyres.kernels.elementwise import Needed, Result, check_floating, sum_dtype
from tinyres.kernels.windows import Finish, Pair, Strip, Window, as_it_is, channels_first, channels_last, strips
from tinyres.threads import blocks, for_each, for_sum, matmul

# A block may leave the cache to be so many times as large as the weights: BLAS copies them for each product.
WORTH_COPYING = 3


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
    return convolve(input, weight, bias, stride, padding, dilation, groups)


def conv2d_add_relu(
    input: Array,
    residual: Array | None,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Result:
    """relu(conv2d(x) + residual), or relu(conv2d(x)) where residual is None: each block is finished in the cache.

    This is what ends a residual block once batch norm is folded into the convolution (`nn.fuse`).
    residual: (N, O, OH, OW), like the output. Everything else as for `conv2d`.
    """
    added = None if residual is None else channels_last(residual)  # (N, OH, OW, O)
    zeros = xp(input).zeros(len(weight), dtype=input.dtype)

    def finish(block: Array, place: Strip) -> None:
        if added is not None:
            block += added[place]
        xp(block).maximum(block, zeros, out=block)

    if residual is not None:
        check_residual(input, residual, weight, stride, padding, dilation)
    y, conv_pullback = convolve(input, weight, bias, stride, padding, dilation, groups, finish)

    def pullback(dy: Array) -> Any:  # dy: (N, O, OH, OW)
        g = where_positive(dy, y)

        def gradients(needed: Needed = (True,) * 4) -> Any:
            dx, dw, db = conv_pullback(g)((needed[0], *needed[2:]))
            return dx, None if residual is None else g, dw, db

        return gradients

    return y, pullback


def convolve(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    finish: Finish = as_it_is,
) -> Result:
    """The one convolution behind both kernels. finish: changes each block of the output, (N, rows, OW, O), in place."""
    check(input, weight, bias, groups)
    if groups > 1:
        return grouped(input, weight, bias, stride, padding, dilation, groups, finish)
    window = Window.of("conv2d", weight.shape[2:], stride, padding, dilation)
    x = channels_last(input)  # (N, H, W, C)
    kernels = weight.transpose(2, 3, 1, 0)  # (KH, KW, C, O)

    def add_bias_and_finish(block: Array, place: Strip) -> None:
        block += bias
        finish(block, place)

    y, _ = sweep(x, kernels, window, finish if bias is None else add_bias_and_finish)  # (N, OH, OW, O)

    def pullback(dy: Array) -> Any:  # dy: (N, O, OH, OW)
        g = channels_last(dy)  # (N, OH, OW, O)

        def gradients(needed: Needed = (True,) * 3) -> Any:
            dx, dk = gradients_of(g, x, kernels, window, *needed[:2])  # (N, H, W, C), (KH, KW, C, O)
            return (
                channels_first(dx) if needed[0] else None,  # (N, C, H, W)
                channels_first(channels_last(dk.transpose(3, 2, 0, 1))) if needed[1] else None,  # (O, C, KH, KW)
                g.sum(axis=(0, 1, 2), dtype=sum_dtype(g)).astype(g.dtype, copy=False) if needed[2] else None,  # (O,)
            )

        return gradients

    return channels_first(y), pullback


def im2col(x: Array, window: Window) -> Array:
    """Windows as rows: (N, H, W, C) → (N·OH·OW, KH·KW·C)."""
    window.output_size("im2col", *x.shape[1:3])
    view = window.view(window.pad(x))
    return view.reshape(-1, math.prod(view.shape[3:]))  # this copies


def col2im(columns: Array, shape: tuple[int, ...], window: Window, out: Array | None = None) -> Array:
    """The adjoint of im2col: add each window's values back to the pixels they came from, (N, H, W, C), in `out` or a
    new array. shape: (N, H, W, C)."""
    n, h, w, c = shape
    columns = columns.reshape(n, *window.output_size("col2im", h, w), math.prod(window.kernel), c)
    x = xp(columns).empty(shape, dtype=columns.dtype) if out is None else out
    x[...] = 0
    for tap, (windows, pixels) in enumerate(window.inside(h, w)):
        x[pixels] += columns[(*windows, tap)]
    return x


def sweep(
    x: Array, kernels: Array, window: Window, finish: Finish = as_it_is, dy: Array | None = None, output: bool = True
) -> tuple[Any, Any]:
    """One walk over the windows of x, (N, H, W, C). Times the kernels, (KH, KW, C, O), they are the output,
    (N, OH, OW, O), each block of it finished. Times dy, which is like the output, they are the gradient by the kernels.
    Returns both, or None for what is not asked for.
    """
    for way in (rowwise, winograd, fewpixels):
        if way.suits(x, kernels.shape[3], window):
            return way.sweep(x, kernels, window, finish, dy, output)  # type: ignore[no-any-return]
    (oh, ow), o = window.output_size("conv2d", *x.shape[1:3]), kernels.shape[3]
    matrix = kernels.reshape(-1, o)  # (KH·KW·C, O)
    y: Any = xp(x).empty((len(x), oh, ow, o), dtype=x.dtype) if output else None

    def step(place: Strip) -> Any:
        images, rows = place
        windows = columns(x[images], rows, window)  # (N·rows·OW, KH·KW·C)
        if output:
            xp(x).matmul(windows, matrix, out=y[place].reshape(-1, o))
            finish(y[place], place)
        if dy is not None:
            g = dy[place].reshape(-1, o)
            return windows.T @ g if output else (g.T @ windows).T  # (KH·KW·C, O)
        return None

    row_bytes = ow * (len(matrix) + o) * x.itemsize  # of windows and output
    places = strips(len(x), oh, row_bytes, x, WORTH_COPYING * matrix.nbytes)
    if dy is None:
        for_each(step, places, x)
        return y, None
    return y, for_sum(step, places, x, matrix.nbytes).reshape(kernels.shape)


def columns(x: Array, rows: slice, window: Window) -> Array:
    """im2col for some rows of the output, into a workspace: (N·rows·OW, KH·KW·C)."""
    strip, (sh, sw) = window.strip(x, rows), window.stride
    if window.kernel == (1, 1):
        return strip[:, ::sh, ::sw].reshape(-1, x.shape[-1])  # at stride 1, no copy
    view = window.view(strip)
    copy = workspace("columns", view.shape, x)
    copy[...] = view
    return copy.reshape(-1, math.prod(view.shape[3:]))


def gradients_of(
    dy: Array, x: Array, kernels: Array, window: Window, x_needed: bool, kernels_needed: bool
) -> tuple[Any, Any]:
    """dy: (N, OH, OW, O). Returns, where they are needed, the gradients by x, (N, H, W, C), and by the kernels,
    (KH, KW, C, O).

    At stride 1 the first is itself a convolution, of dy with the flipped kernels, and so a gather; and the windows of
    dy, times x, are the second. At other strides the gradient of each window is added back to its pixels.
    """
    dx = dk = None
    (eh, ew), (ph, pw) = window.extent, window.padding
    if x_needed and window.stride == (1, 1) and ph < eh and pw < ew:
        back = window._replace(padding=(eh - 1 - ph, ew - 1 - pw))
        dx, dk = sweep(dy, flip(kernels), back, dy=x if kernels_needed else None)
        return dx, flip(dk) if kernels_needed else None
    if x_needed:
        dx = scatter(dy, kernels, x.shape, window)
    if kernels_needed:
        _, dk = sweep(x, kernels, window, dy=dy, output=False)
    return dx, dk


def flip(kernels: Array) -> Array:
    """Turn kernels round in both axes, and exchange their channels: (KH, KW, C, O) → (KH, KW, O, C)."""
    return kernels[::-1, ::-1].swapaxes(2, 3)


def scatter(dy: Array, kernels: Array, shape: tuple[int, ...], window: Window) -> Array:
    """dx of `shape` (N, H, W, C): from dy (N, OH, OW, O), back through the kernels (KH, KW, C, O) to the pixels."""
    n, o = shape[0], kernels.shape[-1]
    matrix = kernels.reshape(-1, o).T  # (O, KH·KW·C)
    dx = xp(dy).empty(shape, dtype=dy.dtype)
    whole = matmul(dy.reshape(-1, o), matrix) if fewpixels.suits(dx, o, window) else None

    def add_back(images: slice) -> None:
        columns = dy[images].reshape(-1, o) @ matrix if whole is None else whole.reshape(n, -1)[images]
        col2im(columns, dx[images].shape, window, out=dx[images])

    for_each(add_back, blocks(n, dy[0].size // o * matrix.shape[1] * dy.itemsize, dy), dy)
    return dx


def grouped(
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    finish: Finish,
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
        pulled = [pull(dy[:, g * o : (g + 1) * o]) for g, (_, pull) in enumerate(results)]

        def gradients(needed: Needed = (True,) * 3) -> Any:
            parts = zip(*(gradients(needed) for gradients in pulled), strict=True)
            joins = join, module.concatenate, module.concatenate
            return tuple(None if part[0] is None else join(part) for join, part in zip(joins, parts, strict=True))

        return gradients

    def join(images: Sequence[Array]) -> Array:  # along the channels, channels-last in memory
        return channels_first(module.concatenate([channels_last(x) for x in images], axis=-1))

    y = join([y for y, _ in results])
    finish(channels_last(y), (slice(None), slice(None)))
    return y, pullback


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


def check_residual(input: Array, residual: Array, weight: Array, stride: Pair, padding: Pair, dilation: Pair) -> None:
    """Refuse a residual that is not like the output."""
    window = Window.of("conv2d_add_relu", weight.shape[2:], stride, padding, dilation)
    expected = (len(input), len(weight), *window.output_size("conv2d_add_relu", *input.shape[2:]))
    if residual.shape != expected:
        raise ValueError(f"conv2d_add_relu: residual is {residual.shape}, expected the output's shape {expected}")
