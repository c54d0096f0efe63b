"""Broken arithmetic, reductions, activations and losses, and kernels that spoil an array that is not theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyres import kernels
from tinyres.backend import Array
from tinyres.testing.mutants.mutant import (
    ADJOINT,
    CONSERVES,
    Original,
    backward_of,
    distinct,
    instead_of,
    of,
    positive,
    same_for_each,
)

# Broadcasting

ADD = Original("add", kernels.add, of([4, 3, 1], [2, 1, 3, 5]), checks=(("adjoint", {"wrt": ("input", "other")}),))
MUL = Original("mul", kernels.mul, of([2, 3], [4, 1, 3]), checks=(ADJOINT,))
MUL_PLAIN = Original("mul", kernels.mul, of([2, 3], [2, 3]), checks=(ADJOINT, same_for_each("input", "other")))
SUB = Original("sub", kernels.sub, of([2, 3], [2, 3]), checks=(ADJOINT, same_for_each("input", "other")))
DIV = Original("div", kernels.div, of([2, 3], positive(2, 3)), checks=(ADJOINT, same_for_each("input", "other")))
MATMUL = Original("matmul", kernels.matmul, of([2, 3, 4], [5, 1, 4, 6]), checks=(ADJOINT,))


@backward_of(ADD)
def broadcast_axis_not_summed(found: Any, dy: Array, *_: Any) -> Any:
    """Where an operand was repeated, the first copy's gradient is taken instead of the sum."""
    return dy[0, :, :, :1], found[1]


@backward_of(ADD)
def add_skip_without_gradient(found: Any, *_: Any) -> Any:
    """The second operand gets no gradient at all."""
    return found[0], None


@backward_of(MUL)
def broadcast_gradient_not_reduced(found: Any, dy: Array, x: Array, other: Array) -> Any:
    """The gradient keeps the shape of the product."""
    return dy * other, found[1]


@backward_of(SUB)
def sub_sign_forgotten(found: Any, dy: Array, *_: Any) -> Any:
    """The gradient of what is subtracted has the wrong sign."""
    return found[0], dy.copy()


@backward_of(MUL_PLAIN)
def mul_operands_swapped(found: Any, dy: Array, x: Array, other: Array) -> Any:
    """Each factor's gradient is multiplied by the factor itself instead of the other one."""
    return dy * x, dy * other


@backward_of(DIV)
def div_denominator_not_squared(found: Any, dy: Array, x: Array, other: Array) -> Any:
    """The denominator's gradient is −g·x/b instead of −g·x/b²."""
    return found[0], -dy * x / other


@backward_of(MATMUL)
def matmul_batch_not_summed(found: Any, dy: Array, x: Array, other: Array) -> Any:
    """The gradient of a matrix that served a whole batch is that of the batch's first."""
    return (dy @ other.swapaxes(-1, -2))[0], found[1]


# Reductions and shapes

MEAN = Original("mean", kernels.mean, of([2, 3, 4], (0, 2)), checks=(ADJOINT, CONSERVES))
VAR = Original("var", kernels.var, of([2, 3, 4], (0, 2)))
GETITEM = Original("getitem", kernels.getitem, of([4, 3], np.array([2, 0, 2, 2])), checks=(ADJOINT,))
PERMUTE = Original("permute", kernels.permute, of([3, 3, 3], 1, 2, 0), checks=(ADJOINT,))
CAT = Original("cat", kernels.cat, of([2, 3], [2, 3], [2, 3], dim=1), checks=(ADJOINT,))
FLATTEN = Original("flatten", kernels.flatten, of([2, 3, 4, 5], 1), checks=(ADJOINT, same_for_each("input")))


@backward_of(MEAN)
def mean_not_divided(found: Any, *_: Any) -> Any:
    """dx is that of a sum."""
    return 8 * found[0]


@backward_of(VAR)
def var_divides_by_count(found: Any, *_: Any) -> Any:
    """dx divides by R where the forward pass divided by R − 1."""
    return 7 / 8 * found[0]


@backward_of(GETITEM)
def getitem_repeats_overwrite(found: Any, dy: Array, x: Array, index: Any) -> Any:
    """An element that was read several times keeps the last gradient instead of the sum."""
    dx = np.zeros_like(x)
    dx[index] = dy
    return dx


