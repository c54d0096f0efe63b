"""Every kernel's pullback against finite differences, and wrong pullbacks that the comparison must catch."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_cases import BY_NAME, CASES
from numeric import check_gradients
from tinyres import kernels


def test_every_kernel_has_a_case():
    assert {case.name.split()[0] for case in CASES} == set(kernels.__all__) - {"gradients"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradient(case):
    check_gradients(case.kernel, case.arguments, case.wrt, **case.options)


# Ties are kinks, except along directions that keep them: then the first of the equal takes all, or all share.

TIES = np.array([1.0, 1.0, 0.5, 1.0, 2.0, 2.0, 2.0, -1.0] * 2).reshape(1, 1, 4, 4)


def test_gradient_of_tied_maxima():
    check_gradients(kernels.max_pool2d, [TIES, 3, 1], [0], along_input=True)
    check_gradients(kernels.amax, [TIES], [0], along_input=True)


def altered(kernel, change):
    """`kernel` with a wrong pullback: `change(gradients, dy, *arguments)` gives it."""

    def mutant(*arguments, **options):
        y, pullback = kernel(*arguments, **options)
        return y, lambda dy: change(kernels.gradients(pullback, dy), dy, *arguments)

    return mutant


def batch_norm_facts(x, weight, eps=1e-5):
    """(γ/s, x̂), shaped to broadcast."""
    mean, std = x.mean((0, 2, 3), keepdims=True), np.sqrt(x.var((0, 2, 3), keepdims=True) + eps)
    return weight[:, None, None] / std, (x - mean) / std


def constant_statistics(found, dy, x, mean, var, weight, *_):
    gamma, _ = batch_norm_facts(x, weight)
    return gamma * dy, *found[1:]


def without_the_means_term(found, dy, x, mean, var, weight, *_):
    gamma, normed = batch_norm_facts(x, weight)
    return gamma * (dy - normed * (dy * normed).mean((0, 2, 3), keepdims=True)), *found[1:]


def with_running_statistics(x, mean, var, weight, bias, training):
    _, pullback = kernels.batch_norm(x, mean.copy(), var.copy(), weight, bias, False)
    return kernels.batch_norm(x, mean, var, weight, bias, training)[0], pullback


def unflipped(found, dy, x, weight, *rest):
    _, wrong = kernels.conv2d(x, weight[:, :, ::-1, ::-1], *rest)
    return kernels.gradients(wrong, dy)[0], *found[1:]


def transposed(found, dy, x, weight, *rest):
    _, wrong = kernels.conv2d(x, weight.swapaxes(2, 3), *rest)
    return kernels.gradients(wrong, dy)[0], *found[1:]


def to_every_tie(found, dy, x, size, stride):
    y, _ = kernels.max_pool2d(x, size, stride)
    dx = np.zeros_like(x)
    for p, q in np.ndindex(*y.shape[2:]):
        window = (..., slice(p * stride, p * stride + size), slice(q * stride, q * stride + size))
        dx[window] += dy[..., p : p + 1, q : q + 1] * (x[window] == y[..., p : p + 1, q : q + 1])
    return dx


def added_twice(found, dy, *_):
    return found[0], 2 * found[1]


MUTANTS = {
    "batch norm returns zero dx": ("batch_norm training", lambda found, *_: (0 * found[0], *found[1:])),
    "statistics treated as constants": ("batch_norm training", constant_statistics),
    "the mean's term missing": ("batch_norm training", without_the_means_term),
    "batch norm's weight gradient not normalised": (
        "batch_norm training",
        lambda found, dy, x, *_: (*found[:3], (dy * x).sum((0, 2, 3)), found[4]),
    ),
    "unflipped kernel in dx": ("conv2d", unflipped),
    "kernel transposed in height and width": ("conv2d padding stride", transposed),
    "bias gradient misses the batch": ("conv2d", lambda found, dy, *_: (*found[:2], dy[0].sum((1, 2)))),
    "linear's bias gradient misses the batch": ("linear", lambda found, dy, *_: (*found[:2], dy[0])),
    "broadcast axis not summed": (
        "add broadcast",
        lambda found, dy, *_: (dy[0, :, :, :1], found[1]),
    ),
    "broadcast gradient left large": ("mul broadcast", lambda found, dy, x, other: (dy * other, found[1])),
    "rectifier passes where x < 0": ("relu", lambda found, dy, x: dy),
    "skip dropped": ("add", lambda found, *_: (found[0], 0 * found[1])),
    "skip has no gradient": ("add", lambda found, *_: (found[0], None)),
    "skip added twice": ("add", added_twice),
    "fused skip dropped": (
        "batch_norm_add_relu training",
        lambda found, *_: (found[0], 0 * found[1], *found[2:]),
    ),
    "fused skip not rectified": (
        "batch_norm_add_relu training",
        lambda found, dy, *_: (found[0], dy, *found[2:]),
    ),
    "average pool divides by the wrong count": (
        "avg_pool2d inside only",
        lambda found, dy, x, *_: kernels.gradients(kernels.avg_pool2d(x, 3, 2, 1, True)[1], dy),
    ),
    "mean not divided": ("mean axes", lambda found, dy, x: found[0] * 8),
    "repeated index overwrites": (
        "getitem repeated",
        lambda found, dy, x, index: np.stack([dy[1], 0 * dy[0], dy[3], 0 * dy[0]]),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_finite_differences_catch(name):
    case, change = MUTANTS[name]
    case = BY_NAME[case]
    mutant = altered(case.kernel, change)
    with pytest.raises(AssertionError):
        check_gradients(mutant, case.arguments, case.wrt, **case.options)


def test_finite_differences_catch_running_statistics_in_training():
    case = BY_NAME["batch_norm training"]
    with pytest.raises(AssertionError):
        check_gradients(with_running_statistics, case.arguments, case.wrt)


def test_finite_differences_catch_a_maximum_that_pays_every_tie():
    with pytest.raises(AssertionError):
        check_gradients(altered(kernels.max_pool2d, to_every_tie), [TIES, 3, 1], [0], along_input=True)
