"""check_vjp both ways: right gradients pass, and of wrong ones it says which element, how far off, and why."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import numpy as np
import pytest

import tinyres
from kernel_cases import BY_NAME, CASES
from tinyres import Tensor, kernels, nn
from tinyres import functional as F
from tinyres.backend import get_rng_state
from tinyres.testing import check_vjp

RNG = np.random.default_rng(0)
X, W, B = RNG.standard_normal((2, 3)), RNG.standard_normal((4, 3)), RNG.standard_normal(4)
IMAGES = RNG.standard_normal((4, 3, 2, 5))


def broken(kernel, spoil, at=0):
    """The kernel with one of its gradients spoiled: spoil(gradient, cotangent)."""

    @functools.wraps(kernel)
    def operation(*args, **options):
        y, pullback = kernel(*args, **options)

        def wrong(dy):
            parts = list(kernels.gradients(pullback, dy))
            parts[at] = spoil(parts[at], dy)
            return tuple(parts)

        return y, wrong

    operation.__qualname__ = "broken.<locals>.operation"  # there is nothing to import
    return operation


def zero_dx(dx, dy):
    return 0 * dx


def squared_twice(x):
    """A mistake that a snippet can import: 4x in the place of 2x."""
    return x * x, lambda dy: 4 * x * dy


# What is right passes


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_kernel_passes(row):
    report = check_vjp(row.kernel, *row.arguments, **row.options)
    assert report
    assert report.applies and report.error < 1e-6


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (F.linear, (X, W, B)),
        (lambda x, w: F.linear(x, w).relu().sum(), (X, W)),
        (lambda x: x.transpose(2, 3).flatten(1), (IMAGES,)),  # NumPy's transpose would take other arguments
        (lambda x: x, (X,)),
        (lambda x, labels: F.cross_entropy(x, labels), (X, np.array([0, 2]))),
        (lambda x, labels: F.cross_entropy(x, labels.detach()), (X, Tensor(np.array([0, 2])))),
        (lambda x: (x + x * x) / 2 - x[:, ::-1], (X,)),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else value.__name__,
)
def test_functions_of_tensors_pass(f, args):
    assert check_vjp(f, *args)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(3, 4, 2),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3).eval(),
        nn.Dropout(0.3),
        nn.BasicBlock(3, 3),
        nn.Bottleneck(3, 2, stride=2),
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(20, 3)),
    ],
    ids=repr,
)
def test_modules_pass(module):
    state = {key: value.copy() for key, value in module.state_dict().items()}
    assert check_vjp(module, IMAGES)
    assert all(np.array_equal(value, state[key]) for key, value in module.state_dict().items())
    assert all(parameter.grad is None and parameter.dtype == np.float32 for parameter in module.parameters())


def test_float32_and_tensors_are_taken_to_float64():
    assert check_vjp(kernels.linear, X.astype(np.float32), Tensor(W), Tensor(B.astype(np.float32))).error < 1e-6


def test_arrays_of_the_gpu_stay_there(cupy):
    assert check_vjp(kernels.linear, cupy.asarray(X), cupy.asarray(W), cupy.asarray(B))
    assert not check_vjp(broken(kernels.relu, lambda dx, dy: 2 * dx), cupy.asarray(X)).passed


def test_nothing_that_is_given_changes():
    state, mean, var = get_rng_state(), np.zeros(3), np.ones(3)
    assert check_vjp(kernels.batch_norm, IMAGES, mean, var, training=True)
    assert check_vjp(kernels.dropout, X)
    assert not mean.any() and (var == 1).all()
    assert get_rng_state() == state


# What is wrong does not, and the message says what


@pytest.mark.parametrize("row", [row for row in CASES if row.name != "pow zero"], ids=lambda row: row.name)
def test_every_kernel_fails_with_a_gradient_that_is_slightly_too_large(row):
    report = check_vjp(broken(row.kernel, lambda dx, dy: 1.001 * dx, row.wrt[0]), *row.arguments, **row.options)
    assert not report.passed and report.applies
    with pytest.raises(AssertionError, match="FAILED"):
        assert report


def off_at_one_place(dx, dy):
    dx = dx.copy()
    dx[1, 2] += 0.5
    return dx


def test_the_message_names_the_worst_element_and_both_values():
    report = check_vjp(broken(kernels.sigmoid, off_at_one_place), X)
    name, shape, index, came, expected, off = re.fullmatch(
        r"the gradient for (\w+) (\(.*\)) is wrong. Worst at (\[.*\]): the pullback gives (\S+), "
        r"finite differences (\S+); (\d+) of 6 elements are off",
        report.message,
    ).groups()
    assert (name, shape, index, off) == ("input", "(2, 3)", "[1, 2]", "1")
    assert float(came) - float(expected) == pytest.approx(0.5)
    assert report.error > 0.01


def test_every_wrong_input_is_named():
    report = check_vjp(broken(broken(kernels.linear, zero_dx, 1), zero_dx, 2), X, W, B)
    assert report.message.startswith("the gradient for weight (4, 3) is wrong")
    assert report.notes == ("this fails as well: the gradient for bias (4,) is wrong",)


def test_large_inputs_are_searched_in_part():
    x = np.random.default_rng(1).standard_normal(5000)
    report = check_vjp(broken(kernels.tanh, lambda dx, dy: 1.1 * dx), x)
    assert re.match(
        r"the gradient for input \(5000,\) is wrong. Worst at .*; of 2048 tried, \d{4} are off", report.message
    )


def test_a_needle_in_a_haystack_is_noticed_though_not_found():
    def needle(dx, dy):
        dx = dx.copy()
        dx[17] += 1
        return dx

    report = check_vjp(broken(kernels.tanh, needle), np.random.default_rng(1).standard_normal(30_000))
    assert report.message == "the gradient for input (30000,) is not the slope along a random direction"


def without_mean(dx, dy):
    """Batch norm's gradient without the term that makes it sum to 0."""
    return dx + np.arange(1.0, 4.0)[:, None, None]


