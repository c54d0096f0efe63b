"""Sliding windows over images: the geometry that convolution and pooling share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any, NamedTuple

from tinyres.backend import Array, as_strided, workspace, xp
from tinyres.threads import block_size

Pair = int | tuple[int, int]
Strip = tuple[slice, slice]  # a block of a sliding window's output: images, rows
Finish = Callable[[Array, Strip], None]  # what is still to be done to such a block, in place


def channels_last(x: Array) -> Array:
    """(N, C, H, W) → contiguous (N, H, W, C): a view if the memory is channels-last already, else a copy."""
    return xp(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def channels_first(x: Array) -> Array:
    """(N, H, W, C) → (N, C, H, W), a view: channels-last in memory, channels-first to read."""
    return x.transpose(0, 3, 1, 2)


def as_it_is(block: Array, place: Strip) -> None:
    """Nothing is still to be done."""


def pair(op: str, name: str, value: Pair, least: int) -> tuple[int, int]:
    """A size given as PyTorch gives it, one number for both axes or (height, width), checked."""
    both: Any = (value, value) if isinstance(value, Integral) else value
    fits = isinstance(both, tuple | list) and len(both) == 2 and all(isinstance(size, Integral) for size in both)
    if not fits or min(both) < least:
        raise ValueError(f"{op}: {name} is {value}, expected an integer or a pair of integers, at least {least}")
    return int(both[0]), int(both[1])


class Window(NamedTuple):
    """A K×K window that slides over an image: sizes as (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, op: str, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair = 1) -> Window:
        """The window of an operation, its sizes checked."""
        return cls(
            pair(op, "kernel_size", kernel_size, 1),
            pair(op, "stride", stride, 1),
            pair(op, "padding", padding, 0),
            pair(op, "dilation", dilation, 1),
        )

    @property
    def extent(self) -> tuple[int, int]:
        """How many pixels one window spans."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    def output_size(self, op: str, height: int, width: int) -> tuple[int, int]:
        """How many windows fit, down and across."""
        (eh, ew), (sh, sw), (ph, pw) = self.extent, self.stride, self.padding
        if eh > height + 2 * ph or ew > width + 2 * pw:
            raise ValueError(
                f"{op}: a window of {eh}×{ew} does not fit into an image of {height}×{width} "
                f"with padding {self.padding}"
            )
        return (height + 2 * ph - eh) // sh + 1, (width + 2 * pw - ew) // sw + 1

    def pad(self, x: Array) -> Array:
        """(N, H, W, C) → (N, H + 2·PH, W + 2·PW, C), the border zero."""
        (ph, pw), (n, h, w, c) = self.padding, x.shape
        if not (ph or pw):
            return x
        padded = xp(x).zeros((n, h + 2 * ph, w + 2 * pw, c), dtype=x.dtype)
        padded[:, ph : ph + h, pw : pw + w] = x
        return padded

    def inside(self, height: int, width: int) -> Iterator[tuple[Any, Any]]:
        """For each kernel position: which outputs see a pixel there, the border left out, and which pixels those are.
        Two indices, of (N, OH, OW, C) and of (N, H, W, C)."""
        oh, ow = self.output_size("window", height, width)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows, from_rows = self._inside(0, i, oh, height)
                columns, from_columns = self._inside(1, j, ow, width)
                yield (slice(None), rows, columns), (slice(None), from_rows, from_columns)

    def _inside(self, axis: int, tap: int, outputs: int, pixels: int) -> tuple[slice, slice]:
        stride, first = self.stride[axis], tap * self.dilation[axis] - self.padding[axis]
        start = max(0, -(first // stride))  # the first output whose pixel, first + stride·output, is at 0 or after
        stop = max(start, min(outputs, (pixels - 1 - first) // stride + 1))
        return slice(start, stop), slice(first + stride * start, max(0, first + stride * (stop - 1) + 1), stride)

    def strip(self, x: Array, rows: slice) -> Array:
        """The pixels that the windows of these output rows see, with the zero border: what `pad` gives, cut to
        (N, rows seen, W + 2·PW, C). A view if there is no border, else a workspace."""
        (ph, pw), w = self.padding, x.shape[2]
        top = rows.start * self.stride[0] - ph
        bottom = (rows.stop - 1) * self.stride[0] - ph + self.extent[0]
        return rectangle(x, top, -pw, bottom - top, w + 2 * pw)

    def view(self, padded: Array) -> Array:
        """All windows of padded images, (N, OH, OW, KH, KW, C): a view, each pixel in many places."""
        (eh, ew), (kh, kw), (sh, sw), (dh, dw) = self.extent, self.kernel, self.stride, self.dilation
        n, h, w, c = padded.shape
        shape = (n, (h - eh) // sh + 1, (w - ew) // sw + 1, kh, kw, c)
        by_image, by_row, by_pixel, by_channel = padded.strides
        strides = (by_image, by_row * sh, by_pixel * sw, by_row * dh, by_pixel * dw, by_channel)
        return as_strided(padded, shape, strides)


def rectangle(x: Array, top: int, left: int, height: int, width: int) -> Array:
    """Part of images (N, H, W, C), zero where it reaches over their border: (N, height, width, C).
    A view if it lies within the images, else a workspace."""
    n, *_, c = x.shape
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    inside = x[:, rows, columns]
    if inside.shape == (n, height, width, c):
        return inside
    padded = workspace("rectangle", (n, height, width, c), x)
    above, before = max(-top, 0), max(-left, 0)
    below, after = above + inside.shape[1], before + inside.shape[2]
    padded[:, above:below, before:after] = inside
    for border in (padded[:, :above], padded[:, below:], padded[:, :, :before], padded[:, :, after:]):
        border[...] = 0
    return padded


def strips(images: int, rows: int, row_bytes: int, array: Array, budget: int = 0, turns: int = 2) -> Iterator[Strip]:
    """Cut the output of a sliding window into blocks, (images, rows): several whole images, or some rows of one."""
    size = block_size(images * rows, row_bytes, array, budget, turns)  # in rows
    together, pieces = max(1, size // rows), max(1, -(-rows // size))
    for first in range(0, images, together):
        for piece in range(pieces):
            yield (
                slice(first, min(first + together, images)),
                slice(rows * piece // pieces, rows * (piece + 1) // pieces),
            )
