"""One check under way: a subject, a cotangent drawn for it, and the identities tried so far."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from tinyres.backend import Array, device_of, to_device, to_host
from tinyres.testing.report import Report
from tinyres.testing.snippet import snippet
from tinyres.testing.subject import Arrays, Subject

Host = np.ndarray[Any, np.dtype[Any]]

RTOL = 1e-9  # how far two sides of an identity may be apart, relative to the larger
ROUNDING = 1e-13  # and relative to the sum of the sizes of the terms in them
MOST_OTHERS = 4  # failures that are listed after the first


class Trial:
    """A subject at work, and what was found out about it.

    Attributes:
        subject: what is tried. rng: a stream of the check's own, so that a cotangent is never the input by chance.
        y: the output at the subject's arrays. g: a random cotangent. gradients: by input, those that came back for g.
    """

    def __init__(
        self,
        check: Callable[..., Any],
        f: Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        seed: int,
        **settings: Any,
    ) -> None:
        self.check, self.subject = check.__name__, Subject.of(f, *args, **options)
        self.code: Callable[[], str] = lambda: snippet(check, f, args, options, seed=seed, **settings)
        self.rng = np.random.default_rng([seed, *self.check.encode()])
        self.error, self.failure, self.cause = 0.0, "", ""
        self.others: list[str] = []
        y, self.pullback = self.subject.run({})
        self.y, self.g = to_host(y).copy(), like(self.rng.standard_normal(y.shape), y)

    @cached_property
    def gradients(self) -> dict[str, Host]:
        return self.gradients_for(self.g)

    @property
    def size(self) -> float:
        """Of the largest number in any of the gradients: one that is nearly 0 is as inexact as the others."""
        return max((float(np.abs(gradient).max(initial=0)) for gradient in self.gradients.values()), default=0.0)

    def gradients_for(self, g: Array) -> dict[str, Host]:
        """The gradients by the inputs that have one, on the host. Those that do not fit their input fail."""
        return self.fitting(self.pullback(g.copy()))

    def at(self, arrays: Arrays, g: Array | None = None) -> tuple[Host, dict[str, Host]]:
        """Output and gradients (for the trial's own cotangent, or g) with some of the arrays replaced."""
        y, pullback = self.subject.run(arrays)
        return to_host(y), self.fitting(pullback((self.g if g is None else g).copy()))

    def value(self, arrays: Arrays) -> Host:
        """The output alone, with some of the arrays replaced."""
        return to_host(self.subject.run(arrays)[0])

    def fitting(self, found: dict[str, Array | None]) -> dict[str, Host]:
        gradients = {}
        for key, x in self.subject.inputs.items():
            gradient = found.get(key)
            if gradient is None:
                continue
            if gradient.shape == x.shape:
                gradients[key] = to_host(gradient)
            else:
                self.fail(f"the gradient for {key} has shape {gradient.shape}, expected {x.shape}", float("inf"))
        return gradients

    def equal(
        self,
        identity: str,
        left: Any,
        right: Any,
        sides: tuple[str, str],
        size: Any = 0.0,
        slack: float = 0.0,
        rtol: float = RTOL,
        cause: Callable[[], str] = str,
    ) -> bool:
        """Try one identity: two numbers, or two arrays element by element, equal up to rounding.

        sides: what the left and the right one are. size: of the terms that they are sums of, for the rounding.
        slack: how far they may be apart anyhow, where the identity itself was only tried. rtol: relative to the larger.
        cause: asked for a suspicion if they differ.
        """
        left, right = np.asarray(left), np.asarray(right)
        if left.shape != right.shape:
            self.fail(f"{identity}: {sides[0]} has shape {left.shape}, {sides[1]} {right.shape}", float("inf"))
            return False
        with np.errstate(invalid="ignore"):
            apart = np.abs(left - right)
            largest = np.maximum(np.abs(left), np.abs(right)).max(initial=0)
            error = apart / (largest + (ROUNDING * np.asarray(size) + slack) / (rtol or 1) + 1e-300)
        error = np.where(np.isfinite(error), error, np.where(same_bits(left, right), 0, np.inf))
        worst = float(error.max(initial=0))
        self.error = max(self.error, worst)
        if worst <= rtol:
            return True
        at = np.unravel_index(int(error.argmax()), error.shape)
        where = f"Worst at {[int(i) for i in at]}: " if left.ndim else ""
        count = f"; {int((error > rtol).sum())} of {left.size} elements are off" if left.size > 1 else ""
        message = f"{identity}. {where}{sides[0]} is {left[at]:.8g}, {sides[1]} {right[at]:.8g}{count}"
        self.fail(message, worst, "" if self.failure else cause())
        return False

    def same(self, identity: str, left: Any, right: Any, sides: tuple[str, str]) -> bool:
        """Try one identity that holds to the bit."""
        return self.equal(identity, to_host(left), to_host(right), sides, rtol=0.0)

    def fail(self, message: str, error: float = float("inf"), cause: str = "") -> None:
        """The first failure is told in full, further ones by their first words."""
        self.error = max(self.error, error)
        if self.failure:
            self.others.append(message.partition(". ")[0])
        else:
            self.failure, self.cause = message, cause

    def report(self, holds: str = "") -> Report:
        """What came of it. holds: what there is to say if nothing failed."""
        code = self.code() if self.failure else ""
        others = [f"this fails as well: {other}" for other in dict.fromkeys(self.others)]
        more = len(others) - MOST_OTHERS
        notes = (*others[:MOST_OTHERS], *([f"and {more} more"] if more > 0 else []))
        message = self.failure or holds
        return Report(self.check, self.subject.name, not self.failure, self.error, message, self.cause, notes, code)

    def does_not_apply(self, why: str) -> Report:
        """The report of a check that finds nothing to check; a failure met before goes first."""
        return self.report() if self.failure else Report(self.check, self.subject.name, False, 0, why, applies=False)


def like(values: Any, array: Array) -> Array:
    """Host values on the array's device."""
    return to_device(np.asarray(values), device_of(array))


def same_bits(left: Host, right: Host) -> Host:
    """Where two arrays are equal, a NaN being equal to a NaN."""
    return np.asarray((left == right) | ((left != left) & (right != right)))


def dot(left: Any, right: Any) -> tuple[float, float]:
    """⟨left, right⟩, and the size of its terms."""
    product = to_host(left) * to_host(right)
    return float(product.sum()), float(np.abs(product).sum())
