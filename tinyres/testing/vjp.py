"""Finite differences: is the pullback the derivative?

Along a direction v, with a cotangent g, two numbers must agree: ⟨dx, v⟩ from the pullback, and the slope of ⟨f(x), g⟩
measured at x ± h·v. One random direction looks at every element at once, and misses an error only if it happens to be
orthogonal to it. The cotangent is random, too: a constant one lets a batch norm that passes nothing back look right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tinyres.backend import Array, device_of, to_device, to_host
from tinyres.testing.causes import suspect
from tinyres.testing.report import Report
from tinyres.testing.snippet import snippet
from tinyres.testing.subject import Subject

EPS = float(np.finfo(np.float64).eps)
MOST_ELEMENTS = 4096  # of an input, to look for the worst one by one


def check_vjp(
    f: Callable[..., Any],
    *args: Any,
    directions: int = 4,
    seed: int = 0,
    rtol: float = 1e-6,
    cotangent: Any = None,
    complex_step: bool = False,
    **options: Any,
) -> Report:
    """Compare the pullback of `f` at `args` with finite differences, for every input it gives a gradient for.

    Args:
        f: a kernel (arrays → output and pullback), a function of Tensors, or a Module, whose parameters are checked,
            too. args, options: what to call it with; floating arrays are taken to float64.
        directions: random directions for each input. seed: of directions and cotangent.
        rtol: how far the two may be apart, relative to the larger, beside the rounding of the difference.
        cotangent: instead of a random one. Constant ones hide bugs.
        complex_step: take the slope as Im f(x + ih·v)/h, exact to the last digit (Squire & Trapp 1998): for kernels
            that are analytic and take complex arrays.

    Returns:
        A report. Where the function bends at the very point (a rectifier at 0, a tie), any value between the
        one-sided slopes is right, and a note says that it bends.
    """
    subject = Subject.of(f, *args, **options)
    # A stream of its own: were x drawn from default_rng(seed), as in many examples, g would be x, and batch norm passes
    # nothing of that back.
    rng = np.random.default_rng([seed, *b"check_vjp"])
    output, pullback = subject.run(subject.inputs)
    g = rng.standard_normal(output.shape) if cotangent is None else np.broadcast_to(cotangent, output.shape)
    found = pullback(like(g, output))
    checked = {key: to_host(found[key]) for key in subject.inputs if found.get(key) is not None}
    if not checked:
        return Report("check_vjp", subject.name, False, message="no input of it has a gradient")

    def loss(key: str, value: Any) -> Any:
        moved, _ = subject.run({**subject.inputs, key: like(value, subject.inputs[key])})
        return (to_host(moved) * g).sum()

    size = float(np.abs(to_host(output) * g).sum())  # of the sum whose differences are taken
    worst, bad, notes = 0.0, "", []
    for key, gradient in checked.items():
        x = to_host(subject.inputs[key])
        for _ in range(directions):
            v = rng.standard_normal(x.shape)
            slope = Slope(partial(along, partial(loss, key), x, v), x, size, complex_step)
            analytic = float((gradient * v).sum())
            error = slope.error(analytic, rtol)
            if error > 1 and slope.bends(analytic):
                notes.append(f"the function bends within {slope.h:.0e} of {key}, at a kink")
                error = slope.error_between_sides(analytic, rtol)
            if error * rtol > worst:
                worst = error * rtol
                bad = key if error > 1 else bad
    if not bad:
        return Report("check_vjp", subject.name, True, worst, notes=tuple(dict.fromkeys(notes)))

    x, a = to_host(subject.inputs[bad]), checked[bad]
    message, cause = f"the gradient for {bad} {x.shape} is not the slope along a random direction", ""
    if x.size <= MOST_ELEMENTS:
        n = one_by_one(partial(loss, bad), x, size, complex_step)
        index = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(a - n)), x.shape))
        message = (
            f"the gradient for {bad} {x.shape} is worst at {list(index)}: the pullback gives {a[index]:.8g}, "
            f"finite differences {n[index]:.8g}; {int((np.abs(a - n) > 1e-5 * np.abs(n).max()).sum())} of {x.size} "
            "elements are off"
        )
        cause = suspect(a, n, x, output.shape)
    code = snippet("check_vjp", f, args, options, seed=seed, cotangent=cotangent)
    return Report("check_vjp", subject.name, False, worst, message, cause, tuple(dict.fromkeys(notes)), code)


class Slope:
    """The slope of a function of one number at 0, by central differences, or by a complex step."""

    def __init__(self, loss: Callable[[Any], Any], x: Array, size: float, complex_step: bool = False) -> None:
        scale = float(np.sqrt((x * x).mean())) if x.size else 1.0
        self.h = (1e-100 if complex_step else EPS ** (1 / 3)) * max(scale, 1e-3)
        self.loss, self.complex_step = loss, complex_step
        self.noise = 0.0 if complex_step else 20 * EPS * size / self.h  # what rounding can do to the difference
        self.value = float(loss(1j * self.h).imag) / self.h if complex_step else self.central(self.h)

    def central(self, h: float) -> float:
        return float(self.loss(h) - self.loss(-h)) / (2 * h)

    def error(self, analytic: float, rtol: float) -> float:
        """How far off `analytic` is; 1 is the most that is allowed."""
        return abs(analytic - self.value) / (rtol * max(abs(analytic), abs(self.value)) + self.noise + 1e-300)

    def sides(self, h: float) -> tuple[float, float]:
        here = float(self.loss(0.0))
        return (here - float(self.loss(-h))) / h, (float(self.loss(h)) - here) / h

    def bends(self, analytic: float) -> bool:
        """Whether a kink within the step could be why `analytic` is off. At a kink, the slopes to either side differ,
        and by as much for a smaller step; where a function is merely curved, the difference shrinks with the step.
        Beside a kink, the slope itself changes with the step."""
        if self.complex_step:
            return False
        (left, right), (near_left, near_right) = self.sides(self.h), self.sides(self.h / 8)
        at_a_kink = abs(near_right - near_left) > abs(right - left) / 3
        beside_one = abs(self.value - self.central(self.h / 8))
        return max(at_a_kink * abs(right - left), beside_one) > 0.1 * abs(analytic - self.value) + 10 * self.noise

    def error_between_sides(self, analytic: float, rtol: float) -> float:
        """As `error`, with any value between the one-sided slopes taken for right."""
        low, high = sorted(self.sides(self.h))
        outside = max(low - analytic, analytic - high, 0.0)
        return outside / (1e-3 * max(abs(low), abs(high)) + self.noise + 1e-300)


def one_by_one(loss: Callable[[Any], Any], x: Array, size: float, complex_step: bool) -> Array:
    """The gradient by x, each element by a difference of its own."""
    found = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        v = np.zeros(x.shape)
        v[index] = 1.0
        found[index] = Slope(partial(along, loss, x, v), x, size, complex_step).value
    return found


def along(loss: Callable[[Any], Any], x: Array, v: Array, t: Any) -> Any:
    return loss(x + t * v)


def like(values: Any, array: Array) -> Array:
    """Host values on the array's device."""
    return to_device(np.asarray(values), device_of(array))
