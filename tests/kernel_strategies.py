"""For every kernel, a Hypothesis strategy of calls of it; and the kernel and the operation that take such a call.

Where `kernel_cases` has a few fixed rows for each kernel, these draw shapes, layouts and options without end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinyres
from kernel_cases import seeded_dropout
from tinyres import functional as F
from tinyres import kernels
from tinyres.kernels.windows import Window
from tinyres.testing.strategies import Case, bn_cases, conv_cases, layouts, normal, pool_cases, seeds, shapes

# Made once: to make a strategy takes longer than to draw from it.
ANY, WITH_AXES, FEW, SMALL = shapes(), shapes(1), shapes(max_dims=2), shapes(1, 3)
TO_BROADCAST, LEAD = shapes(max_dims=3), shapes(max_dims=2, max_side=3)
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])


def call(draw, shapes, *rest, positive=(), **options):
    """A call with one standard normal array of each shape (None stays None), then `rest`.

    positive: the positions whose values are made at least 0.5.
    """
    names = ["contiguous" if shape is None else draw(layouts(shape)) for shape in shapes]
    seed = draw(seeds())
    rng = np.random.default_rng(seed)
    args = [None if shape is None else normal(rng, shape, name) for shape, name in zip(shapes, names, strict=True)]
    args = [np.asarray(np.abs(value) + 0.5) if i in positive else value for i, value in enumerate(args)]
    return Case(seed, (*args, *rest), options, tuple(names))


@st.composite
def unary(draw, *rest, positive=()):
    """One array, then a choice from each of `rest`."""
    return call(draw, [draw(ANY)], *(draw(value) for value in rest), positive=positive)


def ones_among(draw, shape):
    """The shape, some of its sizes made 1."""
    return tuple(1 if draw(st.booleans()) else size for size in shape)


@st.composite
def binary(draw, positive=()):
    """Two arrays that broadcast: axes of size 1, axes left out."""
    shape = draw(TO_BROADCAST)
    other = ones_among(draw, shape)[draw(st.integers(0, len(shape))) :]
    return call(draw, [ones_among(draw, shape), other], positive=positive)


@st.composite
def matmuls(draw):
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    lead = draw(LEAD)
    other = ones_among(draw, lead)[draw(st.integers(0, len(lead))) :]
    return call(draw, [(*lead, m, k), (*other, k, n)])


@st.composite
def linears(draw):
    i, o = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return call(draw, [(*draw(FEW), i), (o, i), (o,) if draw(st.booleans()) else None])


@st.composite
def reductions(draw, correction=False):
    shape = draw(WITH_AXES)
    first, second = sorted(draw(st.integers(0, len(shape) - 1)) for _ in range(2))
    axes = [tuple(range(len(shape))), (first,), tuple({second - len(shape), first - len(shape)})][
        draw(st.integers(0, 2))
    ]
    dim = None if len(axes) == len(shape) else axes[0] if len(axes) == 1 else axes
    options = dict(dim=dim, keepdim=draw(st.booleans()))
    if correction:
        options["correction"] = int(np.prod([shape[axis] for axis in axes]) > 1)
    return call(draw, [shape], **options)


@st.composite
def reshapes(draw):
    shape = draw(WITH_AXES)
    return call(draw, [shape], [(-1,), shape[::-1], (*shape, 1), (1, shape[0], -1)][draw(st.integers(0, 3))])


@st.composite
def with_dims(draw, kind):
    """flatten, transpose and softmax: an array, and one or two of its axes."""
    shape = draw(WITH_AXES)
    dims = [draw(st.integers(0, len(shape) - 1)) for _ in range(1 if kind == "one" else 2)]
    dims = sorted(dims) if kind == "range" else dims
    return call(draw, [shape], *(dim - len(shape) * draw(st.booleans()) for dim in dims))


@st.composite
def permutations(draw):
    shape = draw(WITH_AXES)
    return call(draw, [shape], draw(st.permutations(range(len(shape)))))


@st.composite
def expansions(draw):
    shape = draw(WITH_AXES)
    return call(draw, [ones_among(draw, shape)[draw(st.integers(0, len(shape))) :]], *shape)


@st.composite
def items(draw):
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    picks = st.integers(-n, n - 1)
    some = [draw(picks) for _ in range(draw(st.integers(1, 6)))]  # with repeats, which must add up
    views = [slice(None, None, 2), (Ellipsis, 0), (slice(1, None), None), (slice(None), slice(None, 2))]
    return call(draw, [(n, m)], [*views, some[0], some, np.array(some)][draw(st.integers(0, 6))])


@st.composite
def joins(draw):
    shape = draw(SMALL)
    dim = draw(st.integers(0, len(shape) - 1))
    sizes = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, 3)))]
    return call(draw, [(*shape[:dim], size, *shape[dim + 1 :]) for size in sizes], dim=dim)


@st.composite
def pads(draw):
    shape = draw(SMALL)
    axes = draw(st.integers(0, len(shape)))
    return call(draw, [shape], tuple(draw(st.integers(0, 2)) for _ in range(2 * axes)), 0.5)


@st.composite
def windows(draw):
    """im2col: images (N, H, W, C) and a window."""
    case = draw(conv_cases())
    n, c, h, w = case.args[0].shape
    options = case.options
    window = Window(case.args[1].shape[2:], options["stride"], options["padding"], options["dilation"])
    return call(draw, [(n, h, w, c)], window)


@st.composite
def columns(draw):
    """col2im: rows (N·OH·OW, KH·KW·C), the images' shape and a window."""
    case = draw(windows())
    x, window = case.args
    return call(draw, [kernels.im2col(x, window).shape], x.shape, window)


