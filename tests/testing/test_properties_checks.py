"""The checks of properties, both ways: tinyres's own operations pass them, broken ones fail with a telling message."""

from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest

import tinyres
from kernel_cases import BY_NAME, CASES
from tinyres import Tensor, autograd, kernels, models, nn
from tinyres import functional as F
from tinyres.testing import (
    check_adjoint,
    check_backend_agreement,
    check_batch_norm,
    check_conservation,
    check_equivariant,
    check_linear,
    check_pure,
    check_residual,
)

RNG = np.random.default_rng(0)
X, W, B = RNG.standard_normal((2, 3)), RNG.standard_normal((4, 3)), RNG.standard_normal(4)
IMAGES = RNG.standard_normal((4, 3, 2, 5))
GAMMA, BETA = np.array([0.7, -1.3, 2.0]), np.array([0.1, -0.4, 0.2])
FILTERS = RNG.standard_normal((2, 3, 2, 3))


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

    return operation


def fails(report, *patterns):
    """The report is a failure whose message has all these in it."""
    assert not report.passed and report.applies
    for pattern in patterns:
        assert re.search(pattern, str(report)), str(report)
    with pytest.raises(AssertionError, match=f"{report.check} of .*: FAILED"):
        assert report


# check_linear


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_pullback_is_linear(row):
    assert check_linear(row.kernel, *row.arguments, **row.options)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda dx, dy: dx * np.abs(dy),
        lambda dx, dy: np.clip(dx, -0.1, 0.1),
        lambda dx, dy: dx + 0.01,
        lambda dx, dy: dx * (dy > 0),
    ],
    ids=["squared", "clipped", "constant added", "only where positive"],
)
def test_a_pullback_that_is_not_linear_fails(spoil):
    fails(
        check_linear(broken(kernels.tanh, spoil), X),
        r"the pullback is not linear in the cotangent: dx\(a·g \+ b·g′\) ≠ a·dx\(g\) \+ b·dx\(g′\), for x = input",
        r"Worst at \[\d, \d\]: the left side is \S+, the right side \S+; \d of 6 elements are off",
    )


def test_a_pullback_that_adds_up_over_its_calls_fails():
    total = np.zeros_like(X)

    def hoarder(x):
        def pullback(dy):
            total[...] += 2 * dy * x
            return total.copy()

        return x * x, pullback

    fails(check_linear(hoarder, X), "not linear")


def test_linear_needs_a_gradient():
    assert not check_linear(kernels.relu, np.array([1, 2])).applies


# check_adjoint

AFFINE = {
    "conv2d padding stride": "input, weight, bias",
    "conv2d groups": "input, weight, bias",
    "im2col": "x",
    "col2im": "columns",
    "linear": "input, weight, bias",
    "matmul batched": "input, other",
    "add broadcast": "input, other",
    "sub broadcast": "input, other",
    "mul broadcast": "input, other",
    "div broadcast": "input",
    "sum axes kept": "input",
    "mean axes": "input",
    "expand": "input",
    "getitem repeated": "input",
    "cat": "inputs0, inputs1, inputs2",
    "pad": "input",
    "dropout": "arguments0",
    "batch_norm training": "weight, bias",
    "batch_norm evaluation": "input, weight, bias",
    "avg_pool2d inside only": "input",
    "adaptive_avg_pool2d": "input",
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_operations_are_found_and_their_pullback_is_the_adjoint(name):
    row = BY_NAME[name]
    report = check_adjoint(row.kernel, *row.arguments, **row.options)
    assert report
    assert report.message == f"affine in {AFFINE[name]}"


@pytest.mark.parametrize("name", ["relu", "max_pool2d", "abs", "exp", "log", "sqrt", "cross_entropy", "softmax"])
def test_what_is_affine_in_nothing_has_no_adjoint_to_check(name):
    row = BY_NAME[name]
    report = check_adjoint(row.kernel, *row.arguments, **row.options)
    assert not report.applies
    assert report.message.endswith("is affine in no input")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "f",
    [
        kernels.relu,
        kernels.abs,
        kernels.tanh,
        lambda x: kernels.clamp(x, -2.0, 2.0),
        lambda x: kernels.relu(x - 100),
    ],
)
def test_few_values_are_enough_to_see_that_a_function_is_not_affine(f, seed):
    assert not check_adjoint(f, np.array([200.0, 0.1]), seed=seed).applies


