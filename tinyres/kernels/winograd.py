"""Convolution with fewer multiplications: Winograd's F(2×2, 3×3) (Lavin & Gray 2016, §4.1).

A 3×3 kernel needs 9 multiplications for an output pixel. Four pixels at once, a tile of 2×2, need not 36 but 16: the
4×4 pixels d that the tile sees are mixed into 16 others by additions, these are multiplied by 16 mixtures of the
kernel g, and additions make the tile of the products,

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A.

Over all tiles, channels and kernels each of the 16 is a matrix product, (tiles, C) @ (C, O): im2col with 4 numbers a
pixel instead of 9. The additions are passes over memory, so this pays where there are many channels to a pixel. All of
it is linear, so the gradient by g is the same walk backwards: every matrix transposed.

The mixing goes along one axis, then along the other. Along the width, columns that are two apart meet; so even and odd
columns are put into halves of their own first, where they are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyres.backend import Array, device_of, workspace
from tinyres.kernels.windows import Finish, Strip, Window, as_it_is, strips
from tinyres.threads import blocks, for_each, for_shares, total

BLOCK = 4 << 20  # bytes of mixed pixels and products in a block

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
MIX = np.kron(G, G)  # (16, 9): G g Gᵀ, with g and the result written as vectors, row by row


def suits(x: Array, out_channels: int, window: Window, least: int) -> bool:
    """Whether this is the faster way: on the CPU, for 3×3 kernels at stride 1, with at least so many channels on either
    side, and enough pixels to share the cost of kernels that are 16 numbers instead of 9."""
    n, h, w, c = x.shape
    plain = window.kernel == (3, 3) and window.stride == window.dilation == (1, 1)
    many = min(c, out_channels) >= least and n * h * w >= 4 * max(c, out_channels)
    return plain and many and device_of(x) == "cpu" and x.dtype != "float16"


def correlate(x: Array, kernels: Array, window: Window, finish: Finish = as_it_is) -> Array:
    """x: (N, H, W, C), kernels: (3, 3, C, O). Returns (N, OH, OW, O), each block of it finished."""
    (oh, ow), o = window.output_size("conv2d", *x.shape[1:3]), kernels.shape[-1]
    mixed = mix_kernels(kernels)  # (16, C, O)
    y = np.empty((len(x), oh, ow, o), dtype=x.dtype)

    def multiply(place: Strip) -> None:
        images, rows = place
        pixels = mix_pixels(x[images], rows, ow, window)  # (4, 4, N, T, U, C)
        products = workspace("products", (*pixels.shape[:-1], o), x)
        np.matmul(as_matrices(pixels), mixed, out=as_matrices(products))
        half = workspace("half", (2, *products.shape[1:]), x)  # (2, 4, N, T, U, O)
        gather(products.swapaxes(0, 1), half)
        whole = even(y[place])
        gather(half.swapaxes(0, 1), as_tiles(whole))
        if whole.shape != y[place].shape:
            y[place] = whole[:, : y[place].shape[1], : y.shape[2]]
        finish(y[place], place)

    for_each(multiply, strips_of_tiles(y, x.shape[-1]), x)
    return y


def weight_gradient(dy: Array, x: Array, window: Window) -> Array:
    """dy: (N, OH, OW, O), x: (N, H, W, C). Returns (O, 3, 3, C)."""
    ow, o, c = dy.shape[2], dy.shape[3], x.shape[3]

    def work(share: list[Strip]) -> Array:
        sums = np.zeros((16, o, c), dtype=x.dtype)
        for images, rows in share:
            pixels = mix_pixels(x[images], rows, ow, window)  # (4, 4, N, T, U, C)
            n, t, u = pixels.shape[2:5]
            tiles = as_tiles(even(dy[images, rows]))  # (2, 2, N, T, U, O)
            half = workspace("half", (4, 2, n, t, u, o), x)
            products = workspace("products", (4, 4, n, t, u, o), x)
            scatter(tiles, half)
            scatter(half.swapaxes(0, 1), products.swapaxes(0, 1))
            sums += as_matrices(products).swapaxes(1, 2) @ as_matrices(pixels)
        return sums

    sums = total(for_shares(work, strips_of_tiles(dy, c), x))
    return (MIX.T.astype(x.dtype) @ sums.swapaxes(0, 1)).reshape(o, 3, 3, c)


def mix_kernels(kernels: Array) -> Array:
    """G g Gᵀ: (3, 3, C, O) → (16, C, O). A view whose memory has the channels in the order of the kernels'."""
    first, last = (2, 3) if kernels.strides[3] < kernels.strides[2] else (3, 2)
    flat = kernels.transpose(first, 0, 1, last).reshape(kernels.shape[first], 9, -1)
    mixed = np.empty((len(flat), 16, flat.shape[2]), dtype=kernels.dtype)
    mix = MIX.astype(kernels.dtype)

    def multiply(block: slice) -> None:
        np.matmul(mix, flat[block], out=mixed[block])

    for_each(multiply, blocks(len(flat), mixed[0].nbytes, mixed), mixed)
    return mixed.transpose(1, 0, 2) if first == 2 else mixed.transpose(1, 2, 0)


