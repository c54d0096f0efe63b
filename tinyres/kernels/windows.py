"""Sliding windows over images: the geometry that convolution and pooling share."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, NamedTuple

from tinyres.backend import Array, xp

Pair = int | tuple[int, int]


def channels_last(x: Array) -> Array:
    """(N, C, H, W) → contiguous (N, H, W, C): a view if the memory is channels-last already, else a copy."""
    return xp(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def channels_first(x: Array) -> Array:
    """(N, H, W, C) → (N, C, H, W), a view: channels-last in memory, channels-first to read."""
    return x.transpose(0, 3, 1, 2)


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

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """(N, H, W, C) → (N, H + 2·PH, W + 2·PW, C), the border filled with `value`."""
        (ph, pw), (n, h, w, c) = self.padding, x.shape
        if not (ph or pw):
            return x
        padded = xp(x).full((n, h + 2 * ph, w + 2 * pw, c), value, dtype=x.dtype)
        padded[:, ph : ph + h, pw : pw + w] = x
        return padded

    def unpad(self, padded: Array) -> Array:
        """(N, H + 2·PH, W + 2·PW, C) → (N, H, W, C): the inside, a view."""
        (ph, pw), (_, h, w, _) = self.padding, padded.shape
        return padded[:, ph : h - ph, pw : w - pw]

    def taps(self, oh: int, ow: int) -> Iterator[tuple[int, int, Any]]:
        """For each kernel position (i, j): the padded image's pixels that all the windows see there, as an index."""
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
                yield i, j, (slice(None), rows, columns)
