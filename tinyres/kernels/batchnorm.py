"""Batch normalisation (Ioffe & Szegedy 2015), alone or with the addition and rectifier that follow it.

Seen channels-last, a batch of images is a matrix X of R = N·H·W rows, one column a channel, and everything is a
matter of columns. Forward is one affine form per channel, y = X·scale + shift; so is backward,
dx = A·g + B·X + C. Both are limited by memory, not arithmetic: the work goes over X in blocks of rows, and where an
addition and a rectifier follow, they are done to each block while it is at hand.

The sums over rows are a vector of ones times the matrix, a product that BLAS does at the speed of memory. For few
channels NumPy's inner loop would be short, so k rows are laid side by side: X is looked at as (R/k, k·C), with the
per-channel vectors repeated k times.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from tinyres.backend import Array, device_of, workspace, xp
from tinyres.kernels.elementwise import Result, check_floating, gate, sum_dtype
from tinyres.kernels.windows import channels_first, channels_last
from tinyres.threads import blocks, for_each


def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Result:
    """y = γ·(x − μ)/√(σ² + ε) + β for each channel (Ioffe & Szegedy 2015, Algorithm 1).

    In training μ, σ² are those of the batch, gradients flow through them, and the running statistics, if given, are
    moved towards them in place, by `momentum` (with the unbiased variance). In evaluation they are the running ones.

    input: (N, C, H, W) or (N, C); running_mean, running_var, weight (γ), bias (β): (C,). Returns y like input.
    """
    y, pullback = fused(
        "batch_norm", input, None, running_mean, running_var, weight, bias, training, momentum, eps, False
    )

    def without_residual(dy: Array) -> Any:
        dx, _, _, _, dweight, dbias = pullback(dy)
        return dx, None, None, dweight, dbias

    return y, without_residual


def batch_norm_add_relu(
    input: Array,
    residual: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Result:
    """relu(batch_norm(x) + residual), or relu(batch_norm(x)) where residual is None, in one pass over memory.

    Equal to the three operations one after the other to the last bit, forward and backward.
    residual: like input. Everything else as for `batch_norm`.
    """
    return fused(
        "batch_norm_add_relu",
        input,
        residual,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        True,
    )


def fused(
    op: str,
    input: Array,
    residual: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool,
) -> Result:
    """The one batch norm behind both kernels. Its pullback gives dx, d residual, None, None, dγ, dβ."""
    check(op, input, residual, running_mean, running_var, weight, bias, training)
    module = xp(input)
    x = Lanes(input)
    if training:
        mean, var = moments(x)
        if running_mean is not None and running_var is not None:
            running_mean += momentum * (mean.astype(running_mean.dtype) - running_mean)
            running_var += momentum * ((var * (x.count / max(x.count - 1, 1))).astype(running_var.dtype) - running_var)
    else:
        mean, var = running_mean.astype("float64"), running_var.astype("float64")  # type: ignore[union-attr]
    inverse_std = 1 / module.sqrt(var + eps)  # (C,), float64 like all per-channel vectors
    scale = inverse_std * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * scale

    y, added = x.empty(), None if residual is None else Lanes(residual)
    scales, shifts = x.tile(scale), x.tile(shift)  # (k·C,)
    zeros = module.zeros_like(scales)  # NumPy is three times as fast with a row of zeros as with the number 0

    def normalise(rows: slice) -> None:
        block = module.multiply(x.rows[rows], scales, out=y.rows[rows])
        block += shifts
        if added is not None:
            block += added.rows[rows]
        if relu:
            module.maximum(block, zeros, out=block)

    x.for_blocks(normalise)
    activated = y.rows if relu else None  # all that backward needs of y

    def pullback(dy: Array) -> Any:  # dy: like y
        incoming = Lanes(dy)
        g = x.empty() if relu else incoming  # the gradient by the norm's own output
        centre = x.tile(mean, x.sum_dtype) if far(mean, var) else None

        def sums(rows: slice) -> Array:
            if activated is not None:
                gate(incoming.rows[rows], activated[rows] > 0, out=g.rows[rows])
            return x.column_sums(g.rows[rows], product(x.centred(rows, centre), g.rows[rows]))

        dbias, dweight = x.sum_blocks(sums)  # (C,): Σ g, Σ g·(x − μ) or Σ g·x
        dweight = (dweight if centre is not None else dweight - mean * dbias) * inverse_std  # Σ g·x̂

        # dx = a·g + b·x + c, which is γ/s · (g − mean(g) − x̂·mean(g·x̂)) (Ioffe & Szegedy 2015, §3, gathered).
        # In evaluation the statistics are constants, and dx = a·g.
        b = -scale * inverse_std * dweight / x.count
        c = -scale * dbias / x.count - b * mean
        dx = g if relu and residual is None else x.empty()  # g is ours alone then: write over it
        a, b, c = scales, x.tile(b), x.tile(c)

        def combine(rows: slice) -> None:
            block = module.multiply(g.rows[rows], a, out=dx.rows[rows])
            if training:
                block += product(x.rows[rows], b)
                block += c

        x.for_blocks(combine)
        return (
            dx.images(),
            None if residual is None else g.images(),
            None,
            None,
            None if weight is None else dweight.astype(weight.dtype),
            None if bias is None else dbias.astype(bias.dtype),
        )

    return y.images(), pullback


class Lanes:
    """A batch (N, C, H, W) or (N, C) seen as a matrix of rows of k·C numbers, k pixels side by side.

    On a GPU k is 1: there nothing is gained by long rows, and calls are dear.
    """

    def __init__(self, images: Array) -> None:
        least = 512 if device_of(images) == "cpu" else 1
        last = channels_last(images) if images.ndim == 4 else xp(images).ascontiguousarray(images)  # (…, C)
        self.shape, self.channels, self.count = last.shape, last.shape[-1], last.size // last.shape[-1]
        k = 1
        while self.count % (2 * k) == 0 and k * self.channels < least:
            k *= 2
        self.k, self.width = k, k * self.channels
        self.rows = last.reshape(-1, self.width)  # (R/k, k·C)
        self.sum_dtype = sum_dtype(last)

    def empty(self) -> Lanes:
        """Another batch like this one, not filled."""
        empty = object.__new__(Lanes)
        empty.__dict__.update(self.__dict__, rows=xp(self.rows).empty_like(self.rows))
        return empty

    def blocks(self) -> Any:
        """Slices of rows, larger than what stays in the nearest cache, for threads that meet often wait for each other;
        but at most 1,024 of them in float32, whose sums are still good to the last digits."""
        return blocks(len(self.rows), max(self.width, 512) * self.rows.itemsize // 2, self.rows)

    def for_blocks(self, step: Callable[[slice], Any]) -> list[Any]:
        """`step(rows)` for each block, shared out among threads."""
        return for_each(step, self.blocks(), self.rows)

    def sum_blocks(self, step: Callable[[slice], Array]) -> Array:
        """Σ step(rows), which gives (B, k·C), over all blocks, in their order whatever the number of threads, and over
        the k pixels of a row: (B, C) in float64."""
        first, *others = self.for_blocks(step)
        total = functools.reduce(operator.iadd, others, first.astype("float64"))
        return total if self.k == 1 else total.reshape(-1, self.k, self.channels).sum(axis=1)

    def tile(self, vector: Array, dtype: Any = None) -> Array:
        """A per-channel vector (C,), once for each of the k pixels of a row: (k·C,)."""
        row = xp(self.rows).empty((self.k, self.channels), dtype=dtype or self.rows.dtype)
        row[...] = vector
        return row.reshape(-1)

    def centred(self, rows: slice, centre: Array | None) -> Array:
        """A block of x − centre, to be summed: in a workspace or, where centre is None, itself. centre: (k·C,)."""
        block = self.rows[rows].astype(self.sum_dtype, copy=False)
        if centre is None:
            return block
        return xp(block).subtract(block, centre, out=workspace("centred", block.shape, block))

    def column_sums(self, *blocks: Array) -> Array:
        """The sums over each block's rows, (B, k·C): ones @ block."""
        ones = xp(self.rows).ones(len(blocks[0]), dtype=self.sum_dtype)
        sums = xp(self.rows).empty((len(blocks), self.width), dtype=self.sum_dtype)
        for row, block in zip(sums, blocks, strict=True):
            row[...] = ones @ block.astype(self.sum_dtype, copy=False)
        return sums

    def images(self) -> Array:
        """Back to the shape of the batch, channels-last in memory."""
        last = self.rows.reshape(self.shape)
        return channels_first(last) if last.ndim == 4 else last