ADJOINT = {
    "unflipped kernel": (
        lambda x, w: (kernels.conv2d(x, w)[0], lambda dy: (correlated(dy, w, x.shape), None)),
        (IMAGES, FILTERS),
        r"affine in u = x, so ⟨f\(u\) − f\(0\), g⟩ = ⟨u, du⟩ for any u",
    ),
    "flipped weight gradient": (
        broken(kernels.conv2d, lambda dw, dy: dw[:, :, ::-1], 1),
        (IMAGES, FILTERS),
        r"flipped: right when reversed along axis \[2\]",
    ),
    "bias gradient is a mean": (
        broken(kernels.linear, lambda db, dy: db / 2, 2),
        (X, W, B),
        r"a factor of 1/2",
    ),
    "average over the wrong count": (
        broken(kernels.mean, lambda dx, dy: 3 * dx),
        (X,),
        r"the ratio is the size 3 of the input's axis \[1\]",
    ),
    "transposed": (
        broken(kernels.linear, lambda dw, dy: dw.T, 1),
        (RNG.standard_normal((2, 4)), RNG.standard_normal((4, 4))),
        r"transposed: right with its axes in the order \[1, 0\]",
    ),
}


def correlated(dy, w, shape):
    """dx at stride 1 with the kernel not flipped."""
    kh, kw = w.shape[2:]
    wide = np.pad(dy, [(0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)])
    return kernels.conv2d(wide, w.swapaxes(0, 1))[0].reshape(shape)


@pytest.mark.parametrize("name", ADJOINT)
def test_a_pullback_that_is_not_the_adjoint_fails(name):
    f, args, pattern = ADJOINT[name]
    fails(check_adjoint(f, *args), pattern, r"for a random u it is \S+ ≠ \S+\. Worst at \[.*\]: du is \S+, ")


def test_adjoint_of_a_large_input_compares_the_sums_alone():
    x = np.random.default_rng(1).standard_normal(5000)
    fails(check_adjoint(broken(kernels.sum, lambda dx, dy: 2 * dx), x), r"⟨f\(u\) − f\(0\), g⟩ is \S+, ⟨u, du⟩ \S+")


def test_adjoint_says_when_the_named_input_is_not_affine():
    fails(check_adjoint(kernels.relu, X, wrt="input"), "relu is not affine in input")
    assert check_adjoint(kernels.batch_norm, IMAGES, None, None, GAMMA, BETA, True, wrt=("weight", "bias"))
    with pytest.raises(ValueError, match="there is no input 'x', expected one of input"):
        check_adjoint(kernels.relu, X, wrt="x")


def test_adjoint_says_when_a_named_input_has_no_gradient():
    fails(check_adjoint(lambda x, y: (x * y, lambda dy: (dy * y, None)), X, X, wrt="y"), "there is no gradient for y")


# check_equivariant

ORDER = [2, 0, 1]


def channels(array):
    return array[:, ORDER]


def vector(array):
    return array[ORDER]


def batch(array):
    return array[[3, 0, 2, 1]]


def shift(array):
    return np.roll(array, (1, 2), (2, 3))


def circular(x, w):
    """A convolution on a torus."""
    rows, columns = (np.arange(-1, size + 1) % size for size in x.shape[2:])
    y, pullback = kernels.conv2d(x[:, :, rows[:, None], columns], w)

    def back(dy):
        wide, dw, _ = kernels.gradients(pullback, dy)
        dx = np.zeros_like(x)
        np.add.at(dx, (slice(None), slice(None), rows[:, None], columns), wide)
        return dx, dw

    return y, back


