"""Every operation of tinyres.functional, forward and backward, against PyTorch's in float64.

A row draws one configuration: the arrays that are differentiated, and the operation as either library spells it.
"""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest

import tinyres
from tinyres import functional as F

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")
T = torch.nn.functional
torch.set_num_threads(1)

CONFIGURATIONS = 50
ROWS = {}


def row(draw):
    """Register `draw(rng) -> (arrays, ours, theirs)` as the row of the operation it is named after."""
    ROWS[draw.__name__.rstrip("_")] = draw
    return draw


def shape(rng, ndim=None, least=1):
    """Sizes that differ from each other, so that no axis hides behind another."""
    ndim = int(rng.integers(1, 5)) if ndim is None else ndim
    return tuple(int(size) for size in rng.permutation(np.arange(least, least + 5))[:ndim])


def images(rng, n=None, c=None, h=None, w=None):
    """(N, C, H, W), channels-first, channels-last or strided in memory."""
    n, c = n or int(rng.integers(1, 5)), c or int(rng.integers(1, 6))
    h, w = h or int(rng.integers(5, 10)), w or int(rng.integers(5, 10))
    layout = rng.integers(3)
    if layout == 0:
        return rng.standard_normal((n, c, h, w))
    if layout == 1:
        return rng.standard_normal((n, h, w, c)).transpose(0, 3, 1, 2)
    return rng.standard_normal((n, c + 1, h, 2 * w))[:, 1:, ::-1, ::2]


def pair(rng, low, high):
    """A number, or one for either axis."""
    both = tuple(int(value) for value in rng.integers(low, high + 1, 2))
    return both[0] if rng.random() < 0.5 else both


def both_axes(value):
    return (value, value) if isinstance(value, int) else value


def choice(rng, *options):
    return options[rng.integers(len(options))]


def broadcasting(rng):
    """Two shapes that broadcast: axes of size 1 and missing leading axes on either side."""
    full = shape(rng, int(rng.integers(1, 5)), least=2)
    first, second = (tuple(1 if rng.random() < 0.3 else size for size in full) for _ in range(2))
    cut = int(rng.integers(0, len(full)))
    return (first[cut:], second) if rng.random() < 0.5 else (first, second[cut:])


# Arithmetic


def binary(rng, ours, theirs, operator):
    """Two tensors, or a tensor and a number on either side of the operator."""
    a, b = (rng.uniform(0.5, 2, size) * rng.choice([-1, 1], size) for size in broadcasting(rng))
    number = float(rng.uniform(0.5, 2))
    side = rng.integers(4)
    if side == 0:
        return [a], lambda x: operator(x, number), lambda x: operator(x, number)
    if side == 1:
        return [a], lambda x: operator(number, x), lambda x: operator(number, x)
    return [a, b], ours, theirs


@row
def add(rng):
    return binary(rng, F.add, torch.add, lambda a, b: a + b)


@row
def sub(rng):
    return binary(rng, F.sub, torch.sub, lambda a, b: a - b)


@row
def mul(rng):
    return binary(rng, F.mul, torch.mul, lambda a, b: a * b)


@row
def div(rng):
    return binary(rng, F.div, torch.div, lambda a, b: a / b)


@row
def pow_(rng):
    exponent = choice(rng, -2, -0.5, 0, 0.5, 1, 2, 3, 2.7)
    x = rng.uniform(0.3, 2, shape(rng))
    if exponent == int(exponent):
        x *= rng.choice([-1, 1], x.shape)
    return [x], lambda x: F.pow(x, exponent), lambda x: x**exponent


def unary(name, ours, theirs, low=-3.0, high=3.0):
    def draw(rng):
        return [rng.uniform(low, high, shape(rng))], ours, theirs

    ROWS[name] = draw


unary("neg", F.neg, torch.neg)
unary("abs", F.abs, torch.abs)
unary("exp", F.exp, torch.exp)
unary("log", F.log, torch.log, low=0.1)
unary("sqrt", F.sqrt, torch.sqrt, low=0.1)
unary("relu", F.relu, torch.relu)
unary("sigmoid", F.sigmoid, torch.sigmoid, low=-20, high=20)
unary("tanh", F.tanh, torch.tanh)


