"""Finite differences: is the pullback the derivative?

Along a direction v, with a cotangent g, two numbers must agree: ⟨dx, v⟩ from the pullback, and the slope of ⟨f(x), g⟩
measured at x ± h·v. One random direction looks at every element at once, and misses an error only if it happens to be
orthogonal to it. The cotangent is random, too: a constant one lets a batch norm that passes nothing back look right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tinyres.backend import Array, to_host
from tinyres.testing.causes import suspect
from tinyres.testing.report import Report
from tinyres.testing.trial import Host, Trial, dot, like

EPS = float(np.finfo(np.float64).eps)
MOST_ELEMENTS = 2048  # of an input, to look for the worst one by one


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
        one-sided slopes is right for an element, and a note says that it bends.
    """
    trial = Trial(
        check_vjp,
        f,
        args,
        options,
        seed,
        directions=directions,
        rtol=rtol,
        cotangent=cotangent,
        complex_step=complex_step,
    )
    if complex_step and trial.subject.lifted:
        raise TypeError(f"complex_step takes a kernel, which may be given complex arrays; {trial.subject.name} is none")
    if cotangent is not None:
        trial.g = like(np.broadcast_to(cotangent, trial.y.shape).astype(trial.y.dtype), trial.g)
        trial.gradients = trial.gradients_for(trial.g)
    if not np.isfinite(trial.y).all():
        trial.fail("the output is not finite here, so it has no slope: choose other inputs")
        return trial.report()
    notes = []
    constants = [key for key in trial.subject.inputs if key not in trial.gradients and not key.startswith("running_")]
    if constants and trial.gradients:
        notes.append(f"no gradient comes back for {', '.join(constants)}, which is taken for constant")

    def loss(key: str, value: Any) -> Any:
        x = trial.subject.inputs[key]
        # Beside a complex array, the real ones must be complex, too, or it might be cast to their dtype.
        beside = {other: a + 0j for other, a in trial.subject.inputs.items()} if complex_step else {}
        return (trial.value(beside | {key: like(value, x)}) * to_host(trial.g)).sum()

    size = dot(trial.y, trial.g)[1]  # of the terms of the sum whose differences are taken
    for key, gradient in trial.gradients.items():
        x = to_host(trial.subject.inputs[key])
        if not np.isfinite(gradient).all():
            first = [int(i) for i in np.argwhere(~np.isfinite(gradient))[0]]
            trial.fail(f"the gradient for {key} {x.shape} is {gradient[tuple(first)]} at {first}")
            continue
        for _ in range(directions):
            v = trial.rng.standard_normal(x.shape)
            bends = False
            slope = Slope(partial(along, partial(loss, key), x, v), x, size, complex_step)
            analytic = float((gradient * v).sum())
            error = slope.error(analytic, rtol)
            if error > 1:
                n, worst, bends = one_by_one(trial, partial(loss, key), x, gradient, size, rtol, complex_step)
                bends = bends or slope.bends(analytic)
                if bends:
                    tried = f", {MOST_ELEMENTS} of whose {x.size} elements were tried" * (x.size > MOST_ELEMENTS)
                    notes.append(f"the function bends within {slope.h:.0e} of {key}{tried}: it is at a kink")
                    error = worst
                if error > 1:
                    blame(trial, key, x, n)
            trial.error = max(trial.error, error * rtol)
            if error > 1 or bends:
                break  # all is said
    if not trial.gradients:
        return trial.does_not_apply("no input of it has a gradient")
    report = trial.report()
    return replace(report, notes=(*report.notes, *dict.fromkeys(notes)))


def blame(trial: Trial, key: str, x: Host, n: Host) -> None:
    """Say which element of a gradient is off, from what was found one by one, and what that looks like."""
    a = trial.gradients[key]
    index = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(a - n)), x.shape))
    off = int((np.abs(a - n) > 1e-5 * np.abs(n).max()).sum())
    if not off:
        trial.fail(f"the gradient for {key} {x.shape} is not the slope along a random direction", 0)
        return
    tried = (
        f"{off} of {x.size} elements are off" if x.size <= MOST_ELEMENTS else f"of {MOST_ELEMENTS} tried, {off} are off"
    )
    trial.fail(
        f"the gradient for {key} {x.shape} is wrong. Worst at {list(index)}: the pullback gives {a[index]:.8g}, "
        f"finite differences {n[index]:.8g}; {tried}",
        0,
        suspect(a, n, x, trial.y.shape) if x.size <= MOST_ELEMENTS else "",
    )


def one_by_one(
    trial: Trial, loss: Callable[[Any], Any], x: Host, a: Host, size: float, rtol: float, complex_step: bool
) -> tuple[Host, float, bool]:
    """The gradient by x, each element by a difference of its own; how far off `a` is, at the worst; and whether the
    function bends, so that for some element it may be any slope between the one-sided ones.

    Of a large x some elements are drawn, and the others taken for right.
    """
    n, worst, bends = a.copy(), 0.0, False
    drawn = trial.rng.permutation(x.size)[:MOST_ELEMENTS]
    for index in zip(*np.unravel_index(drawn, x.shape), strict=True) if x.ndim else ((),):
        v = np.zeros(x.shape)
        v[index] = 1.0
        slope = Slope(partial(along, loss, x, v), x, size, complex_step)
        n[index], error = slope.value, slope.error(float(a[index]), rtol)
        if error > 1 and slope.bends(float(a[index])):
            n[index], error = slope.nearest(float(a[index]))
            bends = True
        worst = max(worst, error)
    return n, worst, bends


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
        if not np.isfinite(self.value):
            return float("inf")
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

    def nearest(self, analytic: float) -> tuple[float, float]:
        """Of all slopes between the one-sided, the nearest to `analytic`, and its error, as of `error`."""
        low, high = sorted(self.sides(self.h))
        between = min(max(analytic, low), high)
        error = abs(analytic - between) / (1e-3 * max(abs(low), abs(high)) + self.noise + 1e-300)
        return (analytic if error <= 1 else between), error


def along(loss: Callable[[Any], Any], x: Array, v: Array, t: Any) -> Any:
    return loss(x + t * v)