TORUS = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((2, 3, 3, 3))
MOVES = {
    "batch through a convolution": (kernels.conv2d, (IMAGES, FILTERS), dict(move=batch)),
    "batch through a batch norm": (kernels.batch_norm, (IMAGES, None, None, GAMMA, BETA, True), dict(move=batch)),
    "batch through a network": (models.CifarResNet(8, width=0.25), (IMAGES,), dict(move=batch)),
    "channels through a batch norm": (
        kernels.batch_norm,
        (IMAGES, None, None, GAMMA, BETA, True),
        dict(move=dict(input=channels, weight=vector, bias=vector)),
    ),
    "input channels of a convolution": (
        kernels.conv2d,
        (IMAGES, FILTERS),
        dict(move=channels, wrt=("input", "weight"), move_output=lambda y: y),
    ),
    "shift": (circular, TORUS, dict(move=shift)),
    "labels": (
        kernels.cross_entropy,
        (RNG.standard_normal((4, 3)), np.array([0, 2, 1, 1])),
        dict(move=dict(input=batch, target=batch), move_output=lambda y: y),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_along_passes(name):
    f, args, settings = MOVES[name]
    assert check_equivariant(f, *args, **settings)


def mixed_up(dx, dy):
    """Right for every image but the first."""
    dx = dx.copy()
    dx[0] *= 2
    return dx


@pytest.mark.parametrize(
    ("name", "spoil", "at", "pattern"),
    [
        ("batch through a convolution", mixed_up, 0, "the gradient for input does not move along with its input"),
        ("batch through a convolution", lambda dw, dy: dw * dy[0].sum(), 1, "for weight does not stay as it was"),
        ("channels through a batch norm", mixed_up, 3, "the gradient for weight does not move along"),
        ("input channels of a convolution", lambda dw, dy: dw[:, :1] + 0 * dw, 1, "for weight does not move along"),
        ("shift", lambda dx, dy: dx * np.arange(5), 0, "for x does not move along"),
    ],
)
def test_a_gradient_that_does_not_move_along_fails(name, spoil, at, pattern):
    f, args, settings = MOVES[name]
    fails(
        check_equivariant(broken(f, spoil, at), *args, **settings),
        f"the output moves as it should, but .*{pattern}",
        r"Worst at \[.*\]: at moved inputs it is \S+, expected \S+",
    )


def test_an_output_that_does_not_move_along_fails():
    fails(
        check_equivariant(kernels.conv2d, *MOVES["shift"][1], move=shift), "the output does not move as the inputs do"
    )
    fails(
        check_equivariant(kernels.softmax, X, 0, move=lambda x: x[:, ORDER], move_output=lambda y: y), "does not move"
    )


def test_a_move_needs_an_input():
    with pytest.raises(ValueError, match="there is no input 'x', expected one of input"):
        check_equivariant(kernels.relu, X, move=dict(x=vector))


# check_conservation


def relu_net(*widths):
    layers = [nn.Linear(m, n, bias=False) for m, n in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


CONSERVED = {
    "relu": (kernels.relu, (X,), ["⟨x, dx⟩ = ⟨y, g⟩ for x = input"]),
    "max_pool2d": (kernels.max_pool2d, (IMAGES, 2), ["⟨x, dx⟩ = ⟨y, g⟩ for x = input", "Σdx = Σg for x = input"]),
    "avg_pool2d": (
        kernels.avg_pool2d,
        (RNG.standard_normal((2, 3, 4, 6)), 2),
        ["⟨x, dx⟩ = ⟨y, g⟩ for x = input"],
    ),
    "global pooling": (kernels.mean, (IMAGES, (2, 3), True), ["⟨x, dx⟩ = ⟨y, g⟩ for x = input", "Σdx = Σg"]),
    "conv2d": (
        kernels.conv2d,
        (IMAGES, FILTERS),
        ["⟨x, dx⟩ = ⟨y, g⟩ for x = input", "⟨x, dx⟩ = ⟨y, g⟩ for x = weight"],
    ),
    "batch_norm": (kernels.batch_norm, (IMAGES, None, None, None, None, True), ["Σdx = 0 for x = input"]),
    "softmax": (kernels.softmax, (X, 1), ["Σdx = 0 for x = input"]),
    "cross_entropy": (kernels.cross_entropy, (X, np.array([2, 0])), ["Σdx = 0 for x = input"]),
    "a deep ReLU net": (
        relu_net(3, 5, 4, 6, 2),
        (X,),
        [f"⟨x, dx⟩ = ⟨y, g⟩ for x = {name}" for name in ("input", "0.weight", "2.weight", "4.weight", "6.weight")],
    ),
}


@pytest.mark.parametrize("name", CONSERVED)
def test_what_is_conserved_is_found(name):
    f, args, laws = CONSERVED[name]
    report = check_conservation(f, *args)
    assert report
    assert all(law in report.message for law in laws), report.message


@pytest.mark.parametrize("name", ["sigmoid", "exp", "mse_loss", "pow square"])
def test_where_nothing_is_conserved_there_is_nothing_to_check(name):
    row = BY_NAME[name]
    assert not check_conservation(row.kernel, *row.arguments, **row.options).applies


@pytest.mark.parametrize(
    ("name", "spoil", "pattern"),
    [
        ("relu", lambda dx, dy: dy, r"relu scales with x = input, so ⟨x, dx⟩ = ⟨y, g⟩ for each sample"),
        ("relu", lambda dx, dy: np.roll(dx, 1, 0), r"for each sample\. Worst at \[\d\]: ⟨x, dx⟩ is \S+, ⟨y, g⟩ \S+"),
        ("avg_pool2d", lambda dx, dy: dx * 4 / 3, "avg_pool2d scales with x = input"),
        ("max_pool2d", lambda dx, dy: dx + 0.1, r"shifts with x = input, so Σdx = Σg"),
        ("batch_norm", lambda dx, dy: dx + 0.1, r"ignores a shift of x = input, so Σdx = 0\. Σdx is \S+, expected 0"),
        ("softmax", lambda dx, dy: dx + dy, r"ignores a shift of x = input, so Σdx = 0 for each sample"),
        ("cross_entropy", lambda dx, dy: dx[::-1] + X, r"ignores a shift of x = input, so Σdx = 0 for each sample"),
    ],
)
def test_what_is_not_conserved_fails(name, spoil, pattern):
    f, args, _ = CONSERVED[name]
    fails(check_conservation(broken(f, spoil), *args), pattern)


def test_a_wrong_weight_gradient_deep_in_a_relu_net_fails():
    net = relu_net(3, 5, 4, 2)
    halved = autograd.differentiable(broken(kernels.linear, lambda dw, dy: dw / 2, 1))
    net[2].forward = lambda x: halved(x, net[2].weight)
    fails(check_conservation(lambda x, w: halved(x, w), X, W), "scales with x = w")


# check_batch_norm


def textbook(x, weight, bias, eps=1e-5):
    """Batch norm by Tensors: the engine differentiates each step."""
    mean = x.mean((0, 2, 3), keepdim=True)
    centred = x - mean
    var = (centred * centred).mean((0, 2, 3), keepdim=True)
    return centred / (var + eps).sqrt() * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("f", "args", "options"),
    [
        (kernels.batch_norm, (IMAGES, None, None, GAMMA, BETA, True), {}),
        (kernels.batch_norm, (IMAGES, np.ones(3), np.ones(3), GAMMA, BETA, True, 0.3, 0.1), {}),
        (kernels.batch_norm, (IMAGES, None, None), dict(training=True, eps=1e-3)),
        (kernels.batch_norm, (IMAGES, None, None), dict(training=True, bias=BETA)),
        (kernels.batch_norm, (IMAGES.reshape(40, 3), None, None, GAMMA, None, True), {}),
        (kernels.batch_norm, (1e3 + IMAGES, None, None, GAMMA, BETA, True), {}),
        (F.batch_norm, (IMAGES, None, None, GAMMA, BETA, True), {}),
        (textbook, (IMAGES, GAMMA, BETA), {}),
        (lambda x: textbook(x, Tensor(np.ones(3)), Tensor(np.zeros(3))), (IMAGES,), {}),
        (nn.BatchNorm2d(3), (IMAGES,), {}),
        (nn.BatchNorm2d(3, eps=0.2), (IMAGES,), {}),
    ],
)
def test_batch_norms_pass(f, args, options):
    for seed in range(3):
        assert check_batch_norm(f, *args, seed=seed, **options)


def norm_by(dx_of, forward=None):
    """A batch norm with another formula for dx: dx_of(γ/s · g, x̂), or another forward pass."""

    def norm(x, weight, bias, eps=1e-5):
        axes, column = (0, 2, 3), (1, -1, 1, 1)
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        s = np.sqrt(var + eps)
        normed = (x - mean) / s
        y = normed * weight.reshape(column) + bias.reshape(column)

        def pullback(dy):
            g = dy * weight.reshape(column) / s
            return dx_of(g, normed), (dy * normed).sum(axes), dy.sum(axes)

        return (y if forward is None else forward(x, normed, weight.reshape(column), bias.reshape(column))), pullback

    return norm


def average(values):
    return values.mean((0, 2, 3), keepdims=True)


def right(g, normed):
    return g - average(g) - normed * average(g * normed)


NORMS = {
    "zero": (norm_by(lambda g, normed: 0 * g), r"Σdx·x̂ = \(γ/s\)·\(ε/s²\)·Σg·x̂ for each channel"),
    "statistics taken for constants": (norm_by(lambda g, normed: g), "Σdx = 0 for each channel"),
    "the mean's term is missing": (
        norm_by(lambda g, normed: g - normed * average(g * normed)),
        "Σdx = 0 for each channel",
    ),
    "the variance's term is missing": (norm_by(lambda g, normed: g - average(g)), "Σdx·x̂ ="),
    "the unbiased variance": (
        norm_by(lambda g, normed: g - average(g) - normed * (g * normed).sum((0, 2, 3), keepdims=True) / 39),
        "Σdx·x̂ =",
    ),
    "a factor": (norm_by(lambda g, normed: 1.01 * right(g, normed)), "Σdx·x̂ ="),
    "statistics of one image": (
        norm_by(lambda g, normed: g - g.mean((2, 3), keepdims=True) - normed * average(g * normed)),
        "Σdx·x̂ =|the Jacobian is symmetric",
    ),
    "sign of γ lost": (norm_by(lambda g, normed: np.abs(g)), "Σdx = 0"),
    "not centred": (norm_by(right, lambda x, normed, weight, bias: x * weight + bias), "the mean of y is β"),
    "γ forgotten": (norm_by(right, lambda x, normed, weight, bias: normed + bias), r"the variance of y is γ²σ²/s²"),
    "γ and β gradients": (
        broken(norm_by(right), lambda dw, dy: 2 * dw, 1),
        r"⟨y, g⟩ = γ·dγ \+ β·dβ for each channel",
    ),
}


def test_the_formula_that_the_mistakes_are_made_in_passes():
    assert check_batch_norm(norm_by(right), IMAGES, GAMMA, BETA)


@pytest.mark.parametrize("name", NORMS)
def test_broken_batch_norms_fail(name):
    f, pattern = NORMS[name]
    for seed in range(3):
        fails(check_batch_norm(f, IMAGES, GAMMA, BETA, seed=seed), pattern)


def test_running_statistics_in_training_fail():
    args = (IMAGES, np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]), GAMMA, BETA, False)
    fails(check_batch_norm(kernels.batch_norm, *args), "the mean of y is β, for each channel")


