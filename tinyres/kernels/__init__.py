"""Arrays in, output and pullback out: the mathematics of every layer, with no engine in sight.

A kernel computes its output and returns with it a *pullback*: the function that takes the gradient of the loss by
the output and gives the gradient by each array input, in order. One that is expensive may be given as a function of
no arguments, to be called only if it is needed. Where they share work, the pullback gives one function instead, to be
called with what is needed, a bool for each input, and giving all of them. `gradients` calls for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyres.backend import Array
from tinyres.kernels.activation import dropout, log_softmax, relu, sigmoid, softmax, tanh
from tinyres.kernels.batchnorm import batch_norm, batch_norm_add_relu
from tinyres.kernels.conv import col2im, conv2d, conv2d_add_relu, im2col
from tinyres.kernels.elementwise import (
    abs,
    amax,
    cat,
    clamp,
    div,
    exp,
    expand,
    flatten,
    getitem,
    log,
    matmul,
    mean,
    mul,
    neg,
    pad,
    permute,
    pow,
    reshape,
    sqrt,
    sub,
    sum,
    transpose,
    var,
)
from tinyres.kernels.linear import linear
from tinyres.kernels.loss import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from tinyres.kernels.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from tinyres.kernels.residual import add


def gradients(pullback: Callable[[Array], Any], dy: Array) -> tuple[Array | None, ...]:
    """All the gradients of a pullback, those given as functions computed."""
    parts = pullback(dy)
    parts = parts() if callable(parts) else parts
    parts = parts if isinstance(parts, tuple) else (parts,)
    return tuple(part() if callable(part) else part for part in parts)


__all__ = [name for name, value in globals().items() if callable(value) and name not in ("Callable", "Any", "Array")]
