"""Convolution with fewer multiplications: Winograd's F(4×4, 3×3) (Lavin & Gray 2016, §4.3).

A 3×3 kernel needs 9 multiplications for an output pixel. Sixteen pixels at once, a tile of 4×4, need not 144 but 36:
the 6×6 pixels d that the tile sees are mixed into 36 others, these are multiplied by 36 mixtures of the kernel g, and
the products are mixed into the tile,

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A.

Over all tiles, channels and kernels each of the 36 is a matrix product, (tiles, C) @ (C, O): im2col with 2¼ numbers a
pixel instead of 9. Mixing is a matrix product, too: with a tile written as a vector, row by row, Bᵀ d B is (B ⊗ B)ᵀ d.
All of it is linear, so the gradient by g is the same walk backwards: every matrix transposed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyres.backend import Array, device_of, workspace
from tinyres.kernels.windows import Finish, Strip, Window, as_it_is, rectangle, strips
from tinyres.threads import blocks, for_each, for_sum

TILE, SEEN = 4, 6  # pixels along a side of a tile, and those that it sees
MANY = 65  # channels; with fewer, mixing along one axis only is faster (`rowwise`)

# Two polynomials are multiplied by way of their values at these points and at infinity, where it is the highest
# coefficient. Any points would do; with each its negative and its reciprocal are there, which keeps rounding small.
POINTS = [0, 2 / 3, -2 / 3, 3 / 2, -3 / 2]


def values(coefficients: int) -> Array:
    """The matrix that makes a polynomial's coefficients, lowest first, its values: (SEEN, coefficients)."""
    return np.vstack([np.vander(POINTS, coefficients, increasing=True), np.eye(coefficients)[-1]])


ONE_AXIS = values(TILE), values(3), np.linalg.inv(values(SEEN))  # A, G and B: (6, 4), (6, 3) and (6, 6)
A, G, B = (np.kron(matrix, matrix) for matrix in ONE_AXIS)  # (36, 16), (36, 9) and (36, 36)


def suits(x: Array, out_channels: int, window: Window) -> bool:
    """Whether this is the fastest way: on the CPU, for 3×3 kernels at stride 1, with at least `MANY` channels on either
    side, and enough pixels to share the cost of kernels that are 36 numbers instead of 9."""
    n, h, w, c = x.shape
    plain = window.kernel == (3, 3) and window.stride == window.dilation == (1, 1)
    many = min(c, out_channels) >= MANY and n * h * w >= 3 * max(c, out_channels)
    return plain and many and device_of(x) == "cpu" and x.dtype != "float16"


def sweep(
    x: Array, kernels: Array, window: Window, finish: Finish = as_it_is, dy: Array | None = None, output: bool = True
) -> tuple[Any, Any]:
    """As `conv.sweep`. x: (N, H, W, C), kernels: (3, 3, C, O), dy: (N, OH, OW, O)."""
    (oh, ow), (*_, c, o) = window.output_size("conv2d", *x.shape[1:3]), kernels.shape
    mixed: Any = mix_kernels(kernels) if output else None  # (36, C, O)
    y: Any = np.empty((len(x), oh, ow, o), dtype=x.dtype) if output else None

    def step(place: Strip) -> Any:
        pixels = mix(B.T, seen_by(place, x, ow, window), "pixels").reshape(36, -1, c)  # (36, N·T·U, C)
        if output:
            products = apart("products", 36, pixels.shape[1] * o, x).reshape(36, -1, o)
            np.matmul(pixels, mixed, out=products)
            lay_down(mix(A.T, products.reshape(36, -1), "tiles"), y[place])  # (16, N·T·U·O)
            finish(y[place], place)
        if dy is not None:
            tiles = mix(A, pick_up(dy[place]), "products").reshape(36, -1, o)
            return np.matmul(pixels.swapaxes(1, 2), tiles)  # (36, C, O)
        return None

    kernel_bytes = 36 * c * o * x.itemsize  # of the mixed ones, which each block walks over
    tile_bytes = 36 * (c + o) * x.itemsize
    turns = 1  # fewer and larger blocks: longer products, and fewer sums, which are as large as the mixed kernels
    places = bands(len(x), oh, tiles_along(ow) * tile_bytes, x, kernel_bytes, turns)
    if dy is None:
        for_each(step, places, x)
        return y, None

    def unmix(sums: Array) -> Array:  # (36, C, O)
        return (G.T.astype(x.dtype) @ sums.reshape(36, -1)).reshape(3, 3, c, o)

    return y, for_sum(step, places, x, kernel_bytes, unmix)