CAUSES = {
    "zero everywhere": (broken(kernels.tanh, lambda dx, dy: 0 * dx), X),
    "it should be zero": (lambda x: (np.ones(3), lambda dy: np.ones_like(x)), X),
    "the sign": (broken(kernels.tanh, lambda dx, dy: -dx), X),
    "a factor of 2": (squared_twice, X),
    "a factor of 1/2": (broken(kernels.tanh, lambda dx, dy: dx / 2), X),
    r"the ratio is the size 6 of the input's axes \[0, 1\]: is a mean missing": (
        broken(kernels.mean, lambda dx, dy: 6 * dx),
        X,
    ),
    r"the ratio is the size 3 of the input's axis \[1\]": (broken(kernels.tanh, lambda dx, dy: 3 * dx), X),
    r"the ratio is 1 over the size 3 of the input's axis \[1\]: is a mean taken for a sum": (
        broken(kernels.tanh, lambda dx, dy: dx / 3),
        X,
    ),
    "every element is 1.7 times what it should be": (broken(kernels.tanh, lambda dx, dy: 1.7 * dx), X),
    r"transposed: right with its axes in the order \[1, 0\]": (
        broken(kernels.tanh, lambda dx, dy: dx.T),
        np.random.default_rng(3).standard_normal((3, 3)),
    ),
    r"flipped: right when reversed along axis \[1\]": (broken(kernels.tanh, lambda dx, dy: dx[:, ::-1]), X),
    "wrong only where the input is negative: is the mask missing": (
        broken(kernels.relu, lambda dx, dy: dy),
        X,
    ),
    "wrong only where the input is positive": (broken(kernels.relu, lambda dx, dy: dx * (1 + 0.1 * X)), X),
    "zero where it is wrong: some elements are left out": (
        broken(kernels.tanh, lambda dx, dy: dx * (np.arange(3) > 0)),
        X,
    ),
    r"off by a constant along axes \[0, 2, 3\]: the term of a mean is missing": (
        broken(kernels.tanh, without_mean),
        IMAGES,
    ),
    r"off by a constant along axes \[0, 1\]": (broken(kernels.softmax, lambda dx, dy: dx + 0.3), X, 1),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_likely_causes(cause):
    f, *args = CAUSES[cause]
    report = check_vjp(f, *args)
    assert not report.passed
    assert re.match(cause, report.cause), report.cause
    assert f"suspected cause: {report.cause}" in str(report)


def test_a_mistake_like_no_other_has_no_cause():
    assert check_vjp(broken(kernels.tanh, lambda dx, dy: dx + np.sin(7 * X + 1)), X).cause == ""


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_gradient_that_is_not_finite_fails(value, shown):
    def spoil(dx, dy):
        dx = dx.copy()
        dx[1, 0] = value
        return dx

    report = check_vjp(broken(kernels.tanh, spoil), X)
    assert not report.passed
    assert report.message == f"the gradient for input (2, 3) is {shown} at [1, 0]"


def test_an_output_that_is_not_finite_fails():
    with np.errstate(all="ignore"):
        report = check_vjp(kernels.log, np.array([1.0, 0.0]))
    assert report.message == "the output is not finite here, so it has no slope: choose other inputs"


def test_a_gradient_of_another_shape_fails():
    """It might broadcast, and pass."""
    report = check_vjp(lambda x, b: (x + b, lambda dy: (dy, dy)), X, np.array([1.0, 2.0, 3.0]))
    assert report.message == "the gradient for b has shape (2, 3), expected (3,)"


def test_nothing_to_check_does_not_pass():
    report = check_vjp(kernels.relu, np.array([1, 2]))
    assert not report.passed and not report.applies
    assert str(report) == "check_vjp of relu: does not apply\nno input of it has a gradient"
    with pytest.raises(AssertionError, match="does not apply"):
        assert report


def test_inputs_without_a_gradient_are_named():
    row = BY_NAME["cross_entropy weighted"]
    assert check_vjp(row.kernel, *row.arguments, **row.options).notes == (
        "no gradient comes back for weight, which is taken for constant",
    )


@pytest.mark.parametrize("at", [0, 4])
def test_an_argument_that_is_left_out_does_not_shift_the_gradients(at):
    """β without γ: the pullback's gradients are in the order of the parameters, not of what was given."""

    def norm(input, running_mean=None, running_var=None, weight=None, bias=None, training=True):
        y, pullback = kernels.batch_norm(input, running_mean, running_var, weight, bias, training)

        def wrong(dy):
            parts = list(kernels.gradients(pullback, dy))
            parts[at] = 2 * parts[at]
            return tuple(parts)

        return y, wrong

    report = check_vjp(norm, IMAGES, bias=B[:3])
    assert f"the gradient for {('input', '', '', '', 'bias')[at]} " in report.message


def test_arrays_in_a_tuple_of_arguments():
    assert not check_vjp(broken(kernels.cat, lambda dx, dy: 2 * dx, 1), X, W).passed
    report = check_vjp(lambda *inputs: (inputs[0] * inputs[1], lambda dy: 2 * dy * inputs[1]), X, 0.4)
    assert "the gradient for inputs0" in report.message


# Modules


class Forgetful(nn.Module):
    """A scale by which no gradient flows, for its array is taken out of the engine."""

    def __init__(self):
        self.scale = nn.Parameter(np.array([1.0, 2.0, 3.0], np.float32))

    def forward(self, x):
        return x * Tensor(self.scale.data)


def test_a_parameter_that_gets_no_gradient_fails():
    report = check_vjp(Forgetful(), X)
    assert report.message.startswith("the gradient for scale (3,) is wrong")
    assert report.cause.startswith("zero everywhere")


def test_a_frozen_parameter_needs_none():
    module = Forgetful()
    module.scale.requires_grad = False
    assert check_vjp(module, X)


def test_modules_take_no_options():
    with pytest.raises(TypeError, match="ReLU: a module takes no options, but dim came"):
        check_vjp(nn.ReLU(), X, dim=1)


@pytest.mark.parametrize("result", [(1, 2), [1], None])
def test_what_returns_no_tensor_is_refused(result):
    with pytest.raises(TypeError, match="expected one Tensor, or an array and its pullback"):
        check_vjp(lambda x: result, X)


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(TypeError, match="linear: missing a required argument: 'weight'"):
        check_vjp(kernels.linear, X)


# Cotangents


def test_a_constant_cotangent_accepts_a_batch_norm_that_passes_nothing_back():
    """As `loss = y.sum()` makes it, in the tests of more than one framework. A random one refuses it."""
    norm = broken(kernels.batch_norm, zero_dx)
    args = (IMAGES, None, None, None, None, True)
    assert check_vjp(norm, *args, cotangent=1.0)
    report = check_vjp(norm, *args)
    assert not report.passed
    assert report.cause.startswith("zero everywhere")


def test_the_cotangent_is_not_the_input_drawn_with_the_same_seed():
    """Of x itself, batch norm passes as little back as of a constant."""
    norm = broken(kernels.batch_norm, zero_dx)
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((4, 3, 2, 5))
        assert not check_vjp(norm, x, None, None, training=True, seed=seed).passed


def test_seeds():
    once, again, other = (check_vjp(kernels.tanh, X, seed=seed).error for seed in (1, 1, 2))
    assert once == again != other


def test_more_directions_look_harder():
    """Of a gradient wrong in a single element, each direction sees a share."""
    calls = []

    def counted(x):
        calls.append(x)
        return kernels.tanh(x)

    check_vjp(counted, X, directions=1)
    few = len(calls)
    check_vjp(counted, X, directions=7)
    assert len(calls) - few == few + 2 * 6


def test_tolerance():
    f = broken(kernels.tanh, lambda dx, dy: dx * (1 + 1e-5))
    assert not check_vjp(f, X).passed
    assert check_vjp(f, X, rtol=1e-4)


# Kinks


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (kernels.relu, [0.0, 1.0, -1.0]),
        (lambda x: (np.maximum(x, 0), lambda dy: dy * (x >= 0)), [0.0, 1.0, -1.0]),
        (lambda x: (np.abs(x), lambda dy: dy * np.where(x < 0, -1, 1)), [0.0, 2.0]),
        (kernels.relu, [1e-7, -1e-7, 1.0]),
        (lambda x: kernels.clamp(x, -1.0, 1.0), [1.0, -1.0, 0.5]),
        (lambda x: (np.max(x), lambda dy: dy * np.array([0.25, 0.75, 0])), [2.0, 2.0, 1.0]),
        (lambda x: kernels.max_pool2d(x, 2), [[[[3.0, 1.0], [3.0, 3.0]]]]),
    ],
)
def test_at_a_kink_any_slope_between_the_sides_will_do(f, x):
    reports = [check_vjp(f, np.array(x), seed=seed) for seed in range(5)]
    assert all(reports)
    assert any("the function bends within" in note for report in reports for note in report.notes)


