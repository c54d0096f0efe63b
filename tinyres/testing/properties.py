"""Identities that tie a backward pass to its forward pass: no step size, and no kink to guard.

What the forward pass does, exactly, the backward pass must echo. If the output is linear in an input, the pullback is
the adjoint map; if moving the input only moves the output, the gradient moves along; if the output scales with the
input, or ignores a shift, something is conserved on the way back. Each check first makes sure, by trying, that the
forward pass has the symmetry: that is how the first three can be asked of any function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyres.backend import Array, to_host
from tinyres.testing.causes import suspect
from tinyres.testing.report import Report
from tinyres.testing.trial import ROUNDING, RTOL, Host, Trial, dot, like
from tinyres.testing.vjp import MOST_ELEMENTS

Move = Callable[[Array], Array]
Names = str | tuple[str, ...] | None


def check_linear(f: Callable[..., Any], *args: Any, seed: int = 0, **options: Any) -> Report:
    """Every pullback is a linear map: for a·g + b·g′ it gives a times what it gives for g, plus b times that for g′.

    f, args, options: as for `check_vjp`, here and in all checks. Finds cotangents that are changed, squared, clipped
    or remembered from one call to the next.
    """
    trial = Trial(check_linear, f, args, options, seed)
    a, b = trial.rng.uniform(0.5, 2, 2) * (1, -1)
    other = like(trial.rng.standard_normal(trial.y.shape), trial.g)
    second, both = trial.gradients_for(other), trial.gradients_for(a * trial.g + b * other)
    for key, first in trial.gradients.items():
        trial.equal(
            f"the pullback is not linear in the cotangent: dx(a·g + b·g′) ≠ a·dx(g) + b·dx(g′), for x = {key} "
            f"with a = {a:.4g}, b = {b:.4g}",
            both[key],
            a * first + b * second[key],
            ("the left side", "the right side"),
            size=trial.size,
        )
    return trial.report() if trial.gradients else trial.does_not_apply("no input of it has a gradient")


def check_adjoint(f: Callable[..., Any], *args: Any, wrt: Names = None, seed: int = 0, **options: Any) -> Report:
    """Where `f` is linear in an input, but for a constant, ⟨f(u) − f(0), g⟩ = ⟨u, dx⟩ for every u and g.

    This holds a linear backward pass to the last digit: convolution by x and by w, batch norm by γ and β, average
    pooling, padding, sums and broadcasting. u is drawn at random; an input of at most 2048 elements is then tried
    element by element, to say where the gradient is wrong.

    wrt: the input's name, or several, each on its own. None means all those in which `f` proves to be affine; if
    there is none, the report does not apply.
    """
    trial = Trial(check_adjoint, f, args, options, seed, wrt=wrt)
    names = chosen(trial, wrt)
    affine = [key for key in names if is_affine(trial, key)]
    for key in set(names) - set(affine) if wrt else ():
        trial.fail(f"{trial.subject.name} is not affine in {key}: f(u + v) − f(v) ≠ f(u) − f(0)")
    for key in affine:
        x, gradient = trial.subject.inputs[key], trial.gradients[key]
        constant = trial.value({key: like(np.zeros(x.shape), x)})

        def forward(u: Host, key: str = key, constant: Host = constant, x: Array = x) -> tuple[float, float]:
            return dot(trial.value({key: like(u, x)}) - constant, trial.g)

        u = trial.rng.standard_normal(x.shape)
        (left, size), (right, size_of_right) = forward(u), dot(u, gradient)
        # Affine up to RTOL was seen; and a difference from f(0) is as inexact as that is.
        slack = RTOL * (size + size_of_right) + ROUNDING * dot(constant, trial.g)[1]
        identity = f"{trial.subject.name} is affine in u = {key}, so ⟨f(u) − f(0), g⟩ = ⟨u, du⟩ for any u"
        if abs(left - right) <= slack or x.size > MOST_ELEMENTS:
            trial.equal(identity, left, right, ("⟨f(u) − f(0), g⟩", "⟨u, du⟩"), slack=slack)
            continue
        expected = np.array([forward(unit)[0] for unit in units(x.shape)]).reshape(x.shape)
        trial.equal(
            f"{identity}; for a random u it is {left:.8g} ≠ {right:.8g}",
            gradient,
            expected,
            ("du", "⟨f(u) − f(0), g⟩ for a u with a single 1"),
            slack=slack,
            cause=partial(suspect, gradient, expected, to_host(x), trial.y.shape),
        )
    if not affine:
        return trial.does_not_apply(f"{trial.subject.name} is affine in no input")
    return trial.report(f"affine in {', '.join(affine)}")


def check_equivariant(
    f: Callable[..., Any],
    *args: Any,
    move: Move | Mapping[str, Move],
    move_output: Move | None = None,
    wrt: Names = None,
    seed: int = 0,
    **options: Any,
) -> Report:
    """Where f(move(x)) = move_output(f(x)), the gradient moves along: that at move(x) for move_output(g) is move(dx).

    Batches permuted, channels permuted, images shifted in a circle: whatever mixes up axes or images is found.

    Args:
        move: a permutation of the elements of an array (any orthogonal map will do), applied to the inputs named in
            `wrt`, the first one if None; or a mapping from the names of inputs to one each. Other gradients stay.
        move_output: what that does to the output; what it does to the first of these inputs if None.
    """
    trial = Trial(check_equivariant, f, args, options, seed, move=move, move_output=move_output, wrt=wrt)
    arrays = trial.subject.arrays
    if not isinstance(move, Mapping):
        move = dict.fromkeys((wrt,) if isinstance(wrt, str) else wrt or tuple(arrays)[:1], move)
    known(move, arrays)
    if move_output is None:
        move_output = next(iter(move.values()))
    y, gradients = trial.at({key: moved(arrays[key]) for key, moved in move.items()}, move_output(trial.g))
    sides = "at moved inputs it", "expected"
    if trial.equal("the output does not move as the inputs do", y, to_host(move_output(trial.y)), sides):
        for key, gradient in trial.gradients.items():
            there = move[key](gradient) if key in move else gradient
            how = "move along with its input" if key in move else "stay as it was"
            trial.equal(
                f"the output moves as it should, but the gradient for {key} does not {how}",
                gradients[key],
                to_host(there),
                sides,
                size=trial.size,
            )
    if not trial.gradients:
        return trial.does_not_apply("no input of it has a gradient")
    return trial.report(f"{', '.join(move)} moved")


def check_conservation(f: Callable[..., Any], *args: Any, wrt: Names = None, seed: int = 0, **options: Any) -> Report:
    """What the output does when an input is scaled or shifted, its gradient must add up to:

    * f(t·x) = t·f(x) for t > 0 means ⟨x, dx⟩ = ⟨y, g⟩ (Euler): rectifiers, poolings, and each weight of a ReLU
      network without bias and norm, however deep;
    * f(x + c) = f(x) + c means Σdx = Σg: average pooling that covers every pixel;
    * f(x + c) = f(x) means Σdx = 0: batch norm, softmax, cross-entropy.

    Where they hold for each sample (index of the first axis) on its own, they are asked of each on its own.

    wrt: the input's name, or several, each on its own; all if None. If none has any of these symmetries, the report
    does not apply.
    """
    trial = Trial(check_conservation, f, args, options, seed, wrt=wrt)
    g, conserved = to_host(trial.g), []
    for key in chosen(trial, wrt):
        x, dx = to_host(trial.subject.inputs[key]), trial.gradients[key]
        for symmetry in SYMMETRIES:
            each = has(trial, symmetry, key, x, each=True)
            if not (each or has(trial, symmetry, key, x, each=False)):
                continue
            conserved.append(f"{symmetry.law} for x = {key}")
            terms = symmetry.left(x, dx), 0 * dx if symmetry.right is None else symmetry.right(trial.y, g)
            left, right = (part.reshape(len(x), -1).sum(1) if each else np.asarray(part.sum()) for part in terms)
            trial.equal(
                f"{trial.subject.name} {symmetry.text} x = {key}, so {symmetry.law}{' for each sample' * each}",
                left,
                right,
                symmetry.sides,
                size=sum(np.abs(part).sum() for part in terms),
                slack=RTOL
                * np.abs(trial.y).max(initial=0)
                * np.abs(g).sum(),  # the symmetry was seen to this precision
            )
    if not conserved:
        return trial.does_not_apply("nothing is conserved: it answers to no scaling and no shift")
    return trial.report("; ".join(conserved))


class Symmetry(NamedTuple):
    """What an input may go through, what that does to the output, and the two sums that are then equal."""

    text: str
    law: str
    sides: tuple[str, str]
    change: Callable[[Host, Host], Host]  # of x by a factor or constant t
    echo: Callable[[Host, Host], Host] | None  # of y by the same t; None if y stays
    left: Callable[[Host, Host], Host]  # of x and dx
    right: Callable[[Host, Host], Host] | None  # of y and g; None if it is 0


SYMMETRIES = (
    Symmetry(
        *("scales with", "⟨x, dx⟩ = ⟨y, g⟩", ("⟨x, dx⟩", "⟨y, g⟩")),
        *(np.multiply, np.multiply, np.multiply, np.multiply),
    ),
    Symmetry("shifts with", "Σdx = Σg", ("Σdx", "Σg"), np.add, np.add, lambda x, dx: dx, lambda y, g: g),
    Symmetry("ignores a shift of", "Σdx = 0", ("Σdx", "expected"), np.add, None, lambda x, dx: dx, None),
)


def has(trial: Trial, symmetry: Symmetry, key: str, x: Host, each: bool) -> bool:
    """Whether the forward pass has the symmetry: with a t for each sample, or one for all."""
    samples = x.shape[:1] if each else (1,)
    if each and (samples in ((), (1,)) or (symmetry.echo and trial.y.shape[:1] != samples)):
        return False
    t = trial.rng.uniform(0.5, 2, samples)
    y = attempt(trial, {key: symmetry.change(x, spread(t, x))})
    expected = symmetry.echo(trial.y, spread(t, trial.y)) if symmetry.echo else trial.y
    return y is not None and close(y, expected)


def spread(t: Host, array: Host) -> Host:
    """One number for each index of the array's first axis (or one for all), to multiply or add it with."""
    return t.reshape(-1, *[1] * (array.ndim - 1)) if array.ndim else t[0]