@row
def clamp(rng):
    low, high = sorted(rng.uniform(-2, 2, 2).tolist())
    limits = choice(rng, dict(min=low), dict(max=high), dict(min=low, max=high))
    return [rng.standard_normal(shape(rng))], lambda x: F.clamp(x, **limits), lambda x: torch.clamp(x, **limits)


@row
def matmul(rng):
    first, second = broadcasting(rng) if rng.random() < 0.7 else ((), ())
    m, k, n = shape(rng, 3)
    return [rng.standard_normal((*first, m, k)), rng.standard_normal((*second, k, n))], F.matmul, torch.matmul


# Reductions


def dims(rng, ndim):
    """An axis, several, or none named: those of the call, and those that PyTorch is given."""
    count = int(rng.integers(0, ndim + 1))
    axes = tuple(int(axis) - (ndim if rng.random() < 0.5 else 0) for axis in rng.permutation(ndim)[:count])
    return None if count == 0 else axes[0] if count == 1 else axes


def reduction(name, ours, theirs, **drawn):
    def draw(rng):
        x = rng.standard_normal(shape(rng, least=2))
        options = dict(dim=dims(rng, x.ndim), keepdim=bool(rng.integers(2)))
        options |= {key: choice(rng, *values) for key, values in drawn.items()}
        other = options | ({"dim": ()} if name == "amax" and options["dim"] is None else {})
        return [x], lambda x: ours(x, **options), lambda x: theirs(x, **other)

    ROWS[name] = draw


reduction("sum", F.sum, torch.sum)
reduction("mean", F.mean, torch.mean)
reduction("var", F.var, torch.var, correction=(0, 1))
reduction("amax", F.amax, torch.amax)


# Shape


@row
def reshape(rng):
    a, b, c = shape(rng, 3)
    new = choice(rng, (c, b, a), (-1,), (a * b, c), (b, -1), (1, a, -1, 1))
    x = rng.standard_normal((a, c, b)).swapaxes(1, 2)
    return [x], choice(rng, lambda x: F.reshape(x, new), lambda x: x.reshape(*new)), lambda x: x.reshape(new)


@row
def flatten(rng):
    x = rng.standard_normal(shape(rng, 4))
    start, end = sorted(int(axis) for axis in rng.integers(0, 4, 2))
    start, end = start - choice(rng, 0, 4), end - choice(rng, 0, 4)
    return [x], lambda x: F.flatten(x, start, end), lambda x: torch.flatten(x, start, end)


@row
def permute(rng):
    x = rng.standard_normal(shape(rng))
    order = tuple(int(axis) - choice(rng, 0, x.ndim) for axis in rng.permutation(x.ndim))
    ours = choice(rng, lambda x: F.permute(x, order), lambda x: x.permute(*order))
    return [x], ours, lambda x: torch.permute(x, order)


@row
def transpose(rng):
    x = rng.standard_normal(shape(rng, int(rng.integers(2, 5))))
    first, second = (int(axis) for axis in rng.integers(-x.ndim, x.ndim, 2))
    return [x], lambda x: F.transpose(x, first, second), lambda x: torch.transpose(x, first, second)


@row
def expand(rng):
    full = shape(rng, int(rng.integers(1, 5)), least=2)
    cut = int(rng.integers(0, len(full)))
    small = tuple(1 if rng.random() < 0.5 else size for size in full[cut:])
    return [rng.standard_normal(small)], lambda x: F.expand(x, *full), lambda x: x.expand(*full)


