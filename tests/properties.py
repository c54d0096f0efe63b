"""What the tests of properties share: a call of a kernel on either array module, its results on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyres.backend import to_device, to_host
from tinyres.kernels import gradients
from tinyres.testing.strategies import Case

Pullback = Callable[[Any], tuple[Any, ...]]


def run(kernel: Callable[..., Any], case: Case, device: str, *args: Any) -> tuple[Any, Pullback]:
    """The output of a call, and the function from a cotangent to all gradients: on `device`, seen as NumPy arrays.

    args: instead of the case's own, all of them; those that are the case's own keep their layout in memory.
    """
    kept = zip(case.layouts, args, case.args, strict=False)
    layouts = tuple(layout if given is own else "contiguous" for layout, given, own in kept)
    moved = (Case(case.seed, args, case.options, layouts) if args else case).to(device)
    y, pullback = kernel(*moved.args, **moved.options)

    def pull(g: Any) -> tuple[Any, ...]:
        parts = gradients(pullback, to_device(np.asarray(g), device))
        return tuple(None if part is None else to_host(part) for part in parts)

    return to_host(y), pull


def normal_like(case: Case, y: Any) -> Any:
    """A random cotangent."""
    return np.asarray(case.rng.standard_normal(np.shape(y)))


def close(found: Any, expected: Any, rtol: float = 1e-10, scale: float = 0.0) -> None:
    """Equal up to rounding, measured on the largest number in sight, or on `scale`, that of what was summed."""
    tolerance = rtol * max(1 + np.abs(expected).max(initial=0), scale)
    if np.shape(found) != np.shape(expected) or not (np.abs(found - expected) <= tolerance).all():
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, strict=True)  # says what is wrong


def same(found: Any, expected: Any) -> bool:
    """Equal to the bit (zeros of either sign alike)."""
    return found is expected is None or np.array_equal(found, expected)
