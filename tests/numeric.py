"""Numbers to hold a kernel's gradients against: directional finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ARGUMENTS = 10  # of a kernel, at most


def copied(values: Sequence[Any]) -> list[Any]:
    """The values, arrays as copies in the same memory order: a call may move running statistics in place."""
    return [value.copy("K") if isinstance(value, np.ndarray) else value for value in values]


def gradients_of(pullback: Callable[[Any], Any], dy: Any, wrt: Sequence[int]) -> dict[int, Any]:
    """The gradients of the inputs at positions `wrt`, those given as functions computed, as the engine does."""
    parts = pullback(dy)
    parts = parts([position in wrt for position in range(ARGUMENTS)]) if callable(parts) else parts
    parts = parts if isinstance(parts, tuple) else (parts,)
    return {position: parts[position]() if callable(parts[position]) else parts[position] for position in wrt}


def dot(a: Any, b: Any) -> float:
    """⟨a, b⟩, the sum of the element-wise product, in float64."""
    assert np.shape(a) == np.shape(b)
    return float((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum())


def check_gradients(
    kernel: Callable[..., Any],
    arguments: Sequence[Any],
    wrt: Sequence[int],
    *,
    along_input: bool = False,
    step: float = 1e-5,
    seed: int = 0,
    **options: Any,
) -> None:
    """Compare a pullback with central differences along random directions, under a random cotangent.

    Args:
        kernel: arrays in, (output, pullback) out. arguments: float64 where differentiated.
        wrt: the positions of the arguments that have a gradient.
        along_input: differentiate along the input itself, x(1 ± h): ties stay ties there, zeros stay zeros.
    """
    rng = np.random.default_rng(seed)
    output, pullback = kernel(*copied(arguments), **options)
    g = np.asarray(rng.standard_normal(np.shape(output)))
    found = gradients_of(pullback, g, wrt)

    def loss(position: int, change: Any) -> float:
        moved = copied(arguments)
        moved[position] = moved[position] + change
        return dot(kernel(*moved, **options)[0], g)

    noise = float(np.abs(np.asarray(output) * g).sum())  # the size of the sum that the differences are taken of
    for position in wrt:
        x, gradient = arguments[position], found[position]
        assert gradient is not None, f"input {position} has no gradient"
        assert gradient.shape == x.shape and gradient.dtype == x.dtype, f"input {position}: shape and dtype"
        for _ in range(1 if along_input else 3):
            direction = x if along_input else np.asarray(rng.standard_normal(x.shape))
            slope = (loss(position, step * direction) - loss(position, -step * direction)) / (2 * step)
            error = abs(dot(gradient, direction) - slope)
            assert error <= 1e-6 * abs(slope) + 1e-8 * (1 + noise), (
                f"input {position}: {dot(gradient, direction)} against {slope} from finite differences"
            )
