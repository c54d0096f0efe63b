"""Batch norm, properties 11 to 17: identities that hold for every input, on NumPy and on the strict fake of CuPy.

s² = σ² + ε. Where the cotangent is not said to be special, it is random: batch norm passes nothing of a constant back,
so that a gradient of zero would look right.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hypothesis import given

from numeric import dot
from properties import close, normal_like, run, same
from tinyres import kernels
from tinyres.backend import to_device
from tinyres.testing.strategies import Case, bn_cases


def facts(case):
    """What the identities speak of: per channel γ, β, σ², s, x̂, with 1 for no γ, and 0 for no β."""
    x, mean, var, weight, bias = case.args
    axes, column = (0, *range(2, x.ndim)), (x.shape[1], *[1] * (x.ndim - 2))
    if case.options["training"]:
        mean, var = x.mean(axes), x.var(axes)
    s = np.sqrt(var + case.options["eps"])
    return SimpleNamespace(
        x=x,
        axes=axes,
        column=lambda vector: vector.reshape(column),
        weight=np.ones(len(var)) if weight is None else weight,
        bias=np.zeros(len(var)) if bias is None else bias,
        eps=case.options["eps"],
        var=var,
        s=s,
        normed=(x - mean.reshape(column)) / s.reshape(column),
    )


def norm(case, device, *args):
    """y, g, dx, dγ, dβ."""
    y, pullback = run(kernels.batch_norm, case, device, *args)
    g = normal_like(case, y)
    dx, _, _, dweight, dbias = pullback(g)
    return y, g, dx, dweight, dbias


@given(case=bn_cases())
def test_batch_norm_against_its_definition(device, case):
    f = facts(case)
    y, *_ = norm(case, device)
    close(y, f.column(f.weight) * f.normed + f.column(f.bias))


@given(case=bn_cases(training=True))
def test_batch_norm_sets_mean_and_variance(device, case):
    """mean y = β, var y = γ²σ²/s²."""
    f = facts(case)
    y, *_ = norm(case, device)
    close(y.mean(f.axes), f.bias)
    close(y.var(f.axes), f.weight**2 * f.var / f.s**2)


@given(case=bn_cases(training=True))
def test_batch_norm_gradient_sums_to_zero(device, case):
    f = facts(case)
    _, _, dx, *_ = norm(case, device)
    close(dx.sum(f.axes), np.zeros(len(f.s)), 1e-10, np.abs(dx).sum())


@given(case=bn_cases(training=True))
def test_batch_norm_gradient_along_x_hat(device, case):
    """Σ dx·x̂ = (γ/s)(ε/s²) Σ g·x̂."""
    f = facts(case)
    _, g, dx, *_ = norm(case, device)
    expected = f.weight / f.s * (f.eps / f.s**2) * (g * f.normed).sum(f.axes)
    close((dx * f.normed).sum(f.axes), expected, 1e-11, np.abs(g).sum())


@given(case=bn_cases(training=True))
def test_batch_norm_forgets_scale_and_shift(device, case):
    """With a²ε, of ax + b: sgn(a) times that of x with ε, for β = 0; and its gradient is a⁻¹ times as large."""
    f, a = facts(case), case.rng.choice([-1, 1]) * case.rng.uniform(0.3, 3)
    shift = f.column(case.rng.standard_normal(len(f.s)))
    y, pullback = run(kernels.batch_norm, case, device, f.x, None, None, f.weight, None)
    other = replace(case, options=case.options | dict(eps=a * a * f.eps))
    scaled, scaled_pullback = run(kernels.batch_norm, other, device, a * f.x + shift, None, None, f.weight, None)
    close(scaled, np.sign(a) * y)
    g = normal_like(case, y)
    close(scaled_pullback(g)[0], pullback(g)[0] / abs(a))


@given(case=bn_cases(training=True))
def test_batch_norm_jacobian_is_symmetric(device, case):
    """At γ = 1: ⟨Jg, u⟩ = ⟨g, Ju⟩."""
    y, pullback = run(kernels.batch_norm, case, device, *case.args[:3], None, None)
    g, u = normal_like(case, y), normal_like(case, y)
    close(dot(pullback(g)[0], u), dot(g, pullback(u)[0]), 1e-11, np.abs(g).sum())


@given(case=bn_cases())
def test_batch_norm_output_against_its_own_gradients(device, case):
    """⟨y, g⟩ = γ·dγ + β·dβ per channel, in either mode; what is not there has no gradient."""
    f = facts(case)
    _, _, _, dweight, dbias = norm(case, device)
    assert [dweight is None, dbias is None] == [value is None for value in case.args[3:]]
    y, g, _, dweight, dbias = norm(case, device, *case.args[:3], f.weight, f.bias)
    close((y * g).sum(f.axes), f.weight * dweight + f.bias * dbias)
    close(dbias, g.sum(f.axes))


@given(case=bn_cases(training=True))
def test_batch_norm_annihilates_constants_and_nearly_x_hat(device, case):
    """At γ = 1: g constant gives dx = 0, and g = x̂ gives (ε/s³)·x̂."""
    f = facts(case)
    y, pullback = run(kernels.batch_norm, case, device, *case.args[:3], None, None)
    constant = np.broadcast_to(f.column(case.rng.standard_normal(len(f.s))), y.shape)
    close(pullback(constant)[0], np.zeros(y.shape))
    close(pullback(f.normed)[0], f.column(f.eps / f.s**3) * f.normed)


@given(case=bn_cases(training=False))
def test_batch_norm_in_evaluation_is_affine(device, case):
    """The statistics are constants: dx = γ/s·g, and the running ones stay as they are."""
    f = facts(case)
    moved = case.to(device)
    kernels.batch_norm(*moved.args, **moved.options)
    assert all(same(to_device(now, "cpu"), before) for now, before in zip(moved.args[1:3], case.args[1:3], strict=True))
    _, g, dx, *_ = norm(case, device)
    close(dx, f.column(f.weight / f.s) * g)


@given(case=bn_cases(training=True))
def test_batch_norm_moves_running_statistics(device, case):
    f, momentum = facts(case), case.options["momentum"]
    moved = case.to(device)
    kernels.batch_norm(*moved.args, **moved.options)
    if case.args[1] is not None:
        mean, var = (to_device(value, "cpu") for value in moved.args[1:3])
        close(mean, (1 - momentum) * case.args[1] + momentum * f.x.mean(f.axes))
        close(var, (1 - momentum) * case.args[2] + momentum * f.x.var(f.axes, ddof=1))


@given(case=bn_cases(fused=True))
def test_fused_batch_norm_is_the_three_operations_to_the_bit(device, case):
    """So what holds for batch norm, addition and rectifier holds for it."""
    (x, residual, *rest), with_residual = case.args, case.args[1] is not None
    normed, back_norm = run(kernels.batch_norm, case, device, x, *rest)
    plain = Case(case.seed, ())
    added, back_add = run(kernels.add, plain, device, normed, residual if with_residual else 0.0)
    y, back_relu = run(kernels.relu, plain, device, added)
    fused, back_fused = run(kernels.batch_norm_add_relu, case, device)
    assert np.array_equal(fused, y)
    g = normal_like(case, y)
    branch, skip = back_add(*back_relu(g))
    dx, _, _, dweight, dbias = back_norm(branch)
    expected = dx, skip if with_residual else None, None, None, dweight, dbias
    assert all(map(same, back_fused(g), expected))
