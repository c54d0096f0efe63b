"""What mean-field theory says of the networks in `mlp`, before training and at infinite width, for Gaussian inputs of
variance 1.

Take W ~ N(0, gain/width), and independent of all that came before. Half of what a rectifier gets is negative, so

    E‖β·W·relu(z)‖² = ½·β²·gain · E‖z‖²,        E‖β·(W·diag[z > 0])ᵀ·g‖² = ½·β²·gain · E‖g‖²,

and signals and gradients are followed by their mean squares alone (Poole et al. 2016; Yang et al. 2019). With batch
norm, z = (h − mean)/√v has variance 1. Of the branch's mean square the share 1/π is a mean that all inputs have in
common, (E relu(z))² = 1/(2π) against E relu(z)² = ½; the batch's variance v, by which the next norm divides, grows
by the rest only, 1 − 1/π.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyres.experiments.mlp import Kind

Values = np.ndarray[Any, Any]


def variances(kind: Kind, depth: int) -> Values:
    """The batch's variance before each of `depth` blocks that begin with batch norm: float64 (depth,)."""
    values = [1.0]
    for _ in range(depth - 1):
        values.append(kind.skip**2 * values[-1] + kind.branch**2 * kind.gain / 2 * (1 - 1 / np.pi))
    return np.array(values)


def branch_factors(kind: Kind, depth: int) -> Values:
    """‖J_Fᵀg‖² / ‖g‖² of each block's branch; its skip's is λ². Float64 (depth,), the first block first."""
    factor = kind.branch**2 * kind.gain / 2
    return factor / variances(kind, depth) if kind.norm == "batch" else np.full(depth, factor)


def gradient_rms(kind: Kind, depth: int) -> Values:
    """How large the gradient is before each block and after the last, where it is 1: float64 (depth + 1,)."""
    factors = kind.skip**2 + branch_factors(kind, depth)  # by branch and skip come gradients that are orthogonal
    return np.append(np.sqrt(np.cumprod(factors[::-1])[::-1]), 1)


def path_shares(kind: Kind, depth: int) -> Values:
    """How much of the gradient's square comes through k of `depth` branches: float64 (depth + 1,), of sum 1.

    Each block is a coin of its own, the branch's factor against the skip's: a Poisson binomial distribution.
    """
    shares = np.ones(1)
    for factor in branch_factors(kind, depth):
        shares = np.convolve(shares, np.array([kind.skip**2, factor]) / (kind.skip**2 + factor))
    return shares