@pytest.mark.parametrize("slope", [1.5, -0.5])
def test_at_a_kink_other_slopes_fail(slope):
    def relu(x):
        return np.maximum(x, 0), lambda dy: dy * np.where(x == 0, slope, x > 0)

    assert not check_vjp(relu, np.zeros(3)).passed


def test_a_kink_hides_no_mistake_elsewhere():
    f = broken(kernels.relu, lambda dx, dy: dy)  # passes the gradient at negative x, too
    report = check_vjp(f, np.array([0.0, -1.0, 2.0, -0.3]))
    assert "2 of 4 elements are off" in report.message


@pytest.mark.parametrize("seed", range(10))
def test_a_kink_that_only_a_step_of_all_elements_reaches(seed):
    def crease(x):
        y, pullback = kernels.abs(x.sum() - 5e-6)
        return y, lambda dy: np.broadcast_to(pullback(dy), x.shape)

    x = np.tile([1.0, -1.0], 50)
    assert check_vjp(crease, x, seed=seed)
    assert not check_vjp(broken(crease, lambda dx, dy: 1.01 * dx), x, seed=seed).passed


def test_many_kinks_at_once_in_a_large_input():
    x = np.random.default_rng(0).standard_normal((3, 1000)) * ([1] * 300 + [0] * 700)
    report = check_vjp(kernels.relu, x)
    assert report
    assert re.fullmatch("the function bends .* of input, 2048 of whose 3000 elements were tried: .*", *report.notes)
    assert not check_vjp(broken(kernels.relu, lambda dx, dy: 1.01 * dx), x).passed