def is_affine(trial: Trial, key: str) -> bool:
    """Whether a step u changes the output by as much from wherever it is taken: from 0, from x, back from 0, and from
    somewhere far off, where a limit would show."""
    x = to_host(trial.subject.inputs[key])
    u, far = trial.rng.standard_normal((2, *x.shape)) * np.reshape([1, 100], (2, *[1] * x.ndim))
    steps = []
    for start in (0 * x, x, -u, far):
        before, after = attempt(trial, {key: start}), attempt(trial, {key: start + u})
        if before is None or after is None:
            return False
        steps.append((after - before, np.abs(after) + np.abs(before)))
    first, size = steps[0]
    return all(close(step, first, size + other) for step, other in steps[1:])


def units(shape: tuple[int, ...]) -> Iterator[Host]:
    """Arrays of zeros with a single 1, one for each element."""
    for index in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[index] = 1
        yield unit


def attempt(trial: Trial, changed: dict[str, Host]) -> Host | None:
    """The output with other values for some inputs, or None where it is not defined for them."""
    arrays = {key: like(value, trial.subject.arrays[key]) for key, value in changed.items()}
    try:
        with np.errstate(all="ignore"):
            y = trial.value(arrays)
    except (ArithmeticError, ValueError):
        return None
    return y if np.isfinite(y).all() else None


def close(left: Any, right: Any, size: Any = 0.0) -> bool:
    """Equal up to rounding."""
    largest = np.maximum(np.abs(left), np.abs(right)).max(initial=0)
    return bool((np.abs(left - right) <= RTOL * largest + ROUNDING * size).all())


def chosen(trial: Trial, wrt: Names) -> tuple[str, ...]:
    """The inputs to check: those named, or all that have a gradient."""
    if wrt is None:
        return tuple(trial.gradients)
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    known(names, trial.subject.inputs)
    for key in set(names) - set(trial.gradients):
        trial.fail(f"there is no gradient for {key}")
    return tuple(key for key in names if key in trial.gradients)


def known(names: Iterable[str], among: Iterable[str]) -> None:
    """Refuse a name that no input has."""
    for name in set(names) - set(among):
        raise ValueError(f"there is no input {name!r}, expected one of {', '.join(among)}")