@backward_of(PERMUTE)
def permute_not_inverted(found: Any, dy: Array, x: Array, *dims: int) -> Any:
    """The gradient's axes are permuted the same way once more instead of back."""
    return dy.transpose(dims)


@backward_of(CAT)
def cat_parts_reversed(found: Any, *_: Any) -> Any:
    """The parts of the gradient are handed out from the end."""
    return found[::-1]


@instead_of(FLATTEN)
def flatten_in_memory_order(input: Array, start_dim: int = 0, end_dim: int = -1) -> Any:
    """The values are taken as they lie in memory, which is right only for arrays in C order."""
    y = input.ravel(order="K").reshape(len(input), -1)
    return y, lambda dy: dy.reshape(input.shape)


@instead_of(FLATTEN)
def flatten_mixes_batch(input: Array, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Forward and backward agree, but each row holds values of all the images."""
    y = input.reshape(-1, len(input)).T
    return y, lambda dy: dy.T.reshape(input.shape)


# Activations

RELU = Original("relu", kernels.relu, of(distinct(3, 7)), checks=(CONSERVES, same_for_each("input")))
SIGMOID = Original("sigmoid", kernels.sigmoid, of([3, 4]), checks=(same_for_each("input"),))
EXP = Original("exp", kernels.exp, of([3, 4]), checks=(same_for_each("input"),))
POW = Original("pow", kernels.pow, of(positive(3, 4), 2.5), checks=(same_for_each("input"),))
CLAMP = Original("clamp", kernels.clamp, of(distinct(3, 7), -0.48, 0.52), checks=(same_for_each("input"),))
SOFTMAX = Original("softmax", kernels.softmax, of([3, 4, 2], 1), checks=(CONSERVES, same_for_each("input")))
LOG_SOFTMAX = Original("log_softmax", kernels.log_softmax, of([3, 4, 2], 1), checks=(CONSERVES, same_for_each("input")))
DROPOUT = Original("dropout", kernels.dropout, of([6, 5], 0.4), checks=(ADJOINT,))


@backward_of(RELU)
def relu_passes_negative(found: Any, dy: Array, x: Array) -> Any:
    """The gradient passes where x < 0, too."""
    return dy.copy()


@backward_of(RELU)
def relu_mask_inverted(found: Any, dy: Array, x: Array) -> Any:
    """The gradient passes where x < 0, and only there."""
    return dy * (x < 0)


@backward_of(RELU)
def relu_mask_of_gradient(found: Any, dy: Array, x: Array) -> Any:
    """The gradient itself is rectified, too: a pullback that is not linear."""
    return found[0] * (dy > 0)


@backward_of(RELU)
def relu_spoils_cotangent(found: Any, dy: Array, x: Array) -> Any:
    """dy is multiplied in place, although another node may hold the same array."""
    dy *= x > 0
    return dy


@instead_of(RELU)
def relu_in_place(input: Array) -> Any:
    """The output is written over the input, which the caller may still need."""
    y = np.maximum(input, 0, out=input)
    return y, lambda dy: dy * (y > 0)


@instead_of(EXP)
def exp_spoils_output(input: Array) -> Any:
    """The pullback multiplies the output in place: the second call finds another one."""
    y = np.exp(input)

    def pullback(dy: Array) -> Array:
        np.multiply(y, dy, out=y)
        return y

    return y, pullback


@instead_of(SIGMOID)
def sigmoid_reuses_workspace(input: Array) -> Any:
    """All calls of the pullback write to one array: the second changes what the first returned."""
    y, right = kernels.sigmoid(input)
    workspace = np.empty_like(input)

    def pullback(dy: Array) -> Array:
        workspace[...] = right(dy)
        return workspace

    return y, pullback


@backward_of(SIGMOID)
def sigmoid_factor_missing(found: Any, dy: Array, x: Array) -> Any:
    """dx is g·y instead of g·y·(1 − y)."""
    return dy / (1 + np.exp(-x))


@backward_of(POW)
def pow_exponent_not_lowered(found: Any, dy: Array, x: Array, exponent: float) -> Any:
    """dx is g·n·xⁿ instead of g·n·xⁿ⁻¹."""
    return dy * exponent * x**exponent


@backward_of(CLAMP)
def clamp_passes_outside(found: Any, dy: Array, x: Array, low: float, high: float) -> Any:
    """The gradient passes above the upper limit."""
    return dy * (x >= low)


@backward_of(SOFTMAX)
def softmax_gradient_zero(found: Any, *_: Any) -> Any:
    """dx is zero: since the outputs sum to 1, a test whose loss is their sum sees no difference."""
    return 0 * found[0]


@backward_of(SOFTMAX)
def softmax_diagonal_only(found: Any, dy: Array, x: Array, dim: int) -> Any:
    """Only the diagonal of the Jacobian is used: g·y·(1 − y)."""
    y, _ = kernels.softmax(x, dim)
    return dy * y * (1 - y)


@backward_of(LOG_SOFTMAX)
def log_softmax_normaliser_constant(found: Any, dy: Array, *_: Any) -> Any:
    """The normaliser is taken for a constant: dx = g."""
    return dy.copy()


@instead_of(DROPOUT)
def dropout_draws_again(input: Array, p: float = 0.5, training: bool = True) -> Any:
    """Forward and backward pass each draw a mask of their own."""
    (y, _), (_, pullback) = kernels.dropout(input, p, training), kernels.dropout(input, p, training)
    return y, pullback


@backward_of(DROPOUT)
def dropout_not_scaled(found: Any, dy: Array, x: Array, p: float, training: bool) -> Any:
    """dx is not divided by 1 − p."""
    return found[0] * (1 - p)


# Losses


def labels(classes: int, count: int, ignored: int = 0) -> Any:
    """Random labels, the last `ignored` of them -100."""
    return lambda rng: np.r_[rng.integers(0, classes, count - ignored), np.full(ignored, -100)]


CROSS_ENTROPY = Original(
    "cross_entropy",
    kernels.cross_entropy,
    of([5, 4], labels(4, 5, ignored=2), label_smoothing=0.2),
    checks=(CONSERVES,),
)
MSE = Original("mse_loss", kernels.mse_loss, of([3, 4], [3, 4]))
BINARY = Original(
    "binary_cross_entropy_with_logits",
    kernels.binary_cross_entropy_with_logits,
    of([3, 4], lambda rng: rng.uniform(0, 1, (3, 4)), None, "mean", lambda rng: rng.uniform(1, 2, 4)),
)


@backward_of(CROSS_ENTROPY)
def cross_entropy_not_averaged(found: Any, dy: Array, x: Array, target: Array, *_: Any) -> Any:
    """dx is that of the sum over the batch."""
    return found[0] * int((target >= 0).sum()), None


@backward_of(CROSS_ENTROPY)
def cross_entropy_averages_ignored(found: Any, dy: Array, x: Array, target: Array, *_: Any) -> Any:
    """dx divides by the whole batch, the ignored samples included."""
    return found[0] * float((target >= 0).mean()), None


@backward_of(CROSS_ENTROPY)
def cross_entropy_label_not_subtracted(found: Any, dy: Array, x: Array, target: Array, *_: Any) -> Any:
    """dx is softmax(x), without taking the label's 1 away."""
    counts = target >= 0
    return dy / int(counts.sum()) * kernels.softmax(x, 1)[0] * counts[:, None], None


@backward_of(CROSS_ENTROPY)
def cross_entropy_smoothing_forgotten(found: Any, dy: Array, x: Array, target: Array, *_: Any) -> Any:
    """dx is that of hard labels, and the forward pass smooths them."""
    return kernels.gradients(kernels.cross_entropy(x, target)[1], dy)


@backward_of(MSE)
def mse_factor_missing(found: Any, *_: Any) -> Any:
    """The factor 2 of the square's derivative is missing."""
    return found[0] / 2, found[1] / 2


@backward_of(BINARY)
def binary_positive_weight_forgotten(found: Any, dy: Array, x: Array, target: Array, *_: Any) -> Any:
    """dx is as if positives and negatives had the same weight."""
    return kernels.gradients(kernels.binary_cross_entropy_with_logits(x, target)[1], dy)
