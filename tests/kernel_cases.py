"""Every kernel of `tinyres.kernels` with inputs to try it on: one table for all tests that go through all kernels.

Sizes differ pairwise, since a wrong axis hides behind equal ones; strides do not divide. Values keep away from
kinks: nothing within 0.1 of where a rectifier or an absolute value bends, all values of a maximum well apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tinyres
from numeric import copied
from tinyres import kernels
from tinyres.kernels.windows import Window


class Case(NamedTuple):
    """A call of a kernel: `arguments` float64 where they are floating, `wrt` the positions that have a gradient."""

    name: str
    kernel: Callable[..., Any]
    arguments: tuple[Any, ...]
    wrt: tuple[int, ...]
    options: dict[str, Any]

    def __call__(self) -> Any:
        """(output, pullback), of copies of the arguments."""
        return self.kernel(*copied(self.arguments), **self.options)


def normal(*shape: int) -> Any:
    """Standard normal values, drawn when the case is made."""
    return lambda rng: rng.standard_normal(shape)


def positive(*shape: int) -> Any:
    """Uniform on [0.5, 2)."""
    return lambda rng: rng.uniform(0.5, 2.0, shape)


def off_zero(*shape: int) -> Any:
    """Of either sign, 0.2 to 2 from zero."""
    return lambda rng: rng.choice([-1.0, 1.0], shape) * rng.uniform(0.2, 2.0, shape)


def distinct(*shape: int) -> Any:
    """No two values nearer than 0.1."""
    return lambda rng: rng.permutation(0.1 * np.arange(np.prod(shape)) - 1).reshape(shape)


def labels(classes: int, *shape: int) -> Any:
    return lambda rng: rng.integers(0, classes, shape)


def normalised(x: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance in each channel: where a rectifier after batch norm bends, but for γ and β."""
    axes = (0, *range(2, x.ndim))
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


def case(name: str, *arguments: Any, wrt: tuple[int, ...] | None = None, call: Any = None, **options: Any) -> Case:
    """A row: the kernel is the name's first word; functions among the arguments draw their values."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = tuple(argument(rng) if callable(argument) else argument for argument in arguments)
    if wrt is None:
        wrt = tuple(i for i, value in enumerate(drawn) if isinstance(value, np.ndarray) and value.dtype.kind == "f")
    return Case(name, call or getattr(kernels, name.split()[0]), drawn, wrt, options)


def fused(name: str, with_residual: bool, training: bool) -> Case:
    """A row for batch_norm_add_relu, its rectifier's input 0.1 or more from zero."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x, mean, var = normalised(rng.standard_normal((4, 3, 2, 5))), rng.standard_normal(3), rng.uniform(0.5, 2, 3)
    weight, bias = rng.uniform(0.5, 2, 3), rng.standard_normal(3)
    centre, spread = (0, 1) if training else (mean[:, None, None], np.sqrt(var[:, None, None]))
    normed = (x - centre) / spread * weight[:, None, None] + bias[:, None, None]
    if with_residual:
        wanted = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.2, 2, x.shape)
        return case(name, x, wanted - normed, mean, var, weight, bias, training, wrt=(0, 1, 4, 5))
    near = np.abs(normed) < 0.1  # moved out one by one, which moves the statistics only a little
    x = x + np.where(near, np.sign(normed) * 0.4, 0)
    return case(name, x, None, mean, var, weight, bias, training, wrt=(0, 4, 5))