def test_epsilon_outside_the_root_fails():
    def norm(x, eps=0.1):
        s = x.std((0, 2, 3), keepdims=True) + eps
        return (x - average(x)) / s, lambda dy: dy / s

    fails(check_batch_norm(norm, IMAGES), "the variance of y is γ²σ²/s²", "scale and shift do not matter")


def test_a_batch_norm_without_dx_fails():
    f = broken(kernels.batch_norm, lambda dx, dy: None)
    fails(check_batch_norm(f, IMAGES, None, None, GAMMA, BETA, True), "there is no gradient for input")


# check_residual


@pytest.mark.parametrize(
    "block",
    [
        nn.BasicBlock(3, 3),
        nn.BasicBlock(3, 3).eval(),
        nn.BasicBlock(3, 4, 2),
        nn.BasicBlock(3, 4, 2, "A"),
        nn.Bottleneck(12, 3),
        nn.Bottleneck(3, 2),
        nn.PreActBlock(3, 3),
        nn.PreActBlock(3, 4, 2, "B"),
    ],
    ids=repr,
)
def test_residual_blocks_pass(block):
    x = np.random.default_rng(2).standard_normal((3, 12 if isinstance(block, nn.Bottleneck) else 3, 4, 5))
    x = x[:, : block.conv1.weight.shape[1]]
    for seed in range(3):
        assert check_residual(block, x, seed=seed)
    assert not block.add._forward_hooks


