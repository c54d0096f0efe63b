"""What holds for every batch normalisation in training.

With s² = σ² + ε and x̂ = (x − μ)/s, batch norm is y = γ·x̂ + β, and its Jacobian by x, for one channel of R values, is
γ/s times (1 − 11ᵀ/R − x̂x̂ᵀ/R): it annihilates constants, all but annihilates x̂, and multiplies the rest by γ/s. So a
backward pass that returns zero passes any test whose cotangent is constant, as that of `loss = y.sum()` is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyres.backend import to_host
from tinyres.nn import Module
from tinyres.testing.report import Report
from tinyres.testing.subject import Subject
from tinyres.testing.trial import Host, Trial, like

NEARLY = 1e-6  # where a side is a small remainder, as ε/s² of the whole: relative error that is allowed


def check_batch_norm(f: Callable[..., Any], *args: Any, seed: int = 0, **options: Any) -> Report:
    """The identities of a batch norm in training, forward and backward, for any way to compute one.

    f: called as `batch_norm` is (a kernel or a function of Tensors: the images first, γ and β, if any, by the names
    weight and bias, ε by the name eps), or a Module with parameters and an attribute of these names. ε is 1e-5 where
    nothing has its name.
    """
    trial = Trial(check_batch_norm, f, args, options, seed)
    images = next(iter(trial.subject.inputs))
    if images not in trial.gradients:
        trial.fail(f"there is no gradient for {images}")
        return trial.report()
    x, dx, y, g = (to_host(a) for a in (trial.subject.inputs[images], trial.gradients[images], trial.y, trial.g))
    axes = (0, *range(2, x.ndim))

    def column(vector: Any) -> Host:
        """(C,) → (1, C, 1, 1)."""
        return np.reshape(vector, (1, -1, *[1] * (x.ndim - 2)))

    def parameter(name: str, without: float) -> Host:
        there = trial.subject.inputs.get(name)
        return np.full(x.shape[1], without) if there is None else to_host(there)

    def total(values: Host) -> Host:
        return np.asarray(values.sum(axis=axes))

    gamma, beta, eps = parameter("weight", 1), parameter("bias", 0), eps_of(f, args, options)
    mean, var = x.mean(axes), x.var(axes)
    s = np.sqrt(var + eps)
    normed = (x - column(mean)) / column(s)  # x̂
    count = x.size / x.shape[1]

    trial.equal(
        "the mean of y is β, for each channel", y.mean(axes), beta, ("the mean", "β"), size=np.abs(y).mean(axes)
    )
    trial.equal("the variance of y is γ²σ²/s²", y.var(axes), (gamma / s) ** 2 * var, ("the variance", "γ²σ²/s²"))
    a, shift = -1.7, 0.3
    scaled = with_eps(f, args, options, a * a * eps)
    if scaled is not None:
        moved = to_host(scaled.run({images: like(a * x + shift, scaled.inputs[images])})[0])
        trial.equal(
            "scale and shift do not matter: batch norm of a·x + b, with a²·ε, is sgn(a) times that of x, where β = 0",
            moved - column(beta),
            -(y - column(beta)),
            (f"at a = {a}", "sgn(a) times that at a = 1"),
            size=np.abs(y) + np.abs(column(beta)),
        )

    trial.equal("Σdx = 0 for each channel", total(dx), 0 * s, ("Σdx", "expected"), size=total(np.abs(dx)))
    trial.equal(
        "Σdx·x̂ = (γ/s)·(ε/s²)·Σg·x̂ for each channel",
        total(dx * normed),
        gamma / s * eps / s**2 * total(g * normed),
        ("Σdx·x̂", "the right side"),
        size=total(np.abs(dx * normed)),
        rtol=NEARLY,
    )
    dgamma, dbeta = (trial.gradients.get(name, np.zeros(len(s))) for name in ("weight", "bias"))
    if "weight" in trial.gradients:
        trial.equal(
            "⟨y, g⟩ = γ·dγ + β·dβ for each channel",
            total(y * g),
            gamma * dgamma + beta * (dbeta if "bias" in trial.gradients else total(g)),
            ("⟨y, g⟩", "γ·dγ + β·dβ"),
            size=total(np.abs(y * g)),
        )

    def dx_for(cotangent: Host) -> Host:
        """dx at γ = 1."""
        weight = {"weight": like(np.ones(len(s)), trial.g)} if "weight" in trial.subject.inputs else {}
        return trial.at(weight, like(cotangent, trial.g))[1].get(images, np.zeros(x.shape))

    u, constant = trial.rng.standard_normal((2, *x.shape))
    constant = column(constant.reshape(-1)[: len(s)]) + 0 * x
    at_one = dx_for(g)
    trial.equal(
        "the Jacobian is symmetric at γ = 1: ⟨J·g, u⟩ = ⟨g, J·u⟩",
        (at_one * u).sum(),
        (g * dx_for(u)).sum(),
        ("⟨J·g, u⟩", "⟨g, J·u⟩"),
        size=np.abs(at_one * u).sum(),
    )
    trial.equal(
        "a constant cotangent gives dx = 0",
        dx_for(constant),
        0 * x,
        ("dx", "expected"),
        size=np.abs(constant / column(s)) * count,
    )
    trial.equal(
        "the cotangent x̂ gives dx = (ε/s³)·x̂ at γ = 1",
        dx_for(normed),
        column(eps / s**3) * normed,
        ("dx", "(ε/s³)·x̂"),
        size=np.abs(normed / column(s)),
        rtol=NEARLY,
    )
    square = total(normed**2)
    share = total(g * normed) / np.where(square > 0, square, 1)
    rest = g - column(g.mean(axes)) - column(share) * normed
    trial.equal(
        "a cotangent that is orthogonal to constants and to x̂ gives dx = g/s at γ = 1",
        dx_for(rest),
        rest / column(s),
        ("dx", "g/s"),
        size=np.abs(g / column(s)),
    )
    return trial.report()


def eps_of(f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> float:
    """The ε that f adds to the variance."""
    if isinstance(f, Module):
        return float(getattr(f, "eps", 1e-5))
    bound = inspect.signature(f).bind(*args, **options)
    bound.apply_defaults()
    return float(bound.arguments.get("eps", 1e-5))


def with_eps(f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], eps: float) -> Subject | None:
    """The same with another ε, or None where nothing has its name."""
    if isinstance(f, Module):
        f = copy.deepcopy(f)
        if hasattr(f, "eps"):
            f.eps = eps
            return Subject.of(f, *args)
        return None
    bound = inspect.signature(f).bind(*args, **options)
    bound.apply_defaults()
    if "eps" not in bound.arguments:
        return None
    bound.arguments["eps"] = eps
    return Subject.of(f, *bound.args, **bound.kwargs)