def test_what_is_merely_steep_does_not_count_as_a_kink():
    def steep(x):
        y = np.exp(30 * x)
        return y, lambda dy: 30.5 * y * dy

    report = check_vjp(steep, np.array([0.3, -0.2]))
    assert not report.passed and not any("bends" in note for note in report.notes)


# The complex step


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (kernels.tanh, (X,)),
        (kernels.exp, (X,)),
        (kernels.mul, (X, W[:2])),
        (kernels.matmul, (X, W.T)),
        (lambda x: kernels.pow(x, 3), (X,)),
    ],
)
def test_a_complex_step_is_exact(f, args):
    report = check_vjp(f, *args, complex_step=True, rtol=1e-12)
    assert report
    assert report.error < 1e-13


def test_a_complex_step_sees_what_differences_do_not():
    f = broken(kernels.tanh, lambda dx, dy: dx * (1 + 1e-9))
    assert check_vjp(f, X)
    assert not check_vjp(f, X, complex_step=True, rtol=1e-11).passed


def test_a_complex_step_needs_a_kernel():
    with pytest.raises(TypeError, match="complex_step takes a kernel, which may be given complex arrays; tanh is none"):
        check_vjp(F.tanh, X, complex_step=True)


# The code that shows a failure again


def test_the_snippet_shows_the_same_failure():
    report = check_vjp(squared_twice, X, seed=3, directions=2)
    assert "seed=3" in report.snippet and "directions=2" in report.snippet and "rtol" not in report.snippet
    with pytest.raises(AssertionError) as failure:
        exec(report.snippet, {})
    assert str(failure.value) == str(report)


