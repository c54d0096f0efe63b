"""Convolution in one product, shared among threads: the same numbers as im2col's, for few pixels with many channels.

The last stage of a ResNet has a pixel or less to each output channel, a single image not many more anywhere. There the
weights are what is large, and BLAS copies both factors of a product into an order of its own before it multiplies: cut
into blocks of pixels, as `conv` does it, each block would copy all the weights again. So lay out the windows of all
pixels at once, which here takes little memory beside the weights, and cut the one product along its longer side, no
oftener than there are threads. For the weight gradient no sum over threads is left to do.
"""

from __future__ import annotations

import math
from typing import Any

from tinyres.backend import Array, device_of, workspace
from tinyres.kernels.windows import Finish, Strip, Window, as_it_is, strips
from tinyres.threads import for_each, matmul

FEW = 3  # pixels to an output channel


def suits(x: Array, out_channels: int, window: Window) -> bool:
    """Whether this is the faster way, on the CPU: at most FEW output pixels to an output channel."""
    return (
        device_of(x) == "cpu" and len(x) * math.prod(window.output_size("conv2d", *x.shape[1:3])) <= FEW * out_channels
    )


def sweep(
    x: Array, kernels: Array, window: Window, finish: Finish = as_it_is, dy: Array | None = None, output: bool = True
) -> tuple[Any, Any]:
    """As `conv.sweep`. x: (N, H, W, C), kernels: (KH, KW, C, O), dy: (N, OH, OW, O)."""
    (n, *_, c), o, (oh, ow) = x.shape, kernels.shape[3], window.output_size("conv2d", *x.shape[1:3])
    windows, y, dk = columns(x, window), None, None  # (N·OH·OW, KH·KW·C)
    if output:
        y = matmul(windows, kernels.reshape(-1, o)).reshape(n, oh, ow, o)
        if finish is not as_it_is:
            for_each(lambda place: finish(y[place], place), strips(n, oh, y[0, 0].nbytes, x), x)
    if dy is not None:
        g = dy.reshape(-1, o)
        dk = matmul(windows.T, g) if output else matmul(g.T, windows).T  # (KH·KW·C, O)
        dk = dk.reshape(*window.kernel, c, o)
    return y, dk


def columns(x: Array, window: Window) -> Array:
    """im2col, shared among threads, into a workspace: (N, H, W, C) → (N·OH·OW, KH·KW·C)."""
    n, (oh, ow), c = len(x), window.output_size("conv2d", *x.shape[1:3]), x.shape[3]
    if window == Window((1, 1), (1, 1), (0, 0)):
        return x.reshape(-1, c)  # no copy
    windows = workspace("all columns", (n, oh, ow, *window.kernel, c), x)

    def lay_out(place: Strip) -> None:
        images, rows = place
        windows[place] = window.view(window.strip(x[images], rows))

    for_each(lay_out, strips(n, oh, windows[0, 0].nbytes, x), x)
    return windows.reshape(n * oh * ow, -1)
