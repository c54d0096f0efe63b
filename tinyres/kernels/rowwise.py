"""Convolution row by row: the same numbers as im2col's, for few channels, with a third of the copying.

With few channels the product is short, and laying out the windows costs as much as multiplying them. So lay out one
axis of the kernel only, its width: a row of KW pixels is KW·C numbers that neighbour each other in memory. Each row i
of the kernel then is a product of its own, with the same matrix shifted down by i rows of pixels, which takes no
copy; and the KH products are added up. Weight gradients are those products the other way round.

A product this small is also one for which BLAS needs not rearrange its operands first, if no more is asked of it at
once than `SMALL`: so the pixels are multiplied some at a time, in one call.
"""

from __future__ import annotations

from tinyres.backend import Array, device_of, workspace, xp
from tinyres.kernels.windows import Finish, Strip, Window, as_it_is, strips
from tinyres.threads import for_each, for_shares, total

SMALL = 10**6  # multiplications for which OpenBLAS has kernels that read the operands as they lie


def suits(x: Array, window: Window, most: int) -> bool:
    """Whether this is the faster way: on the CPU, for kernels of several rows that move down by one, with at most so
    many channels; with more of them, copying is little beside multiplying."""
    return device_of(x) == "cpu" and window.kernel[0] > 1 and window.stride[0] == 1 and x.shape[-1] <= most


def correlate(x: Array, kernels: Array, window: Window, finish: Finish = as_it_is) -> Array:
    """x: (N, H, W, C), kernels: (KH, KW, C, O). Returns (N, OH, OW, O), each block of it finished."""
    (oh, ow), (kh, kw, c, o) = window.output_size("conv2d", *x.shape[1:3]), kernels.shape
    matrices = xp(x).ascontiguousarray(kernels).reshape(kh, kw * c, o)
    y = xp(x).empty((len(x), oh, ow, o), dtype=x.dtype)

    def multiply(place: Strip) -> None:
        out = y[place]  # (N, rows, OW, O)
        pixels = chunk(out[0].size // o, kw * c * o)
        out = out.reshape(len(out), -1, pixels, o)
        product = workspace("product", out.shape, x)
        images, rows = place
        for i, shifted in enumerate(kernel_rows(x[images], rows, window)):
            xp(x).matmul(shifted.reshape(len(out), -1, pixels, kw * c), matrices[i], out=product if i else out)
            if i:
                out += product
        finish(y[place], place)

    for_each(multiply, strips(len(x), oh, ow * kw * c * x.itemsize, x), x)
    return y


def weight_gradient(dy: Array, x: Array, window: Window) -> Array:
    """dy: (N, OH, OW, O), x: (N, H, W, C). Returns (O, KH, KW, C)."""
    (n, oh, ow, o), (kh, kw), c = dy.shape, window.kernel, x.shape[-1]

    def work(share: list[Strip]) -> Array:
        dw = xp(x).zeros((kh, o, kw * c), dtype=x.dtype)
        for images, rows in share:
            g = dy[images, rows]
            g = g.reshape(len(g), -1, o).swapaxes(1, 2)  # (N, O, rows·OW)
            products = workspace("product", (len(g), o, kw * c), x)
            for i, shifted in enumerate(kernel_rows(x[images], rows, window)):
                dw[i] += xp(x).matmul(g, shifted.reshape(len(g), -1, kw * c), out=products).sum(axis=0)
        return dw

    shares = for_shares(work, strips(n, oh, ow * kw * c * x.itemsize, x, turns=1), x)
    return total(shares).reshape(kh, o, kw, c).swapaxes(0, 1)


def kernel_rows(x: Array, rows: slice, window: Window) -> list[Array]:
    """For each row of the kernel, the KW pixels that it sees at each output pixel: KH views (N, rows, OW, KW·C) of
    one workspace."""
    (kh, kw), dh = window.kernel, window.dilation[0]
    strip = window.strip(x, rows)
    view = window._replace(kernel=(1, kw)).view(strip)[:, :, :, 0]  # (N, rows + DH·(KH − 1), OW, KW, C)
    laid_out = workspace("rows", view.shape, x)
    laid_out[...] = view
    laid_out = laid_out.reshape(*view.shape[:3], -1)
    return [laid_out[:, i * dh : i * dh + rows.stop - rows.start] for i in range(kh)]


def chunk(pixels: int, each: int) -> int:
    """The largest divisor of `pixels` that asks no more than SMALL multiplications, `each` a pixel."""
    return next(size for size in range(max(1, min(pixels, SMALL // each)), 0, -1) if pixels % size == 0)