def mix_pixels(x: Array, rows: slice, ow: int, window: Window) -> Array:
    """Bᵀ d B of the tiles in some rows of the output: (4, 4, N, T, U, C), in a workspace."""
    (n, _, _, c), (ph, pw) = x.shape, window.padding
    t, u = -(-(rows.stop - rows.start) // 2), -(-ow // 2)
    # The padded pixels, even columns and odd ones apart.
    top = rows.start - ph
    inside = x[:, max(top, 0) : max(top + 2 * t + 2, 0)]
    above = slice(max(-top, 0), max(-top, 0) + inside.shape[1])
    padded = workspace("strip", (n, 2 * t + 2, 2, u + 1, c), x)
    padded[...] = 0
    for odd in (0, 1):
        first = (odd - pw) % 2  # of the columns that the border shifts to odd or even places
        start = (pw + first) // 2
        columns = inside[:, :, first::2][:, :, : u + 1 - start]
        padded[:, above, odd, start : start + columns.shape[2]] = columns
    half = workspace("rows", (4, n, t, 2, u + 1, c), x)
    spread([padded[:, i : i + 2 * t - 1 : 2] for i in range(4)], half)
    mixed = workspace("pixels", (4, 4, n, t, u, c), x)
    spread([half[:, :, :, j % 2, j // 2 : j // 2 + u] for j in range(4)], mixed.swapaxes(0, 1))
    return mixed


def spread(d: list[Array], out: Array) -> None:
    """Bᵀ along one axis: four pixels into four."""
    np.subtract(d[0], d[2], out=out[0])
    np.add(d[1], d[2], out=out[1])
    np.subtract(d[2], d[1], out=out[2])
    np.subtract(d[1], d[3], out=out[3])


def gather(m: Array, out: Array) -> None:
    """Aᵀ along one axis: four products into two pixels."""
    partial = workspace("partial", m[0].shape, m)
    np.add(m[0], m[1], out=partial)
    np.add(partial, m[2], out=out[0])
    np.subtract(m[1], m[2], out=partial)
    np.subtract(partial, m[3], out=out[1])


def scatter(y: Array, out: Array) -> None:
    """A along one axis, the transpose of `gather`: the gradients of two pixels into those of four products."""
    out[0] = y[0]
    np.add(y[0], y[1], out=out[1])
    np.subtract(y[0], y[1], out=out[2])
    np.negative(y[1], out=out[3])


def as_matrices(mixed: Array) -> Array:
    """(4, 4, N, T, U, C) → (16, N·T·U, C)."""
    return mixed.reshape(16, -1, mixed.shape[-1])


def as_tiles(y: Array) -> Array:
    """(N, 2T, 2U, O) → (2, 2, N, T, U, O): the four pixels of each tile, a view."""
    n, h, w, o = y.shape
    return y.reshape(n, h // 2, 2, w // 2, 2, o).transpose(2, 4, 0, 1, 3, 5)


def even(y: Array) -> Array:
    """y, (N, H, W, O), if its sides are even; else a copy in a workspace, with zeros in one more row or column."""
    n, h, w, o = y.shape
    if h % 2 == w % 2 == 0:
        return y
    whole = workspace("whole", (n, h + h % 2, w + w % 2, o), y)
    whole[:, h:], whole[:, :, w:], whole[:, :h, :w] = 0, 0, y
    return whole


def strips_of_tiles(y: Array, c: int) -> Iterator[Strip]:
    """Blocks of an output (N, OH, OW, O) that cut no tile in two; c: channels of the input."""
    n, oh, ow, o = y.shape
    budget = max(BLOCK, 16 * c * o * y.itemsize)  # no smaller than the mixed kernels, which each block walks over
    for images, rows in strips(n, -(-oh // 2), -(-ow // 2) * 16 * (c + o) * y.itemsize, y, budget):
        yield images, slice(2 * rows.start, min(2 * rows.stop, oh))