def test_every_block_of_a_network_is_checked():
    assert check_residual(models.CifarResNet(8, width=0.25), IMAGES)


def test_a_network_without_an_addition_has_nothing_to_check():
    report = check_residual(nn.BasicBlock(3, 3, residual=False), IMAGES)
    assert not report.applies
    assert report.message == "it has no nn.Add: say by branch= which module ends the branch"


class Mine(nn.Module):
    """y = F(x) + x without an nn.Add, and with `add` in its place."""

    def __init__(self, add=lambda branch, skip: branch + skip):
        self.first, self.second, self.how = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), add

    def forward(self, x):
        return self.how(self.second(self.first(x).relu()), x)


def test_a_block_of_ones_own():
    assert check_residual(Mine(), IMAGES, branch="second")
    assert check_residual(Mine(lambda branch, skip: (branch + skip).relu()), IMAGES, branch="second")
    with pytest.raises(ValueError, match="branch is 'third', expected one of first, second"):
        check_residual(Mine(), IMAGES, branch="third")


ADDITIONS = {
    "dropped skip": (lambda branch, skip: branch, "the block is not the rectifier|the block is not the identity"),
    "skip twice": (lambda branch, skip: branch + skip + skip, "the block is not the identity"),
    "detached skip": (lambda branch, skip: branch + skip.detach(), "dx is not that of the identity"),
    "scaled skip": (lambda branch, skip: branch + 0.9 * skip, "the block is not the identity"),
    "no rectifier's mask": (
        lambda branch, skip: autograd.differentiable(broken(kernels.relu, lambda dx, dy: dy))(branch + skip),
        "dx is not that of the rectifier",
    ),
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_broken_blocks_of_ones_own_fail(name):
    add, pattern = ADDITIONS[name]
    fails(check_residual(Mine(add), IMAGES, branch="second"), f"with zeros in second, {pattern}")


class Sum(nn.Add):
    def __init__(self, how):
        self.how = how

    def forward(self, branch, skip):
        return self.how(branch, skip)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("dropped skip", "the addition add is not branch . skip"),
        ("skip twice", "the addition add is not branch . skip"),
        ("detached skip", "suspected cause: the skip's gradient is left out"),
    ],
)
def test_broken_additions_fail(name, pattern):
    block = nn.PreActBlock(3, 3)
    block.add = Sum(ADDITIONS[name][0])
    fails(check_residual(block, IMAGES), pattern)