@row
def getitem(rng):
    x = rng.standard_normal((6, 5, 4))
    few, many = rng.integers(-5, 5, 3), rng.integers(-6, 6, (2, 9))  # `many` repeats
    index = choice(
        rng,
        2,
        (slice(None), -1),
        (slice(1, None, 2), ..., slice(None, 3)),
        (None, 1, slice(None), None),
        (slice(None), few),
        many,
        (many, rng.integers(0, 5, (2, 9))),
        (many[0], slice(1, 4), rng.integers(0, 4, 9)),  # an axis between two arrays
        (slice(0, 4), few, rng.integers(0, 4, 3)),
        rng.random(x.shape) < 0.3,
        (slice(None), np.arange(5) % 2 == 1),
        [0, 3, 3, 3],
        (0, few),
    )

    def in_torch(part):
        return torch.from_numpy(part) if isinstance(part, np.ndarray) else part

    other = tuple(map(in_torch, index)) if isinstance(index, tuple) else in_torch(index)
    return [x], choice(rng, lambda x: F.getitem(x, index), lambda x: x[index]), lambda x: x[other]


@row
def pad(rng):
    x = images(rng) if rng.random() < 0.5 else rng.standard_normal(shape(rng))
    widths = tuple(int(width) for width in rng.integers(0, 4, 2 * rng.integers(1, x.ndim + 1)))
    value = choice(rng, 0.0, -1.5)
    return [x], lambda x: F.pad(x, widths, value), lambda x: T.pad(x, widths, value=value)


@row
def cat(rng):
    sizes = shape(rng, int(rng.integers(1, 4)))
    dim = int(rng.integers(-len(sizes), len(sizes)))
    arrays = []
    for length in rng.integers(1, 4, rng.integers(1, 4)):
        own = list(sizes)
        own[dim] = length
        arrays.append(rng.standard_normal(own))
    return arrays, lambda *xs: F.cat(xs, dim), lambda *xs: torch.cat(xs, dim)


# Layers


@row
def linear(rng):
    i, o = shape(rng, 2)
    arrays = [rng.standard_normal((*shape(rng, int(rng.integers(0, 3))), i)), rng.standard_normal((o, i))]
    return arrays + ([rng.standard_normal(o)] if rng.random() < 0.7 else []), F.linear, T.linear


@row
def conv2d(rng):
    arrays, options = convolution(rng)
    return arrays, lambda *a: F.conv2d(*a, **options), lambda *a: T.conv2d(*a, **options)


@row
def conv2d_add_relu(rng):
    (x, *weights), options = convolution(rng)
    like = T.conv2d(*map(torch.from_numpy, (x.copy(), weights[0])), **options)
    skip = [rng.standard_normal(like.shape)] if rng.random() < 0.7 else []

    def ours(x, *rest):
        return F.conv2d_add_relu(x, rest[0] if skip else None, *rest[len(skip) :], **options)

    def theirs(x, *rest):
        y = T.conv2d(x, *rest[len(skip) :], **options)
        return torch.relu(y + rest[0] if skip else y)

    return [x, *skip, *weights], ours, theirs