def test_the_snippet_is_a_program(tmp_path):
    (tmp_path / "mine.py").write_text("def identity(x, pair):\n    return x * 1, lambda dy: 2 * dy\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import mine
    finally:
        sys.path.remove(str(tmp_path))
    x = np.array([[0.1, 1 / 3], [1e-17, -2.5e30]], np.float32)
    report = check_vjp(mine.identity, Tensor(x), pair=(float("inf"), slice(1, None)))
    result = subprocess.run([sys.executable, "-c", report.snippet], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "AssertionError: check_vjp of identity: FAILED" in result.stderr
    assert report.message in result.stderr


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: (x, lambda dy: 2 * dy), X),  # nameless
        (squared_twice, np.random.default_rng(0).standard_normal((9, 9))),  # too large to print
        (nn.Sequential(Forgetful(), nn.ReLU()), X),  # its repr has many lines
    ],
    ids=["nameless", "large", "module"],
)
def test_what_a_snippet_cannot_write_is_an_ellipsis(f, x):
    report = check_vjp(f, x)
    assert "..." in report.snippet
    compile(report.snippet, "snippet", "exec")


def test_a_pass_needs_no_snippet():
    assert check_vjp(kernels.tanh, X).snippet == ""


def test_no_gradients_within_no_grad():
    with tinyres.no_grad():
        assert not check_vjp(F.tanh, X).applies