FUSED = {
    "the skip's gradient is left out": lambda dx, dy, d: (dx, 0 * d),
    "the skip's gradient is added twice": lambda dx, dy, d: (dx, 2 * d),
    "the branch's gradient is left out": lambda dx, dy, d: (0 * dx, d),
    "the branch's gradient is added twice": lambda dx, dy, d: (2 * dx, d),
}


@pytest.mark.parametrize("cause", FUSED)
def test_a_broken_fused_kernel_fails_and_the_cause_is_named(monkeypatch, cause):
    def fused(*args):
        y, pullback = kernels.batch_norm_add_relu(*args)

        def wrong(dy):
            parts = list(pullback(dy))
            if parts[1] is not None:
                parts[:2] = FUSED[cause](parts[0], dy, parts[1])
            return tuple(parts)

        return y, wrong

    fused = functools.wraps(kernels.batch_norm_add_relu)(fused)
    monkeypatch.setattr(F, "batch_norm_add_relu", autograd.differentiable(fused))
    fails(
        check_residual(nn.BasicBlock(3, 3), IMAGES),
        r"is not the sum of that through the branch and that through the skip of the addition add",
        f"suspected cause: {cause}",
    )


def test_an_addition_that_is_never_run_fails():
    class Forgetful(nn.PreActBlock):
        def forward(self, x):
            return self.conv1(self.bn1(x).relu())

    fails(check_residual(Forgetful(3, 3), IMAGES), "the addition add is never run: is the skip left out?")


# check_pure


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_kernel_is_pure(row):
    assert check_pure(row.kernel, *row.arguments, **row.options)


# Of all cases; but cat takes a list, the seeded dropout is no operation, and no loss has a gradient for its weights.
OPERATIONS = [row for row in CASES if hasattr(F, row.kernel.__name__) and not re.search("cat|weighted", row.name)]


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_every_operation_is_pure(row):
    assert check_pure(getattr(F, row.kernel.__name__), *row.arguments, **row.options)