def mix(matrix: Array, tiles: Array, name: str) -> Array:
    """(K, L) @ (L, …), in a workspace."""
    return np.matmul(matrix.astype(tiles.dtype), tiles, out=apart(name, len(matrix), tiles.shape[1], tiles))


def apart(name: str, rows: int, length: int, like: Array) -> Array:
    """A workspace of so many rows, a cache line between them: rows a power of two apart would drive each other out of
    the cache. (rows, length)"""
    return workspace(name, (rows, length + 64 // like.itemsize), like)[:, :length]


def mix_kernels(kernels: Array) -> Array:
    """G g Gᵀ: (3, 3, C, O) → (36, C, O)."""
    *_, c, o = kernels.shape
    by_channel = kernels.transpose(2, 0, 1, 3)  # (C, 3, 3, O)
    mixed, matrix = np.empty((36, c, o), dtype=kernels.dtype), G.astype(kernels.dtype)

    def multiply(block: slice) -> None:
        flat = np.ascontiguousarray(by_channel[block]).reshape(-1, 9, o)
        np.matmul(matrix, flat, out=mixed[:, block].swapaxes(0, 1))

    for_each(multiply, blocks(c, 36 * o * mixed.itemsize, mixed), mixed)
    return mixed


def seen_by(place: Strip, x: Array, ow: int, window: Window) -> Array:
    """The 6×6 pixels that each tile of a block of the output sees, (36, N·T·U·C)."""
    (images, rows), (ph, pw) = place, window.padding
    return cut(x[images], rows.start - ph, -pw, rows.stop - rows.start, ow, SEEN)


def pick_up(y: Array) -> Array:
    """The tiles that cover y, (N, H, W, O) → (16, N·T·U·O), zero where they hang over its edge."""
    _, h, w, _ = y.shape
    return cut(y, 0, 0, h, w, TILE)


def cut(x: Array, top: int, left: int, height: int, width: int, side: int) -> Array:
    """Squares of side², as many, `TILE` apart, as cover height × width pixels: (side², N·T·U·C), in a workspace."""
    over = side - TILE
    whole = rectangle(x, top, left, tiles_along(height) * TILE + over, tiles_along(width) * TILE + over)
    squares = Window((side, side), (TILE, TILE), (0, 0)).view(whole).transpose(3, 4, 0, 1, 2, 5)
    copy = apart("cut", side**2, math.prod(squares.shape[2:]), x)
    copy.reshape(squares.shape)[...] = squares  # (side, side, N, T, U, C)
    return copy


def lay_down(tiles: Array, y: Array) -> None:
    """Put tiles, (16, N·T·U·O), where they belong in y, (N, H, W, O), and cut off what hangs over its edge."""
    n, h, w, o = y.shape
    t, u = tiles_along(h), tiles_along(w)
    fits = (h, w) == (t * TILE, u * TILE)
    whole = y if fits else workspace("whole", (n, t * TILE, u * TILE, o), y)
    whole.reshape(n, t, TILE, u, TILE, o)[...] = tiles.reshape(TILE, TILE, n, t, u, o).transpose(2, 3, 0, 4, 1, 5)
    if not fits:
        y[...] = whole[:, :h, :w]


def tiles_along(side: int) -> int:
    """How many tiles cover so many pixels."""
    return -(-side // TILE)


def bands(images: int, rows: int, bytes_across: int, array: Array, budget: int, turns: int = 2) -> Iterator[Strip]:
    """As `strips`, but no tile is cut in two; bytes_across: what a row of tiles takes."""
    for together, tiles in strips(images, tiles_along(rows), bytes_across, array, budget, turns):
        yield together, slice(TILE * tiles.start, min(TILE * tiles.stop, rows))