@st.composite
def adaptive_pools(draw):
    h, w = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4)), h, w
    return call(draw, [shape], (draw(st.integers(1, h)), draw(st.integers(1, w))))


@st.composite
def counted_pools(draw):
    case = draw(pool_cases())
    return replace(case, options=case.options | dict(count_include_pad=draw(st.booleans())))


@st.composite
def cross_entropies(draw):
    n, c, rest = draw(st.integers(1, 4)), draw(st.integers(1, 5)), (2, 3)[: draw(st.integers(0, 2))]
    case = call(
        draw,
        [(n, c, *rest)],
        reduction=draw(REDUCTIONS),
        label_smoothing=(0.0, 0.1, 1.0)[draw(st.integers(0, 2))],
    )
    target = case.rng.integers(0, c, (n, *rest))
    if draw(st.booleans()):
        target[1:] = np.where(case.rng.random(target[1:].shape) < 0.5, -1, target[1:])
    weight = case.rng.uniform(0.5, 2, c) if draw(st.booleans()) else None
    return replace(case, args=(*case.args, target, weight, -1))


@st.composite
def finished_convolutions(draw):
    """A convolution with a residual, or None, after the input."""
    case = draw(conv_cases())
    (x, w, b), (stride, padding, dilation, _) = case.args, case.options.values()
    window = Window(w.shape[2:], stride, padding, dilation)
    residual = case.rng.standard_normal((len(x), len(w), *window.output_size("", *x.shape[2:])))
    args = x, residual if draw(st.booleans()) else None, w, b
    return replace(case, args=args, layouts=(case.layouts[0], "contiguous", case.layouts[1]))


@st.composite
def binary_cross_entropies(draw):
    shape = draw(SMALL)
    case = call(draw, [shape])
    target = case.rng.random(shape)
    weight, pos_weight = (case.rng.uniform(0.5, 2, shape) if draw(st.booleans()) else None for _ in range(2))
    return replace(case, args=(*case.args, target, weight, draw(REDUCTIONS), pos_weight))


@st.composite
def squared_errors(draw):
    shape = draw(SMALL)
    return call(draw, [shape, shape], reduction=draw(REDUCTIONS))


number = st.sampled_from([None, -0.5, 0.25])
CALLS: dict[str, Any] = {
    "add": binary(),
    "sub": binary(),
    "mul": binary(),
    "div": binary(positive=(1,)),
    "pow": unary(st.sampled_from([2, 3, 0, 0.5, -1, 2.5]), positive=(0,)),
    "neg": unary(),
    "abs": unary(),
    "exp": unary(),
    "log": unary(positive=(0,)),
    "sqrt": unary(positive=(0,)),
    "clamp": unary(number, st.just(0.5)),
    "matmul": matmuls(),
    "linear": linears(),
    "sum": reductions(),
    "mean": reductions(),
    "var": reductions(correction=True),
    "amax": reductions(),
    "reshape": reshapes(),
    "flatten": with_dims("range"),
    "permute": permutations(),
    "transpose": with_dims("two"),
    "expand": expansions(),
    "getitem": items(),
    "cat": joins(),
    "pad": pads(),
    "relu": unary(),
    "sigmoid": unary(),
    "tanh": unary(),
    "softmax": with_dims("one"),
    "log_softmax": with_dims("one"),
    "dropout": unary(st.sampled_from([0.4, 0.0, 1.0]), st.booleans()),
    "conv2d": conv_cases(),
    "conv2d_add_relu": finished_convolutions(),
    "im2col": windows(),
    "col2im": columns(),
    "batch_norm": bn_cases(),
    "batch_norm_add_relu": bn_cases(fused=True),
    "max_pool2d": pool_cases(),
    "avg_pool2d": counted_pools(),
    "adaptive_avg_pool2d": adaptive_pools(),
    "cross_entropy": cross_entropies(),
    "binary_cross_entropy_with_logits": binary_cross_entropies(),
    "mse_loss": squared_errors(),
}


def im2col(x: Any, window: Window) -> Any:
    return kernels.im2col(x, window), lambda dy: kernels.col2im(dy, x.shape, window)


def col2im(columns: Any, shape: Any, window: Window) -> Any:
    return kernels.col2im(columns, shape, window), lambda dy: kernels.im2col(dy, window)


def seeded_dropout_op(*args: Any) -> Any:
    tinyres.manual_seed(0)
    return F.dropout(*args)


KERNELS: dict[str, Any] = {name: getattr(kernels, name) for name in CALLS}
KERNELS |= dict(im2col=im2col, col2im=col2im, dropout=seeded_dropout)
OPS: dict[str, Any] = {name: getattr(F, name) for name in CALLS if hasattr(F, name)}
OPS |= dict(cat=lambda *inputs, dim: F.cat(inputs, dim), dropout=seeded_dropout_op)