def test_modules_are_pure():
    for module in (nn.BatchNorm2d(3), nn.BasicBlock(3, 3), nn.Dropout(), models.CifarResNet(8, width=0.25)):
        assert check_pure(module, IMAGES)


def kernel(forward, backward):
    """y = forward(x, w), and backward(x, w, y, dy) gives both gradients."""

    def operation(x, w):
        y = forward(x, w)
        return y, lambda dy: backward(x, w, y, dy)

    return operation


def product(x, w):
    return x * w


def slopes(x, w, y, dy):
    return dy * w, dy * x


def into(array, values):
    array[...] = values
    return array


def remembered():
    """A kernel that keeps its gradient and hands it out each time."""

    def operation(x, w):
        y, kept = x * w, {}

        def pullback(dy):
            if "dx" not in kept:
                kept["dx"] = dy * w
            return kept["dx"], dy * x

        return y, pullback

    return operation


def forgetful():
    """A kernel that gives something else at each call."""
    count = iter(range(1000))
    return kernel(lambda x, w: x * w + 1e-9 * next(count), slopes)


def moody():
    """A kernel whose pullback gives something else at each call."""
    count = iter(range(1, 1000))
    return kernel(product, lambda x, w, y, dy: (dy * w, dy * x * (1 + 1e-9 * next(count))))


def by_strides(x, w):
    """Reads memory in the order it lies, whatever the strides say."""
    flat = np.lib.stride_tricks.as_strided(x, (x.size,), (x.itemsize,)) if x.flags.c_contiguous else x.ravel("K")
    return flat.reshape(x.shape) * w, lambda dy: (dy * w, dy * x)


IMPURE = {
    "an argument is changed forward": (
        kernel(lambda x, w: into(x, x * w).copy(), slopes),
        r"the forward pass changes its argument x\. Worst at \[\d, \d\]: now it is \S+, before it was \S+",
    ),
    "an argument is changed backward": (
        kernel(product, lambda x, w, y, dy: (dy * w, into(x, dy * x).copy())),
        "the backward pass changes its argument x",
    ),
    "the cotangent is changed": (
        kernel(product, lambda x, w, y, dy: (dy * w, into(dy, dy * x).copy())),
        "the backward pass changes its cotangent",
    ),
    "the output is changed": (
        kernel(product, lambda x, w, y, dy: (dy * w, into(y, dy * x).copy())),
        "the backward pass changes the output",
    ),
    "the output is another each time": (forgetful(), "the same call gives another output"),
    "the gradient is another each time": (moody(), "pullback gives another gradient for w|again, gives another"),
    "the gradient is kept": (remembered(), "the same pullback, called again, gives another gradient for x"),
    "the output's memory is handed out": (
        kernel(product, lambda x, w, y, dy: (y, dy * x)),
        "the pullback hands out the memory of the output|backward pass changes the output",
    ),
    "an argument's memory is handed out": (
        kernel(lambda x, w: x.sum() + w.sum(), lambda x, w, y, dy: (x, np.ones_like(w) * dy)),
        "the same pullback, called again, gives another gradient for x",
    ),
    "float64 inside": (
        kernel(lambda x, w: x.astype(np.float64) * w, slopes),
        "of float32 arrays, the output is float64, expected float32",
    ),
    "float64 on the way back": (
        kernel(product, lambda x, w, y, dy: (dy * w.astype(np.float64), dy * x)),
        "of float32 arrays, the gradient for x is float64, expected float32",
    ),
    "memory order": (by_strides, "with arrays in Fortran order, the output is another"),
    "an error for other layouts": (
        kernel(lambda x, w: contiguous_only(x) * w, slopes),
        r"with arrays in Fortran order, there is an error\. ValueError: the array is not contiguous",
    ),
    "a repeated cotangent": (
        kernel(product, lambda x, w, y, dy: (dy * w, contiguous(dy) * x)),
        "with the cotangent repeated along axis 0 by a stride of 0, the gradient for w is another",
    ),
}


def contiguous_only(x):
    if not x.flags.c_contiguous:
        raise ValueError("the array is not contiguous")
    return x


