"""Initialisers: filling a weight from the host generator, in place.

The fan of a weight (O, I, KH, KW) or (O, I) is how many numbers feed one output (fan in: I·KH·KW) or are fed by one
input (fan out: O·KH·KW). Variance 2/fan_in keeps the size of activations through ReLU layers, 2/fan_out that of
gradients (He et al. 2015b, eq. 10 and 14); 2/(fan_in + fan_out) is Glorot & Bengio's compromise (2010, eq. 16).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import generator, to_device

GAINS = {"linear": 1.0, "relu": math.sqrt(2), "tanh": 5 / 3, "sigmoid": 1.0}


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan in, fan out) of a weight (O, I, …)."""
    if tensor.ndim < 2:
        raise ValueError(f"an initialiser that needs fans got a tensor of shape {tensor.shape}, expected (O, I, …)")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """N(mean, std²)."""
    return _fill(tensor, generator().normal(mean, std, tensor.shape))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform on [a, b)."""
    return _fill(tensor, generator().uniform(a, b, tensor.shape))


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Everywhere `value`."""
    tensor.data[...] = value
    return tensor


def kaiming_normal_(tensor: Tensor, mode: str = "fan_in", nonlinearity: str = "relu") -> Tensor:
    """N(0, gain²/fan) (He et al. 2015b)."""
    return normal_(tensor, std=_gain(nonlinearity) / math.sqrt(_fan(tensor, mode)))


def kaiming_uniform_(tensor: Tensor, mode: str = "fan_in", nonlinearity: str = "relu") -> Tensor:
    """Uniform with variance gain²/fan (He et al. 2015b)."""
    bound = _gain(nonlinearity) * math.sqrt(3 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, 2·gain²/(fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return normal_(tensor, std=gain * math.sqrt(2 / _sum(fans(tensor))))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform with variance 2·gain²/(fan_in + fan_out) (Glorot & Bengio 2010, eq. 16)."""
    bound = gain * math.sqrt(6 / _sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def _sum(pair: tuple[int, int]) -> int:
    return pair[0] + pair[1]


def _gain(nonlinearity: str) -> float:
    if nonlinearity not in GAINS:
        raise ValueError(f"nonlinearity is {nonlinearity!r}, expected one of {', '.join(GAINS)}")
    return GAINS[nonlinearity]


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is {mode!r}, expected 'fan_in' or 'fan_out'")
    return fans(tensor)[mode == "fan_out"]


def _fill(tensor: Tensor, values: np.ndarray[Any, Any]) -> Tensor:
    tensor.data[...] = to_device(values.astype(tensor.dtype), tensor.device)
    return tensor