def convolution(rng):
    """Input, weight and bias, if any, of a convolution; and its options."""
    groups = choice(rng, 1, 1, 2, 3)
    c, o = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kh, kw = (int(size) for size in rng.integers(1, 4, 2))
    stride, padding, dilation = pair(rng, 1, 3), pair(rng, 0, 4), pair(rng, 1, 2)
    arrays = [images(rng, c=c), rng.standard_normal((o, c // groups, kh, kw))]
    arrays += [rng.standard_normal(o)] if rng.random() < 0.5 else []
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return arrays, options


def norm_settings(rng):
    """Input, running statistics, affine parameters and settings of one batch norm."""
    x = (
        images(rng, n=int(rng.integers(2, 5)))
        if rng.random() < 0.7
        else rng.standard_normal((int(rng.integers(5, 9)), 4))
    )
    x = x * rng.uniform(0.5, 3) + rng.uniform(-5, 5)
    c = x.shape[1]
    running = [rng.standard_normal(c), rng.uniform(0.5, 2, c)]
    affine = [rng.standard_normal(c), rng.standard_normal(c)] if rng.random() < 0.8 else []
    settings = dict(training=bool(rng.integers(2)), momentum=float(rng.uniform(0, 1)), eps=choice(rng, 1e-5, 1e-2))
    return x, running, affine, settings


@row
def batch_norm(rng):
    x, running, affine, settings = norm_settings(rng)
    theirs = [torch.from_numpy(array.copy()) for array in running]

    def our_norm(x, *affine):
        y = F.batch_norm(x, *running, *affine, **settings)
        for own, other in zip(running, theirs, strict=True):  # theirs ran first
            assert error(own, other.numpy()) <= 1e-13
        return y

    return [x, *affine], our_norm, lambda x, *affine: T.batch_norm(x, *theirs, *affine, **settings)


@row
def batch_norm_add_relu(rng):
    x, running, affine, settings = norm_settings(rng)
    theirs = [torch.from_numpy(array.copy()) for array in running]
    if rng.random() < 0.7:
        return (
            [x, rng.standard_normal(x.shape), *affine],
            lambda x, skip, *affine: F.batch_norm_add_relu(x, skip, *running, *affine, **settings),
            lambda x, skip, *affine: torch.relu(T.batch_norm(x, *theirs, *affine, **settings) + skip),
        )
    return (
        [x, *affine],
        lambda x, *affine: F.batch_norm_add_relu(x, None, *running, *affine, **settings),
        lambda x, *affine: torch.relu(T.batch_norm(x, *theirs, *affine, **settings)),
    )


def pooling(rng):
    kernel = pair(rng, 1, 4)
    padding = tuple(int(rng.integers(0, size // 2 + 1)) for size in both_axes(kernel))
    return dict(kernel_size=kernel, stride=choice(rng, None, pair(rng, 1, 3)), padding=padding)


@row
def max_pool2d(rng):
    options = pooling(rng)
    return [images(rng)], lambda x: F.max_pool2d(x, **options), lambda x: T.max_pool2d(x, **options)


@row
def avg_pool2d(rng):
    options = pooling(rng) | dict(count_include_pad=bool(rng.integers(2)))
    return [images(rng)], lambda x: F.avg_pool2d(x, **options), lambda x: T.avg_pool2d(x, **options)


@row
def adaptive_avg_pool2d(rng):
    x = images(rng)
    size = choice(rng, 1, 3, 5, (int(rng.integers(1, x.shape[2] + 1)), int(rng.integers(1, x.shape[3] + 1))))
    return [x], lambda x: F.adaptive_avg_pool2d(x, size), lambda x: T.adaptive_avg_pool2d(x, size)


@row
def softmax(rng):
    x = 5 * rng.standard_normal(shape(rng, least=2)) + choice(rng, 0, 800)
    dim = int(rng.integers(-x.ndim, x.ndim))
    return [x], lambda x: F.softmax(x, dim), lambda x: T.softmax(x, dim)


@row
def log_softmax(rng):
    x = 5 * rng.standard_normal(shape(rng, least=2)) + choice(rng, 0, 800)
    dim = int(rng.integers(-x.ndim, x.ndim))
    return [x], lambda x: F.log_softmax(x, dim), lambda x: T.log_softmax(x, dim)


@row
def dropout(rng):
    x, p, seed = rng.standard_normal(shape(rng)), choice(rng, 0.0, 0.3, 0.8, 1.0), int(rng.integers(1000))
    training = bool(rng.random() < 0.8)
    mask = np.where(np.random.default_rng(seed).random(x.shape) < p, 0, 1 / (1 - p) if p < 1 else 0)

    def ours(x):
        tinyres.manual_seed(seed)
        return F.dropout(x, p, training)

    return [x], ours, lambda x: x * torch.from_numpy(mask) if training else x * 1


# Losses


@row
def cross_entropy(rng):
    n, c = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    extra = shape(rng, int(rng.integers(0, 3)))
    ignored = choice(rng, -100, -1, 1)  # a class can be ignored, too
    target = rng.integers(0, c, (n, *extra))
    target[rng.random(target.shape) < 0.2] = ignored
    target.flat[0] = 0  # not everything is ignored
    weight = rng.uniform(0.2, 2, c) if rng.random() < 0.5 else None
    options = dict(
        ignore_index=ignored,
        reduction=choice(rng, "mean", "sum", "none"),
        label_smoothing=choice(rng, 0.0, 0.1, 1.0),
    )
    labels, weights = torch.from_numpy(target), None if weight is None else torch.from_numpy(weight)
    return (
        [4 * rng.standard_normal((n, c, *extra)) + choice(rng, 0, 800)],
        lambda x: F.cross_entropy(x, target, weight, **options),
        lambda x: T.cross_entropy(x, labels, weights, **options),
    )


@row
def binary_cross_entropy_with_logits(rng):
    x = choice(rng, 3, 30) * rng.standard_normal(shape(rng))
    target = rng.random(x.shape) if rng.random() < 0.5 else rng.integers(0, 2, x.shape).astype(float)
    options = {key: rng.uniform(0.3, 3, x.shape[-1]) for key in ("weight", "pos_weight") if rng.random() < 0.5}
    other = {key: torch.from_numpy(value) for key, value in options.items()}
    labels, how = torch.from_numpy(target), choice(rng, "mean", "sum", "none")
    return (
        [x],
        lambda x: F.binary_cross_entropy_with_logits(x, target, reduction=how, **options),
        lambda x: T.binary_cross_entropy_with_logits(x, labels, reduction=how, **other),
    )


@row
def mse_loss(rng):
    sizes, how = shape(rng), choice(rng, "mean", "sum", "none")
    return (
        [rng.standard_normal(sizes), rng.standard_normal(sizes)],
        lambda x, t: F.mse_loss(x, t, reduction=how),
        lambda x, t: T.mse_loss(x, t, reduction=how),
    )


# The comparison


def error(ours, theirs):
    """max|a − b| / max|b|; absolute where b is all zero."""
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max(initial=0)
    return np.abs(ours - theirs).max(initial=0) / (scale if scale > 0 else 1)


def worst_error(arrays, ours, theirs, rng):
    """The largest relative error of the output and of every gradient."""
    xs = [torch.tensor(array.copy(), requires_grad=True) for array in arrays]
    expected = theirs(*xs)
    cotangent = rng.standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(cotangent))

    before = [array.copy() for array in arrays]
    tensors = [tinyres.Tensor(array, requires_grad=True) for array in arrays]
    y = ours(*tensors)
    assert y.dtype == np.float64
    y.backward(np.asarray(cotangent))
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old), "an operation wrote over its input"
    pairs = [(y.data, expected), *((tensor.grad.data, x.grad) for tensor, x in zip(tensors, xs, strict=True))]
    return max(error(np.asarray(a), b.detach().numpy()) for a, b in pairs)


@pytest.mark.parametrize("name", F.__all__)
def test_equals_torch(name):
    assert name in ROWS, f"tinyres.functional.{name} is compared with nothing: write it a row"
    for configuration in range(CONFIGURATIONS):
        rng = np.random.default_rng([zlib.crc32(name.encode()), configuration])
        worst = worst_error(*ROWS[name](rng), rng)
        assert worst <= 1e-10, f"configuration {configuration}: relative error {worst:.1e}"


def test_every_row_has_its_operation():
    assert set(ROWS) == set(F.__all__)


def test_adaptive_avg_pool2d_of_every_size():
    rng = np.random.default_rng(0)
    for size in itertools.product(range(1, 6), range(1, 8)):
        x = rng.standard_normal((2, 3, 5, 7))
        case = (
            [x],
            lambda x, size=size: F.adaptive_avg_pool2d(x, size),
            lambda x, size=size: T.adaptive_avg_pool2d(x, size),
        )
        assert worst_error(*case, rng) <= 1e-13, size


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "int64"])
def test_labels_of_any_integer_type(dtype):
    """More classes than the labels' type can count."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 100, 7).astype(dtype)
    labels = torch.from_numpy(target.astype(np.int64))
    case = [rng.standard_normal((7, 300))], lambda x: F.cross_entropy(x, target), lambda x: T.cross_entropy(x, labels)
    assert worst_error(*case, rng) <= 1e-13


# The fused kernel


@pytest.mark.parametrize("shape", [(4, 5, 7, 6), (8, 64, 4, 4), (3, 1, 5, 1), (37, 16, 32, 32)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_fused_kernel_equals_the_three_operations_to_the_bit(shape, training, residual):
    rng = np.random.default_rng(0)
    draw = lambda *size: rng.standard_normal(size).astype(np.float32)  # noqa: E731
    c = shape[1]
    x, skip, g = 3 * draw(*shape) + 1, draw(*shape), draw(*shape)
    running, weight, bias = [draw(c), 1 + draw(c) ** 2], draw(c), draw(c)

    def three(x, skip, *state):
        y = F.batch_norm(x, *state)
        return F.relu(y if skip is None else F.add(y, skip))

    def run(op):
        tensors = [tinyres.Tensor(array.copy(), requires_grad=True) for array in (x, skip, weight, bias)]
        own = [array.copy() for array in running]
        y = op(tensors[0], tensors[1] if residual else None, *own, *tensors[2:], training, 0.1, 1e-5)
        y.backward(g)
        return [y.data, *own, *(tensor.grad.data for tensor in tensors if tensor.grad is not None)]

    fused, separate = run(F.batch_norm_add_relu), run(three)
    assert len(fused) == len(separate) == (7 if residual else 6)
    for one, other in zip(fused, separate, strict=True):
        assert one.dtype == np.float32
        assert np.array_equal(one, other)


# Half precision


def half(*shape, rng, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float16)


HALF = {
    "conv2d": lambda rng: (
        [half(4, 8, 9, 7, rng=rng), half(5, 8, 3, 3, rng=rng, scale=0.1), half(5, rng=rng)],
        F.conv2d,
    ),
    "strided conv2d": lambda rng: (
        [half(4, 8, 9, 7, rng=rng), half(5, 8, 3, 3, rng=rng, scale=0.1)],
        lambda x, w: F.conv2d(x, w, stride=2, padding=1),
    ),
    "batch_norm": lambda rng: (
        [half(4, 8, 9, 7, rng=rng), half(8, rng=rng), half(8, rng=rng)],
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    ),
    "batch_norm_add_relu": lambda rng: (
        [half(4, 8, 9, 7, rng=rng), half(4, 8, 9, 7, rng=rng), half(8, rng=rng), half(8, rng=rng)],
        lambda x, skip, w, b: F.batch_norm_add_relu(x, skip, None, None, w, b, training=True),
    ),
    "relu": lambda rng: ([half(4, 8, 9, 7, rng=rng)], F.relu),
    "max_pool2d": lambda rng: ([half(4, 8, 9, 7, rng=rng)], lambda x: F.max_pool2d(x, 3, 2, 1)),
    "avg_pool2d": lambda rng: ([half(4, 8, 9, 7, rng=rng)], lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "adaptive_avg_pool2d": lambda rng: ([half(4, 8, 9, 7, rng=rng)], lambda x: F.adaptive_avg_pool2d(x, 1)),
    "linear": lambda rng: ([half(6, 20, rng=rng), half(7, 20, rng=rng, scale=0.2), half(7, rng=rng)], F.linear),
    "cross_entropy": lambda rng: ([half(6, 10, rng=rng)], lambda x: F.cross_entropy(x, np.arange(6))),
}


@pytest.mark.parametrize("name", HALF)
def test_half_precision_storage(name):
    """The same numbers in float16 and float64: the results differ by a few roundings to 11 bits."""
    rng = np.random.default_rng(0)
    arrays, op = HALF[name](rng)
    halves = [tinyres.Tensor(array, requires_grad=True) for array in arrays]
    doubles = [tinyres.Tensor(array.astype(np.float64), requires_grad=True) for array in arrays]
    y, exact = op(*halves), op(*doubles)
    cotangent = rng.standard_normal(y.shape).astype(np.float16)
    y.backward(cotangent)
    exact.backward(cotangent.astype(np.float64))
    pairs = [(y, exact), *((a.grad, b.grad) for a, b in zip(halves, doubles, strict=True))]
    for ours, truth in pairs:
        assert ours.dtype == np.float16
        assert error(ours.data.astype(np.float64), truth.data) <= 5e-3
