"""The fully connected layer."""

from __future__ import annotations

import math
from typing import Any

from tinyres.backend import Array
from tinyres.kernels.elementwise import Result, floats, sum_dtype
from tinyres.threads import matmul


def linear(input: Array, weight: Array, bias: Array | None = None) -> Result:
    """y = x Wᵀ + b.

    input: (…, I), weight: (O, I), bias: (O,). Returns (…, O).
    """
    if input.ndim == 0:
        raise ValueError(f"linear: x is (), expected (…, I) for weight {weight.shape}")
    if weight.ndim != 2 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: weight {weight.shape} does not fit x {input.shape}: expected (O, I) with I = {input.shape[-1]}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias is {bias.shape}, expected ({weight.shape[0]},) for weight {weight.shape}")
    input, weight = floats(input, weight)
    samples = math.prod(input.shape[:-1])
    x = input.reshape(samples, input.shape[-1])  # (R, I)
    y = matmul(x, weight.T).reshape(*input.shape[:-1], len(weight))  # (…, O)
    if bias is not None:
        y += bias

    def pullback(dy: Array) -> Any:  # dy: (…, O)
        rows = dy.reshape(samples, len(weight))  # (R, O)
        return (
            lambda: matmul(rows, weight).reshape(input.shape),  # (R, O) @ (O, I)
            lambda: matmul(rows.T, x),  # (O, R) @ (R, I)
            lambda: rows.sum(axis=0, dtype=sum_dtype(rows)).astype(rows.dtype, copy=False),  # (O,)
        )

    return y, pullback
