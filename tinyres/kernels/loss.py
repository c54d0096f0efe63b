"""Losses: how far the network's output is from the target, as one number."""

from __future__ import annotations

from typing import Any

from tinyres.backend import Array, device_of, xp
from tinyres.kernels.elementwise import Result, operands

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Result:
    """Softmax and negative log-likelihood in one: −Σ_c q_c log softmax(x)_c.

    Each sample's target distribution q mixes the label with the uniform distribution (Szegedy et al. 2016, §7):
    q_c = w_c · ((1 − ε)·[c = label] + ε/C), and "mean" divides by the labels' total class weight.

    input: logits (N, C) or (N, C, …); target: integer labels (N,) or (N, …) in [0, C), or ignore_index, whose samples
    count for nothing. weight: (C,). Returns a scalar, or target's shape for reduction="none".
    """
    check_labels(input, target, weight, ignore_index, reduction, label_smoothing)
    module, classes = xp(input), input.shape[1]
    logits = module.moveaxis(input, 1, -1)  # (N, …, C)
    logp = logits - logits.max(axis=-1, keepdims=True)
    logp = logp - module.log(module.exp(logp).sum(axis=-1, keepdims=True))  # log softmax
    counts = (target != ignore_index)[..., None]  # (N, …, 1)
    hit = counts & (target[..., None] == module.arange(classes))  # (N, …, C), one-hot
    hit = hit.astype(input.dtype)
    w = module.ones(classes, dtype=input.dtype) if weight is None else weight
    q = w * ((1 - label_smoothing) * hit + label_smoothing / classes) * counts  # (N, …, C)
    losses = -(q * module.where(q == 0, 0, logp)).sum(axis=-1)  # (N, …); 0·∞ is 0 here
    total = (hit * w).sum() if reduction == "mean" else 1
    y = losses if reduction == "none" else losses.sum() / total

    def pullback(dy: Array) -> Any:  # dy: () or (N, …)
        scale = dy[..., None] if reduction == "none" else dy / total
        g = scale * (module.exp(logp) * q.sum(axis=-1, keepdims=True) - q)  # (N, …, C)
        return module.moveaxis(g, -1, 1), None

    return y, pullback


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Result:
    """Sigmoid and binary cross-entropy in one: −w · (p·t·log σ(x) + (1 − t)·log(1 − σ(x))).

    input, target: the same shape, targets in [0, 1]; weight rescales each element, pos_weight (p) the positives.
    """
    target = same_shape("binary_cross_entropy_with_logits", input, target, reduction)
    for name, factor in (("weight", weight), ("pos_weight", pos_weight)):
        if factor is not None:
            operands(f"binary_cross_entropy_with_logits: {name} and input", factor, input)
    module = xp(input)
    softplus = module.log1p(module.exp(-module.abs(input)))  # log(1 + e^−|x|): cannot overflow
    log_sigmoid, log_rest = module.minimum(input, 0) - softplus, -module.maximum(input, 0) - softplus
    positive = target if pos_weight is None else pos_weight * target
    w = 1 if weight is None else weight
    losses = -w * (positive * log_sigmoid + (1 - target) * log_rest)
    y, spread = reduce(losses, reduction)

    def pullback(dy: Array) -> Any:
        sigmoid = module.exp(log_sigmoid)
        return spread(dy) * w * ((positive + 1 - target) * sigmoid - positive), None

    return y, pullback


def mse_loss(input: Array, target: Array, reduction: str = "mean") -> Result:
    """Squared error (x − t)². input, target: the same shape."""
    target = same_shape("mse_loss", input, target, reduction)
    difference = input - target
    y, spread = reduce(difference * difference, reduction)

    def pullback(dy: Array) -> Any:
        g = 2 * spread(dy) * difference
        return g, lambda: -g

    return y, pullback


def reduce(losses: Array, reduction: str) -> tuple[Array, Any]:
    """The reduced losses, and how a gradient by them spreads back over the elements."""
    if reduction == "none":
        return losses, lambda dy: dy
    if reduction == "sum":
        return losses.sum(), lambda dy: dy
    return losses.mean(), lambda dy: dy / losses.size


def same_shape(op: str, input: Array, target: Array, reduction: str) -> Array:
    """The target in the input's dtype; refuses one of another shape."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction is {reduction!r}, expected one of {REDUCTIONS}")
    if input.shape != target.shape:
        raise ValueError(f"{op}: input is {input.shape} but target is {target.shape}, expected the same shape")
    if input.size == 0 and reduction == "mean":
        raise ValueError(f"{op}: the batch is empty: input is {input.shape}")
    return target.astype(input.dtype, copy=False)


def check_labels(
    input: Array,
    target: Array,
    weight: Array | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> None:
    """Refuse what would train a wrong class silently. Labels on a GPU are not looked at, which would wait for it:
    `DataLoader` checks them on the host."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"cross_entropy: reduction is {reduction!r}, expected one of {REDUCTIONS}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}, expected between 0 and 1")
    if input.ndim < 2 or target.shape != input.shape[:1] + input.shape[2:]:
        raise ValueError(
            f"cross_entropy: input is {input.shape} and target {target.shape}, "
            "expected logits (N, C, …) and labels (N, …)"
        )
    if target.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: target is {target.dtype}, expected integer class labels")
    if input.size == 0:
        raise ValueError(f"cross_entropy: the batch is empty: input is {input.shape}")
    if weight is not None and weight.shape != input.shape[1:2]:
        raise ValueError(
            f"cross_entropy: weight is {weight.shape}, expected one weight for each of {input.shape[1]} classes"
        )
    if device_of(target) == "cpu":
        wrong = target[((target < 0) | (target >= input.shape[1])) & (target != ignore_index)]
        if wrong.size:
            raise ValueError(
                f"cross_entropy: target has the label {int(wrong[0])}, expected 0 to {input.shape[1] - 1} "
                f"for logits of shape {input.shape}"
            )
