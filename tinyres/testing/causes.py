"""What a wrong gradient looks like, and what made it: the guesses of somebody who has seen many."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

CLOSE = 1e-4  # how well a guess must fit, of what there is to explain


def suspect(analytic: Values, numeric: Values, x: Values, output_shape: tuple[int, ...]) -> str:
    """The first guess that explains how `analytic` differs from `numeric`, or "".

    analytic, numeric: the gradient by x as the pullback gives it and by finite differences. x: the input.
    """
    return next((text for fits, text in guesses(analytic, numeric, x, output_shape) if fits), "")


def guesses(a: Values, n: Values, x: Values, output_shape: tuple[int, ...]) -> Iterator[tuple[bool, str]]:
    """Each guess: whether it fits, and what it says. From the most to the least telling."""

    def same(left: Values, right: Values) -> bool:
        return float(np.linalg.norm(left - right)) <= CLOSE * max(float(np.linalg.norm(right)), 1e-300)

    yield not a.any(), "zero everywhere: the gradient is not passed on, or a product with 0 is in the way"
    yield not n.any(), "it should be zero: the output does not depend on this input, or not to first order"

    ratio = float((a * n).sum() / (n * n).sum()) if n.any() else 0.0
    if ratio and same(a, ratio * n):
        yield abs(ratio + 1) < CLOSE, "the sign: every element is the negative of what it should be"
        yield abs(ratio - 2) < CLOSE, "a factor of 2: accumulated twice, or a skip added twice"
        yield abs(ratio - 0.5) < CLOSE, "a factor of 1/2: one of two contributions is missing"
        for name, sizes in (("input", x.shape), ("output", output_shape)):
            for axes in subsets(len(sizes)):
                count = int(np.prod([sizes[axis] for axis in axes]))
                where = f"the size {count} of the {name}'s {'axis' if len(axes) == 1 else 'axes'} {list(axes)}"
                yield abs(ratio / count - 1) < CLOSE, f"the ratio is {where}: is a mean missing, or summed for a mean?"
                yield abs(ratio * count - 1) < CLOSE, f"the ratio is 1 over {where}: is a mean taken for a sum?"
        yield True, f"every element is {ratio:.6g} times what it should be: a factor is wrong"

    for axes in itertools.permutations(range(a.ndim)):
        if axes != tuple(range(a.ndim)) and tuple(a.shape[axis] for axis in axes) == n.shape:
            yield same(a.transpose(axes), n), f"transposed: right with its axes in the order {list(axes)}"
    for flipped in subsets(a.ndim):
        text = f"flipped: right when reversed along {'axis' if len(flipped) == 1 else 'axes'} {list(flipped)}"
        yield same(np.flip(a, flipped), n), text

    wrong = np.abs(a - n) > CLOSE * np.abs(n).max()
    if wrong.any() and not wrong.all():
        yield (
            bool((wrong == (x < 0)).all()),
            "wrong only where the input is negative: is the mask missing, or inverted?",
        )
        yield bool((wrong == (x > 0)).all()), "wrong only where the input is positive"
    yield bool(wrong.any() and not a[wrong].any()), "zero where it is wrong: some elements are left out"

    for axes in reversed(list(subsets(a.ndim))):
        if np.prod([a.shape[axis] for axis in axes]) > 1:
            centred = (a - n) - (a - n).mean(axis=axes, keepdims=True)
            fits = np.linalg.norm(centred) <= CLOSE * np.linalg.norm(a - n)
            yield bool(fits), f"off by a constant along axes {list(axes)}: the term of a mean is missing there"


def subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Subsets of range(count) but the empty one, small ones first."""
    for size in range(1, count + 1):
        yield from itertools.combinations(range(count), size)
