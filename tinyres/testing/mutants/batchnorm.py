"""Broken batch norms, alone and with the addition and rectifier that follow.

ε is large, since forgetting a small one changes nothing that can be seen.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyres import kernels
from tinyres.backend import Array
from tinyres.testing.mutants.mutant import (
    ADJOINT,
    CONSERVES,
    Original,
    backward_of,
    instead_of,
    of,
    positive,
    same_for_each,
)

# Batch norm

NORM = Original(
    "batch_norm",
    kernels.batch_norm,
    of([4, 3, 2, 5], [3], positive(3), positive(3), [3], True, 0.1, eps=0.1),
    checks=(("batch_norm", {}), CONSERVES, same_for_each("input")),
)
NORM_EVALUATION = Original(
    "batch_norm",
    kernels.batch_norm,
    of([4, 3, 2, 5], [3], positive(3), positive(3), [3], False, 0.1, eps=0.1),
    checks=(ADJOINT, same_for_each("input")),
)


def normalised(x: Array, eps: float) -> tuple[Array, Array]:
    """x̂ and s = √(σ² + ε) of each channel, to broadcast: (N, C, H, W), (1, C, 1, 1)."""
    s = np.sqrt(x.var((0, 2, 3), keepdims=True) + eps)
    return (x - x.mean((0, 2, 3), keepdims=True)) / s, s


def average(g: Array) -> Array:
    """The mean of each channel, (1, C, 1, 1)."""
    return g.mean((0, 2, 3), keepdims=True)


def per_channel(weight: Array) -> Array:
    """(C,) → (C, 1, 1)."""
    return weight[:, None, None]


@backward_of(NORM)
def norm_gradient_zero(found: Any, *_: Any) -> Any:
    """dx is zero: a test whose loss is the sum of the output sees no difference."""
    return 0 * found[0], *found[1:]


@backward_of(NORM)
def norm_statistics_constant(
    found: Any, dy: Array, x: Array, mean: Array, var: Array, weight: Array, *rest: Any
) -> Any:
    """Mean and variance are taken for constants: dx = γ/s · g."""
    _, s = normalised(x, rest[-1])
    return per_channel(weight) / s * dy, *found[1:]


@backward_of(NORM)
def norm_mean_term_missing(found: Any, dy: Array, x: Array, mean: Array, var: Array, weight: Array, *rest: Any) -> Any:
    """The gradient does not flow through the mean."""
    normed, s = normalised(x, rest[-1])
    return per_channel(weight) / s * (dy - normed * average(dy * normed)), *found[1:]


@backward_of(NORM)
def norm_variance_term_missing(
    found: Any, dy: Array, x: Array, mean: Array, var: Array, weight: Array, *rest: Any
) -> Any:
    """The gradient does not flow through the variance."""
    _, s = normalised(x, rest[-1])
    return per_channel(weight) / s * (dy - average(dy)), *found[1:]


@backward_of(NORM)
def norm_epsilon_forgotten(found: Any, dy: Array, x: Array, mean: Array, var: Array, weight: Array, *_: Any) -> Any:
    """dx divides by σ where the forward pass divided by √(σ² + ε)."""
    normed, s = normalised(x, 0.0)
    return per_channel(weight) / s * (dy - average(dy) - normed * average(dy * normed)), *found[1:]


@backward_of(NORM)
def norm_weight_missing(found: Any, dy: Array, x: Array, mean: Array, var: Array, weight: Array, *_: Any) -> Any:
    """dx is not multiplied by γ."""
    return found[0] / per_channel(weight), *found[1:]


@backward_of(NORM)
def norm_weight_gradient_not_normalised(found: Any, dy: Array, x: Array, *_: Any) -> Any:
    """dγ is Σ g·x instead of Σ g·x̂."""
    return *found[:3], (dy * x).sum((0, 2, 3)), found[4]


@backward_of(NORM)
def norm_weight_and_bias_swapped(found: Any, *_: Any) -> Any:
    """dγ and dβ are returned in each other's place."""
    return *found[:3], found[4], found[3]


@backward_of(NORM)
def norm_backward_by_running_statistics(found: Any, dy: Array, *args: Any) -> Any:
    """In training mode, the backward pass uses the running statistics."""
    x, mean, var, weight, bias, _, momentum, eps = args
    _, wrong = kernels.batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    return kernels.gradients(wrong, dy)


@instead_of(NORM)
def norm_running_statistics_in_training(
    input: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array,
    bias: Array,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """In training mode, forward and backward both use the running statistics: consistent, but no batch norm."""
    return kernels.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


@instead_of(NORM)
def norm_unbiased_variance(
    input: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array,
    bias: Array,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """The batch is normalised by the variance over R − 1: consistent, but no batch norm."""
    count = input.size / input.shape[1]
    c = math.sqrt((count - 1) / count)  # σ² R/(R − 1) + ε = (σ² + c²ε) / c²
    y, pullback = kernels.batch_norm(
        input, running_mean, running_var, c * weight, bias, training, momentum, c * c * eps
    )

    def scaled(dy: Array) -> Any:
        found = pullback(dy)
        return *found[:3], c * found[3], found[4]

    return y, scaled


@backward_of(NORM_EVALUATION)
def norm_batch_statistics_in_evaluation(found: Any, dy: Array, *args: Any) -> Any:
    """In evaluation mode, the gradient is that of training mode."""
    x, mean, var, weight, bias, _, momentum, eps = args
    _, wrong = kernels.batch_norm(x, mean.copy(), var.copy(), weight, bias, True, momentum, eps)
    return kernels.gradients(wrong, dy)


# Batch norm, addition and rectifier in one

FUSED = Original(
    "batch_norm_add_relu",
    kernels.batch_norm_add_relu,
    of([4, 3, 2, 5], [4, 3, 2, 5], [3], positive(3), positive(3), [3], True, 0.1, eps=0.1),
    checks=(same_for_each("input", "residual"),),
)


@backward_of(FUSED)
def fused_skip_dropped(found: Any, *_: Any) -> Any:
    """The skip receives zeros."""
    return found[0], 0 * found[1], *found[2:]


@backward_of(FUSED)
def fused_skip_not_rectified(found: Any, dy: Array, *_: Any) -> Any:
    """The skip receives dy as it came in, past the rectifier."""
    return found[0], dy.copy(), *found[2:]


@backward_of(FUSED)
def fused_norm_not_rectified(found: Any, dy: Array, x: Array, residual: Array, *rest: Any) -> Any:
    """The norm receives dy as it came in, past the rectifier."""
    _, wrong = kernels.batch_norm(x, *rest)
    dx, *others = kernels.gradients(wrong, dy)
    return dx, found[1], *others


@backward_of(FUSED)
def fused_mask_before_addition(found: Any, dy: Array, x: Array, residual: Array, *rest: Any) -> Any:
    """The rectifier's mask is taken of the norm's output, before the skip was added."""
    y, of_norm = kernels.batch_norm(x, *rest)
    g = dy * (y > 0)
    dx, *others = kernels.gradients(of_norm, g)
    return dx, g, *others