def contiguous(dy):
    """Right unless rows are repeated."""
    return dy if dy.strides[0] else 2 * dy


@pytest.mark.parametrize("name", IMPURE)
def test_impure_kernels_fail(name):
    f, pattern = IMPURE[name]
    fails(check_pure(f, RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))), pattern)


def test_running_statistics_may_change_and_nothing_else():
    def norm(x, running_mean, mean):
        running_mean += x.mean(0)
        mean += x.mean(0)
        return x - x.mean(0), lambda dy: dy - dy.mean(0)

    report = check_pure(norm, X, np.zeros(3), np.zeros(3))
    fails(report, "the forward pass changes its argument mean")
    assert "running_mean" not in str(report).partition("to see it again")[0]


def test_gradients_of_tensors_that_share_memory_fail(monkeypatch):
    """An engine that keeps what the pullback returned, without a copy: of an addition, one array for both."""

    def accumulate(tensor, gradient):
        tensor.grad = Tensor(gradient)

    assert check_pure(F.add, X, X)
    monkeypatch.setattr(autograd, "_accumulate", accumulate)
    report = check_pure(F.add, X, X)
    fails(report, "the gradient for input shares memory with the gradient for other: writing to one changes both")
    assert any("the gradient for input shares memory with the cotangent" in note for note in report.notes)


def test_a_kernel_may_return_one_array_twice():
    assert check_pure(lambda x, y: (x + y, lambda dy: (dy, dy)), X, X)


# check_backend_agreement


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_every_kernel_agrees_with_itself_on_the_strict_fake(cupy, row):
    assert check_backend_agreement(row.kernel, *row.arguments, **row.options)


def test_operations_and_modules_agree(cupy):
    assert check_backend_agreement(F.conv2d, IMAGES, Tensor(FILTERS))
    assert check_backend_agreement(nn.BasicBlock(3, 3), IMAGES)
    assert check_backend_agreement(kernels.relu, cupy.asarray(X))


@pytest.mark.parametrize(
    ("there", "pattern"),
    [
        (lambda y: y * 1.001, "the output is another on cuda.*on cuda it is .*, on cpu it"),
        (lambda y: y.get(), "the output is on cpu, expected cuda"),
    ],
)
def test_another_result_on_the_gpu_fails(cupy, there, pattern):
    def twice(x):
        y = 2 * x
        return (y if isinstance(x, np.ndarray) else there(y)), lambda dy: 2 * dy

    fails(check_backend_agreement(twice, X), pattern)


def test_another_gradient_on_the_gpu_fails(cupy):
    def twice(x, gradient=None):
        return 2 * x, lambda dy: 2 * dy if isinstance(x, np.ndarray) else None

    fails(check_backend_agreement(twice, X), "the gradient for x is given on one device only")


def test_without_a_gpu_it_says_so():
    if tinyres.backend.importlib.util.find_spec("cupy"):
        pytest.skip("CuPy is installed")
    with pytest.raises(ModuleNotFoundError, match="needs CuPy"):
        check_backend_agreement(kernels.relu, X)


# All of them


@pytest.mark.parametrize("check", [check_linear, check_adjoint, check_conservation, check_pure, check_batch_norm])
def test_seeds_repeat_a_check(check):
    args = (IMAGES, None, None, GAMMA, BETA, True)
    once, again, other = (check(kernels.batch_norm, *args, seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert check in (check_pure, check_batch_norm) or once.error != other.error


def test_a_gradient_of_another_shape_fails_in_each():
    def add(x, b):
        return x + b, lambda dy: (dy, dy)

    for check in (check_linear, check_adjoint, check_conservation, check_pure):
        fails(check(add, X, np.array([1.0, 2.0, 3.0])), r"the gradient for b has shape \(2, 3\), expected \(3,\)")


def test_further_failures_are_listed_but_not_without_end():
    def nothing_right(*inputs):
        return sum(inputs), lambda dy: tuple(dy * np.abs(dy) for _ in inputs)

    report = check_linear(nothing_right, *[X] * 8)
    assert "for x = inputs0" in report.message
    assert len(report.notes) == 5
    assert "for x = inputs1" in report.notes[0] and report.notes[-1] == "and 3 more"