def finished(name: str, with_residual: bool) -> Case:
    """A row for conv2d_add_relu, its rectifier's input 0.2 or more from zero."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x, weight, bias = rng.standard_normal((2, 3, 5, 6)), rng.standard_normal((4, 3, 1, 1)), rng.standard_normal(4)
    y = np.einsum("nchw,oc->nohw", x[:, :, ::2, ::3], weight[:, :, 0, 0]) + bias[:, None, None]
    residual = rng.choice([-1.0, 1.0], y.shape) * rng.uniform(0.2, 2, y.shape) - y if with_residual else None
    if residual is None:
        x = np.ones_like(x)  # so that y is one number a channel, and the bias can push that from zero
        bias = np.array([0.5, -0.5, 1, -1]) - weight.sum((1, 2, 3))
    return case(name, x, residual, weight, bias, (2, 3))


def seeded_dropout(*arguments: Any, **options: Any) -> Any:
    """Dropout that drops the same elements at each call."""
    tinyres.manual_seed(0)
    return kernels.dropout(*arguments, **options)


COLUMNS = Window((3, 2), (2, 1), (2, 1), (1, 2))  # over an image (5, 6): 4 × 6 windows
IMAGES = (2, 5, 6, 3)  # (N, H, W, C)


def im2col(x: Any) -> Any:
    return kernels.im2col(x, COLUMNS), lambda dy: kernels.col2im(dy, x.shape, COLUMNS)


def col2im(columns: Any) -> Any:
    return kernels.col2im(columns, IMAGES, COLUMNS), lambda dy: kernels.im2col(dy, COLUMNS)


CASES = [
    # Arithmetic
    case("add", normal(2, 3), normal(2, 3)),
    case("add broadcast", normal(4, 3, 1), normal(2, 1, 3, 5)),
    case("add number", normal(2, 3), 2.5),
    case("sub broadcast", normal(4, 3, 1), normal(3, 5)),
    case("sub from number", 1.5, normal(2, 3)),
    case("mul", normal(2, 3), normal(2, 3)),
    case("mul broadcast", normal(2, 3), normal(4, 1, 3)),
    case("div broadcast", normal(2, 3), off_zero(4, 2, 1)),
    case("div of number", 1.5, off_zero(2, 3)),
    case("pow", positive(2, 3), 2.5),
    case("pow square", normal(2, 3), 2),
    case("pow zero", normal(2, 3), 0),
    case("neg", normal(2, 3)),
    case("abs", off_zero(2, 3)),
    case("exp", normal(2, 3)),
    case("log", positive(2, 3)),
    case("sqrt", positive(2, 3)),
    case("clamp", lambda rng: rng.choice([-1.7, -0.3, 0.4, 1.9], (3, 4)) + rng.uniform(0, 0.1, (3, 4)), -1.0, 1.0),
    case("clamp below", off_zero(3, 4), 0.0),
    # Products
    case("matmul", normal(2, 3), normal(3, 4)),
    case("matmul batched", normal(2, 3, 4), normal(5, 1, 4, 6)),
    case("linear", normal(4, 3), normal(2, 3), normal(2)),
    case("linear without bias", normal(2, 4, 3), normal(5, 3)),
    # Reductions
    case("sum", normal(2, 3, 4)),
    case("sum one axis", normal(2, 3, 4), dim=-2),
    case("sum axes kept", normal(2, 3, 4), dim=(0, 2), keepdim=True),
    case("mean", normal(2, 3, 4)),
    case("mean axes", normal(2, 3, 4), dim=(0, -1)),
    case("var", normal(2, 3, 4)),
    case("var axes", normal(2, 3, 4), dim=(0, 2), correction=0, keepdim=True),
    case("amax", distinct(2, 3, 4)),
    case("amax axes", distinct(2, 3, 4), dim=(0, 2)),
    # Shape
    case("reshape", normal(2, 3, 4), 4, -1),
    case("flatten", normal(2, 3, 4, 5), 1, 2),
    case("permute", normal(2, 3, 4), 2, 0, -2),
    case("transpose", normal(2, 3, 4), 0, -1),
    case("expand", normal(3, 1), 2, 3, 4),
    case("getitem slices", normal(4, 5, 3), (slice(None, None, 2), -1), wrt=(0,)),
    case("getitem repeated", normal(4, 3), [2, 0, 2, 2], wrt=(0,)),
    case("getitem array", normal(4, 3), np.array([[1, 3], [3, 3]]), wrt=(0,)),
    case("cat", normal(2, 3), normal(2, 1), normal(2, 4), dim=-1),
    case("pad", normal(2, 3, 4), (1, 2, 0, 3), 0.5),
    # Activations
    case("relu", off_zero(3, 4)),
    case("sigmoid", normal(3, 4)),
    case("tanh", normal(3, 4)),
    case("softmax", normal(3, 4, 2), 1),
    case("log_softmax", normal(3, 4, 2), -2),
    case("dropout", normal(3, 4), 0.4, call=seeded_dropout),
    case("dropout in evaluation", normal(3, 4), 0.4, False),
    # Convolution
    case("conv2d", normal(2, 3, 5, 6), normal(4, 3, 3, 2), normal(4)),
    case("conv2d 1×1", normal(2, 3, 5, 6), normal(4, 3, 1, 1), None, 2),
    case("conv2d padding stride", normal(2, 3, 7, 6), normal(4, 3, 3, 3), normal(4), (2, 3), 1),
    case("conv2d wide padding", normal(2, 3, 3, 4), normal(2, 3, 2, 3), None, 1, (3, 2)),
    case("conv2d dilation", normal(2, 3, 8, 7), normal(2, 3, 3, 2), normal(2), 1, 1, (2, 3)),
    finished("conv2d_add_relu", with_residual=True),
    finished("conv2d_add_relu without residual", with_residual=False),
    case("conv2d groups", normal(2, 6, 5, 4), normal(4, 3, 3, 3), normal(4), 2, 1, 1, 2),
    case("conv2d depthwise", normal(2, 3, 5, 4), normal(6, 1, 3, 3), None, 1, 1, 1, 3),
    case("im2col", normal(*IMAGES), call=im2col),
    case("col2im", normal(2 * 4 * 6, 3 * 2 * 3), call=col2im),
    # Batch norm
    case(
        "batch_norm training",
        *(normal(4, 3, 2, 5), normal(3), positive(3), off_zero(3), normal(3), True),
        wrt=(0, 3, 4),
    ),
    case("batch_norm plain", normal(4, 3, 2, 5), None, None, training=True),
    case("batch_norm flat", normal(7, 3), None, None, off_zero(3), None, True, wrt=(0, 3)),
    case(
        "batch_norm evaluation",
        *(normal(4, 3, 2, 5), normal(3), positive(3), off_zero(3), normal(3), False),
        wrt=(0, 3, 4),
    ),
    fused("batch_norm_add_relu training", with_residual=True, training=True),
    fused("batch_norm_add_relu evaluation", with_residual=True, training=False),
    fused("batch_norm_add_relu without residual", with_residual=False, training=True),
    # Pooling
    case("max_pool2d", distinct(2, 3, 7, 6), (3, 2), 2, 1),
    case("max_pool2d default stride", distinct(2, 3, 4, 6), 2),
    case("avg_pool2d", normal(2, 3, 7, 6), (3, 2), (2, 1), 1),
    case("avg_pool2d inside only", normal(2, 3, 5, 6), 3, 2, 1, False),
    case("adaptive_avg_pool2d", normal(2, 3, 5, 7), (2, 3)),
    case("adaptive_avg_pool2d global", normal(2, 3, 5, 7), 1),
    # Losses
    case("cross_entropy", normal(5, 4), labels(4, 5)),
    case("cross_entropy sum", normal(5, 4, 2, 3), labels(4, 5, 2, 3), reduction="sum"),
    case("cross_entropy none", normal(5, 4, 2), labels(4, 5, 2), reduction="none"),
    case(
        "cross_entropy weighted",
        *(normal(6, 3), np.array([0, 2, -1, 1, 2, 0]), positive(3), -1),
        wrt=(0,),
        label_smoothing=0.1,
    ),
    case("binary_cross_entropy_with_logits", normal(5, 3), positive(5, 3), wrt=(0,)),
    case(
        "binary_cross_entropy_with_logits weighted",
        *(normal(5, 3), positive(5, 3), positive(5, 3), "none", positive(3)),
        wrt=(0,),
    ),
    case("mse_loss", normal(4, 3), normal(4, 3)),
    case("mse_loss none", normal(4, 3), normal(4, 3), "none"),
]
BY_NAME = {row.name: row for row in CASES}
assert len(BY_NAME) == len(CASES)
