"""Max, average and adaptive average pooling.

The windows are visited tap by tap: for each position (i, j) in the window, the pixels that all windows see there
form one strided view of the image, so a K×K pooling is K² passes over whole images.
"""

from __future__ import annotations

import math

from tinyres.backend import Array, device_of, workspace, xp
from tinyres.kernels.elementwise import Result, check_floating, gate
from tinyres.kernels.windows import Pair, Window, channels_first, channels_last, pair
from tinyres.threads import blocks, for_each


def max_pool2d(input: Array, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> Result:
    """Largest value of each window; the border counts as −∞. The first of equal values takes the whole gradient.

    input: (N, C, H, W). Returns (N, C, OH, OW). stride: kernel_size if None.
    """
    window = pooling_window("max_pool2d", input, kernel_size, stride, padding)
    x = channels_last(input)  # (N, H, W, C)
    n, h, w, c = x.shape
    y = xp(x).empty((n, *window.output_size("max_pool2d", h, w), c), dtype=x.dtype)
    taps = list(window.inside(h, w))

    def largest(images: slice) -> None:
        block, pixels = y[images], x[images]
        block[...] = -math.inf
        for seen_by, seen in taps:
            xp(x).maximum(block[seen_by], pixels[seen], out=block[seen_by])  # a NaN wins, and stays

    for_each(largest, blocks(n, y[0].nbytes, y), y)

    def pullback(dy: Array) -> Array:  # dy: (N, C, OH, OW)
        g = channels_last(dy)
        dx = xp(dy).empty(x.shape, dtype=dy.dtype)

        def give_to_winners(images: slice) -> None:
            block, pixels, largest, gradient = dx[images], x[images], y[images], g[images]
            block[...] = 0
            waiting = xp(x).ones(largest.shape, dtype=bool)  # outputs whose winner was not met yet
            some_nan = device_of(x) == "cuda" or bool(xp(x).isnan(largest).any())  # asking a GPU would be waiting
            for seen_by, seen in taps:
                won = pixels[seen] == largest[seen_by]
                if some_nan:
                    won |= pixels[seen] != pixels[seen]
                won &= waiting[seen_by]
                waiting[seen_by] ^= won
                block[seen] += gate(gradient[seen_by], won, out=workspace("share", won.shape, dy))

        for_each(give_to_winners, blocks(n, y[0].nbytes, y), y)
        return channels_first(dx)

    return channels_first(y), pullback


def avg_pool2d(
    input: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
) -> Result:
    """Mean of each window; with `count_include_pad` the zero border counts as pixels.

    input: (N, C, H, W). Returns (N, C, OH, OW). stride: kernel_size if None.
    """
    window = pooling_window("avg_pool2d", input, kernel_size, stride, padding)
    x = channels_last(input)  # (N, H, W, C)
    n, h, w, c = x.shape
    oh, ow = window.output_size("avg_pool2d", h, w)
    taps = list(window.inside(h, w))
    y = xp(x).zeros((n, oh, ow, c), dtype=x.dtype)
    count = xp(x).full((1, oh, ow, 1), math.prod(window.kernel) if count_include_pad else 0, dtype=x.dtype)
    for seen_by, seen in taps:
        y[seen_by] += x[seen]
        if not count_include_pad:
            count[seen_by] += 1
    y /= count
    shape = x.shape

    def pullback(dy: Array) -> Array:  # dy: (N, C, OH, OW)
        share = channels_last(dy) / count
        dx = xp(dy).zeros(shape, dtype=dy.dtype)
        for seen_by, seen in taps:
            dx[seen] += share[seen_by]
        return channels_first(dx)

    return channels_first(y), pullback


def adaptive_avg_pool2d(input: Array, output_size: Pair) -> Result:
    """Mean over a grid of OH×OW nearly equal regions: region i runs from ⌊i·H/OH⌋ to ⌈(i+1)·H/OH⌉.

    input: (N, C, H, W). Returns (N, C, OH, OW); an output_size of 1 is global average pooling.
    """
    check_images("adaptive_avg_pool2d", input)
    oh, ow = pair("adaptive_avg_pool2d", "output_size", output_size, 1)
    n, c, h, w = input.shape
    if oh > h or ow > w:
        raise ValueError(
            f"adaptive_avg_pool2d: output_size is {output_size}, expected between 1 and the image's {h}×{w}"
        )

    def regions(pixels: int, cells: int) -> list[slice]:
        return [slice(i * pixels // cells, -(-(i + 1) * pixels // cells)) for i in range(cells)]

    x = channels_last(input)
    y = xp(x).empty((n, oh, ow, c), dtype=x.dtype)
    cells = [(i, j, rows, columns) for i, rows in enumerate(regions(h, oh)) for j, columns in enumerate(regions(w, ow))]
    for i, j, rows, columns in cells:
        y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))

    def pullback(dy: Array) -> Array:  # dy: (N, C, OH, OW)
        g = channels_last(dy)
        dx = xp(dy).zeros((n, h, w, c), dtype=dy.dtype)
        for i, j, rows, columns in cells:
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            dx[:, rows, columns] += g[:, i : i + 1, j : j + 1] / area
        return channels_first(dx)

    return channels_first(y), pullback


def pooling_window(op: str, input: Array, kernel_size: Pair, stride: Pair | None, padding: Pair) -> Window:
    """The window of a pooling, checked: every window must hold at least one pixel of the image."""
    check_images(op, input)
    window = Window.of(op, kernel_size, kernel_size if stride is None else stride, padding)
    if any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True)):
        raise ValueError(f"{op}: padding is {padding}, expected at most half of kernel_size {kernel_size}")
    return window


def check_images(op: str, input: Array) -> None:
    check_floating(op, input)
    if input.ndim != 4 or input.size == 0:
        raise ValueError(f"{op}: x is {input.shape}, expected (N, C, H, W), none of them 0")