def product(block: Array, other: Array) -> Array:
    """block · other, in a workspace."""
    return xp(block).multiply(block, other, out=workspace("product", block.shape, block))


def moments(x: Lanes) -> tuple[Array, Array]:
    """Mean and (biased) variance of each channel, (C,) in float64.

    E[x²] − E[x]² is one walk over x, and loses its digits where the mean is large beside the spread. There, x is walked
    again, the mean just found taken away first (the two-pass algorithm; Chan, Golub & LeVeque 1983). On a GPU, where to
    look would be to wait, it is walked once, the first pixel taken away: that is as near the mean as most are.
    """
    if device_of(x.rows) == "cuda":
        return moments_about(x.rows[0].astype("float64"), x)
    mean, square = averages(x, None)
    var = square - mean * mean
    return moments_about(mean, x) if far(mean, var) else (mean, var)


def moments_about(centre: Array, x: Lanes) -> tuple[Array, Array]:
    """Mean and variance by way of x − centre; centre: (C,), near the mean."""
    drift, square = averages(x, centre)
    return centre + drift, xp(x.rows).maximum(square - drift * drift, 0)


def averages(x: Lanes, centre: Array | None) -> Array:
    """The means of x − centre and (x − centre)², (2, C) in float64."""
    tiled = None if centre is None else x.tile(centre, x.sum_dtype)

    def sums(rows: slice) -> Array:
        block = x.centred(rows, tiled)
        return x.column_sums(block, product(block, block))

    return x.sum_blocks(sums) / x.count


def far(mean: Array, var: Array) -> bool:
    """Whether a mean is large beside its spread. On a GPU this is said of all, for looking would wait for it."""
    return device_of(mean) == "cuda" or not bool((mean * mean <= 16 * var).all())


def check(
    op: str,
    input: Array,
    residual: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
) -> None:
    """Refuse what cannot be normalised, in one sentence."""
    check_floating(op, input)
    if input.ndim not in (2, 4) or input.size == 0:
        raise ValueError(f"{op}: x is {input.shape}, expected (N, C, H, W) or (N, C), none of them 0")
    if training and input.size == input.shape[1]:
        raise ValueError(f"{op}: one value per channel in training (x: {input.shape}): a variance needs at least two")
    if not training and (running_mean is None or running_var is None):
        raise ValueError(f"{op}: running_mean and running_var are needed when training is False")
    vectors = dict(running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (input.shape[1],):
            raise ValueError(
                f"{op}: {name} is {vector.shape}, expected ({input.shape[1]},) for x of shape {input.shape}"
            )
    if residual is not None and residual.shape != input.shape:
        raise ValueError(f"{op}: residual is {residual.shape}, expected x's shape {input.shape}")
