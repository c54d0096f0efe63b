"""Convolution row by row, four rows at a time: Winograd's F(4, 3) down the columns, for few channels.

With few channels the product is short, and laying out the windows costs as much as multiplying them. So lay out one
axis of the kernel only, its width: KW pixels of a row are KW·C numbers that neighbour each other in memory. Down the
columns, the kernel's three rows slide over rows of pixels as three numbers would over numbers, and Winograd's way to
save multiplications needs no more than that (`winograd` has it in both axes): of the six rows d that four rows Y of
the output see, and the three rows g of the kernel,

    Y = Aᵀ [ (G g) ⊙ (Bᵀ d) ],

where ⊙ multiplies rows: six products of matrices instead of twelve. Whole rows are mixed, as they lie in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyres.backend import Array, device_of, workspace
from tinyres.kernels.windows import Finish, Strip, Window, as_it_is, rectangle
from tinyres.kernels.winograd import MANY, ONE_AXIS, SEEN, TILE, bands, tiles_along
from tinyres.threads import for_each, for_sum

LARGE = 1 << 16  # numbers; with fewer, what each call costs is more than is saved
BAND_BYTES = 2 << 20  # of mixed rows and products; smaller blocks spend more on starting than they gain in the cache
A, G, B = ONE_AXIS  # (6, 4), (6, 3), (6, 6)


def suits(x: Array, out_channels: int, window: Window) -> bool:
    """Whether this is the fastest way: on the CPU, for a `LARGE` x with fewer channels than `winograd` asks for on
    either side, and kernels three rows high that move down by one."""
    slides = window.kernel[0] == 3 and window.stride[0] == window.dilation[0] == 1
    few = min(x.shape[3], out_channels) < MANY and x.size >= LARGE
    return slides and few and device_of(x) == "cpu" and x.dtype != "float16"


def sweep(
    x: Array, kernels: Array, window: Window, finish: Finish = as_it_is, dy: Array | None = None, output: bool = True
) -> tuple[Any, Any]:
    """As `conv.sweep`. x: (N, H, W, C), kernels: (3, KW, C, O), dy: (N, OH, OW, O)."""
    (oh, ow), (_, kw, c, o) = window.output_size("conv2d", *x.shape[1:3]), kernels.shape
    mixed: Any = (G.astype(x.dtype) @ kernels.reshape(3, -1)).reshape(6, kw * c, o) if output else None
    y: Any = np.empty((len(x), oh, ow, o), dtype=x.dtype) if output else None

    def step(place: Strip) -> Any:
        rows = mixed_rows(place, x, window)  # (6, N, T, OW, KW·C)
        products = workspace("products", (*rows.shape[:4], o), x)
        rows, flat = rows.reshape(6, -1, kw * c), products.reshape(6, -1, o)
        if output:
            np.matmul(rows, mixed, out=flat)
            lay_down(products, y[place])
            finish(y[place], place)
        if dy is not None:
            pick_up(dy[place], products)
            return np.matmul(rows.swapaxes(1, 2), flat)  # (6, KW·C, O)
        return None

    places = bands(len(x), oh, 6 * ow * (kw * c + o) * x.itemsize, x, BAND_BYTES)
    if dy is None:
        for_each(step, places, x)
        return y, None

    def unmix(sums: Array) -> Array:  # (6, KW·C, O)
        return (G.T.astype(x.dtype) @ sums.reshape(6, -1)).reshape(3, kw, c, o)

    return y, for_sum(step, places, x, 6 * kw * c * o * x.itemsize, unmix)


def mixed_rows(place: Strip, x: Array, window: Window) -> Array:
    """For each of the six mixtures of rows, the KW pixels that the kernel sees of it at each output pixel:
    (6, N, T, OW, KW·C), in a workspace."""
    (images, rows), (ph, pw), (_, _, w, c) = place, window.padding, x.shape
    tiles, width = tiles_along(rows.stop - rows.start), w + 2 * pw
    strip = rectangle(x[images], rows.start - ph, -pw, tiles * TILE + SEEN - TILE, width)
    seen = Window((SEEN, 1), (TILE, 1), (0, 0)).view(strip)[..., 0, :].swapaxes(2, 3)  # (N, T, 6, W + 2·PW, C)
    mixed = workspace("mixed", (6, len(strip) * tiles, width, c), x)
    mix(B.T, seen, mixed.reshape(6, len(strip), tiles, width, c).transpose(1, 2, 0, 3, 4))
    view = window._replace(kernel=(1, window.kernel[1])).view(mixed)[:, :, :, 0]  # (6, N·T, OW, KW, C)
    laid_out = workspace("rows", view.shape, x)
    laid_out[...] = view
    return laid_out.reshape(6, len(strip), tiles, view.shape[2], -1)


def lay_down(products: Array, y: Array) -> None:
    """Mix products, (6, N, T, OW, O), into the rows of y, (N, rows, OW, O), and cut off what hangs over its edge."""
    fits = y.shape[1] % TILE == 0
    whole = y if fits else workspace("whole", (len(y), products.shape[2] * TILE, *y.shape[2:]), y)
    mix(A.T, products.transpose(1, 2, 0, 3, 4), whole.reshape(len(y), -1, TILE, *y.shape[2:]))
    if not fits:
        y[...] = whole[:, : y.shape[1]]


def pick_up(dy: Array, products: Array) -> None:
    """The adjoint of `lay_down`: rows of dy, (N, rows, OW, O), are mixed into products, (6, N, T, OW, O)."""
    whole = rectangle(dy, 0, 0, products.shape[2] * TILE, dy.shape[2])
    mix(A, whole.reshape(len(dy), -1, TILE, *dy.shape[2:]), products.transpose(1, 2, 0, 3, 4))


def mix(matrix: Array, rows: Array, out: Array) -> None:
    """(K, L) @ (N, T, L, W, C) → (N, T, K, W, C): whole rows, of W·C numbers."""
    np.matmul(matrix.astype(rows.dtype), rows.reshape(*rows.shape[:3], -1), out=out.reshape(*out.shape[:3], -1))
