"""Element-wise non-linearities, softmax and dropout."""

from __future__ import annotations

from tinyres.backend import Array, device_of, generator, to_device, xp
from tinyres.kernels.elementwise import Result, gate, reduced_shape
from tinyres.threads import blockwise


def relu(input: Array) -> Result:
    """Rectifier max(x, 0) (Nair & Hinton 2010). Any shape; the gradient at 0 is 0."""
    y = xp(input).empty_like(input)
    # NumPy is three times as fast with an array of zeros as with the number 0.
    blockwise(lambda x, y: xp(x).maximum(x, xp(x).zeros_like(x), out=y), input, y)
    return y, lambda dy: where_positive(dy, y)


def where_positive(dy: Array, y: Array) -> Array:
    """dy where y > 0, else 0: what a rectifier lets through backward."""
    dx = xp(dy).empty_like(dy)
    blockwise(lambda dx, dy, y: gate(dy, y > 0, out=dx), dx, dy, y)
    return dx


def sigmoid(input: Array) -> Result:
    """Logistic function 1 / (1 + e⁻ˣ), or eˣ / (1 + eˣ) for negative x: no overflow, no cancellation."""
    e = xp(input).exp(-xp(input).abs(input))
    y = xp(input).where(input >= 0, 1, e) / (1 + e)
    return y, lambda dy: dy * y * (1 - y)


def tanh(input: Array) -> Result:
    """Hyperbolic tangent."""
    y = xp(input).tanh(input)
    return y, lambda dy: dy * (1 - y * y)


def softmax(input: Array, dim: int) -> Result:
    """e^x / Σ e^x along `dim`."""
    reduced_shape("softmax", input, dim)
    e = xp(input).exp(input - input.max(axis=dim, keepdims=True))
    y = e / e.sum(axis=dim, keepdims=True)
    return y, lambda dy: y * (dy - (dy * y).sum(axis=dim, keepdims=True))


def log_softmax(input: Array, dim: int) -> Result:
    """x − log Σ e^x along `dim`, shifted by the maximum so that nothing overflows."""
    reduced_shape("log_softmax", input, dim)
    shifted = input - input.max(axis=dim, keepdims=True)
    y = shifted - xp(input).log(xp(input).exp(shifted).sum(axis=dim, keepdims=True))
    return y, lambda dy: dy - xp(y).exp(y) * dy.sum(axis=dim, keepdims=True)


def dropout(input: Array, p: float = 0.5, training: bool = True) -> Result:
    """In training: zero each element with probability p, scale the rest by 1/(1 − p) (Srivastava et al. 2014).

    The mask is drawn from the host generator, so that a CPU and a GPU run drop the same elements.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is {p}, expected a probability between 0 and 1")
    if not training or p == 0:
        return input, lambda dy: dy
    kept = generator().random(input.shape) >= p
    mask = to_device((kept / max(1 - p, 1e-12)).astype(input.dtype), device_of(input))
    return input * mask, lambda dy: dy * mask
