"""Properties 23 to 25: what holds for the pullback of every kernel and for every operation, on NumPy and on the strict
fake of CuPy. The calls are drawn for each kernel (`kernel_strategies`), in all memory layouts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_strategies import CALLS, KERNELS, OPS
from numeric import dot
from properties import close, normal_like, run, same
from tinyres import Tensor, kernels, threads
from tinyres import functional as F
from tinyres.backend import is_array, share_memory, to_device, to_host
from tinyres.kernels import gradients
from tinyres.testing.strategies import Case, cotangents, residual_nets

every_kernel = pytest.mark.parametrize("name", CALLS)


def test_every_kernel_and_operation_is_there():
    assert set(CALLS) == set(kernels.__all__) - {"gradients"}
    assert {name for name in F.__all__ if not name.startswith("_")} == set(OPS)


def hosts(values):
    """Copies of all arrays, on the host."""
    return [to_host(value).copy() if is_array(value) else value for value in values]


def constant_arguments(name, case):
    """The positions of all arguments but the running statistics, which batch norm moves in training."""
    moved = {"batch_norm": (1, 2), "batch_norm_add_relu": (2, 3)}.get(name, ())
    return [i for i, value in enumerate(case.args) if is_array(value) and i not in moved]


# 23


@every_kernel
@given(data=st.data())
def test_pullback_is_linear(device, name, data):
    case = data.draw(CALLS[name])
    y, pullback = run(KERNELS[name], case, device)
    g, h = normal_like(case, y), normal_like(case, y)
    by_g, by_h, by_both = (pullback(dy) for dy in (g, h, 2 * g - 3 * h))
    for i, both in enumerate(by_both):
        if both is not None:
            close(both, 2 * by_g[i] - 3 * by_h[i], scale=max(np.abs(by_g[i]).max(), np.abs(by_h[i]).max()))


@given(case=CALLS["expand"])
def test_broadcasting_and_summing_are_adjoint(device, case):
    """⟨expand x, g⟩ = ⟨x, sum g⟩, and each is the other's pullback."""
    x, *shape = case.args
    y, pullback = run(kernels.expand, case, device)
    g = normal_like(case, y)
    dx = pullback(g)[0]
    close(dot(y, g), dot(x, dx), 1e-12, np.abs(y * g).sum())
    lead = len(shape) - x.ndim
    dims = *range(lead), *(lead + axis for axis, size in enumerate(x.shape) if size == 1)
    reduce = Case(case.seed, (g,), dict(dim=tuple(dims), keepdim=True))
    total, back = run(kernels.sum, reduce, device)
    close(total.reshape(x.shape), dx)
    close(back(x.reshape(total.shape))[0], y)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
@given(data=st.data())
def test_broadcast_operands_have_the_summed_gradient(device, name, data):
    """That of the same call with both operands written out in full, summed over what was repeated."""
    case = data.draw(CALLS[name])
    y, pullback = run(KERNELS[name], case, device)
    g = normal_like(case, y)
    in_full = [np.broadcast_to(value, y.shape) for value in case.args]
    expected = run(KERNELS[name], case, device, *in_full)[1](g)
    for x, found, full in zip(case.args, pullback(g), expected, strict=True):
        lead = y.ndim - x.ndim
        full = full.sum(tuple(range(lead)))
        axes = tuple(axis for axis in range(x.ndim) if x.shape[axis] == 1)
        close(found, full.sum(axes, keepdims=True))


# 24

# For each kernel that takes a batch, the arguments that have one entry for each sample.
PER_SAMPLE = {
    **dict.fromkeys(("relu", "sigmoid", "tanh", "conv2d", "linear", "batch_norm", "softmax", "log_softmax"), (0,)),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"), (0,)),
    **dict.fromkeys(("batch_norm_add_relu", "conv2d_add_relu", "cross_entropy", "mse_loss"), (0, 1)),
    "binary_cross_entropy_with_logits": (0, 1, 2, 4),
}


@pytest.mark.parametrize("name", PER_SAMPLE)
@given(data=st.data())
def test_permuting_the_batch_permutes_outputs_and_gradients(device, name, data):
    """And leaves the gradients of weights as they are."""
    case = data.draw(CALLS[name].filter(lambda case: case.args[0].ndim > 1))
    if "softmax" in name and case.args[1] % case.args[0].ndim == 0:
        case = replace(case, args=(case.args[0], 1))
    n = len(case.args[0])
    order = case.rng.permutation(n)
    args = [v[order] if i in PER_SAMPLE[name] and v is not None else v for i, v in enumerate(case.args)]
    y, pullback = run(KERNELS[name], case, device)
    permuted_y, permuted_pullback = run(KERNELS[name], replace(case, args=tuple(args)), device)
    g = normal_like(case, y)
    has_batch = y.ndim > 0
    close(permuted_y, y[order] if has_batch else y)
    found = permuted_pullback(g[order] if has_batch else g)
    for i, (part, expected) in enumerate(zip(found, pullback(g), strict=True)):
        assert (part is None) == (expected is None)
        if part is not None:
            close(part, expected[order] if i in PER_SAMPLE[name] else expected, 1e-9)


@given(case=CALLS["linear"].filter(lambda case: case.args[0].ndim > 1))
def test_weight_gradients_of_two_batches_add_up(device, case):
    """dw(A ⊕ B) = dw(A) + dw(B) for a linear layer (for convolution, see there)."""
    x, *rest = case.args
    other = case.rng.standard_normal((3, *x.shape[1:]))
    y, pullback = run(kernels.linear, case, device, np.concatenate([x, other]), *rest)
    g = normal_like(case, y)
    parts = [(x, g[: len(x)]), (other, g[len(x) :])]
    found, first, second = pullback(g), *(run(kernels.linear, case, device, a, *rest)[1](dy) for a, dy in parts)
    for i in range(1, 2 if rest[1] is None else 3):
        close(found[i], first[i] + second[i])


def backward(net, x, g):
    """Output, input gradient and parameter gradients by name, on the host, of the network as it is."""
    x = Tensor(x, requires_grad=True)
    net.module.zero_grad()
    y = net.module(x)
    g = g(y.shape) if callable(g) else g
    y.backward(to_device(g, y.device))
    return y.numpy(), x.grad.numpy(), {name: p.grad.numpy() for name, p in net.module.named_parameters()}, g


@given(net=residual_nets())
def test_permuting_the_batch_of_a_network(device, net):
    order = net.rng.permutation(len(net.input))
    there = net.to(device)
    y, dx, dw, g = backward(there, there.input, net.rng.standard_normal)
    permuted_y, permuted_dx, permuted_dw, _ = backward(there, to_device(net.input[order], device), g[order])
    close(permuted_y, y[order], 1e-9)
    close(permuted_dx, dx[order], 1e-8)
    for name, gradient in dw.items():
        close(permuted_dw[name], gradient, 1e-8)


@given(net=residual_nets())
def test_gradients_of_two_batches_add_up_in_a_network(device, net):
    """In evaluation, where batch norm does not look at the batch."""
    net.module.eval()
    there = net.to(device)
    other = net.rng.standard_normal((2, *net.input.shape[1:]))
    both = to_device(np.concatenate([net.input, other]), device)
    _, _, total, g = backward(there, both, net.rng.standard_normal)
    _, _, first, _ = backward(there, there.input, g[: len(net.input)])
    _, _, second, _ = backward(there, to_device(other, device), g[len(net.input) :])
    for name, gradient in total.items():
        close(first[name] + second[name], gradient, 1e-9)


# 25


@every_kernel
@given(data=st.data())
def test_kernels_look_at_values_alone_and_change_nothing(device, name, data):
    """Neither the array module nor the layout of arguments and cotangent matters, against NumPy on contiguous copies;
    no argument, cotangent or output changes; the second call gives the same bits, whatever became of the first's."""
    case, kernel = data.draw(CALLS[name]), KERNELS[name]
    plain, moved = replace(case, layouts=()).to("cpu"), case.to(device)
    expected_y, expected_pullback = kernel(*plain.args, **plain.options)
    y, pullback = kernel(*moved.args, **moved.options)
    y = np.asarray(y) if isinstance(y, np.generic) else y
    g = data.draw(cotangents(y))
    kept_y, kept_g = hosts([y, g])
    parts = gradients(pullback, g)
    found = hosts(parts)

    close(kept_y, expected_y, 1e-12)
    for part, expected in zip(found, gradients(expected_pullback, kept_g), strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            assert part.dtype == y.dtype
            close(part, expected, 1e-11)
    for value, part in zip(moved.args, parts, strict=False):
        assert part is None or value is None or value.dtype.kind == "f"
    for value, expected in zip(hosts(moved.args), plain.args, strict=True):
        if is_array(value):
            close(value, expected, 1e-12)  # running statistics, moved alike

    constant = constant_arguments(name, case)
    assert np.array_equal(to_host(g), kept_g) and np.array_equal(to_host(y), kept_y)
    assert all(np.array_equal(to_host(moved.args[i]), case.args[i]) for i in constant)
    for gradient in parts:
        if gradient is not None and not share_memory(gradient, g):
            assert not any(share_memory(gradient, moved.args[i]) for i in constant)
            with suppress(ValueError, TypeError):  # what is broadcast is read-only, and so are NumPy's scalars
                gradient[...] = np.nan
    assert all(map(same, hosts(gradients(pullback, g)), found))
    fresh = case.to(device)
    again, pullback_again = kernel(*fresh.args, **fresh.options)
    assert np.array_equal(to_host(again), kept_y)
    assert all(map(same, hosts(gradients(pullback_again, g)), found))


@pytest.mark.parametrize("name", OPS)
@given(data=st.data())
def test_operations_give_the_kernels_gradients_and_add_up(device, name, data):
    """To the bit, so that what holds for a kernel holds for the operation; two backwards give twice the gradient; no
    `.grad` shares memory with another, the cotangent, an argument or the output."""
    case = data.draw(CALLS[name])
    output, pullback = run(KERNELS[name], case, device)
    expected = pullback(normal_like(case, output))
    moved = case.to(device)
    inputs = [
        Tensor(value, requires_grad=True) if is_array(value) and part is not None else value
        for value, part in zip_longest(moved.args, expected)
    ]
    y = OPS[name](*inputs, **moved.options)
    assert np.array_equal(y.numpy(), output)
    leaves = [(x, part) for x, part in zip(inputs, expected, strict=False) if isinstance(x, Tensor)]
    g = to_device(normal_like(replace(case), output), device)  # the same again
    memory = [g, y.data, *(x.data for x, _ in leaves)]
    for times in (1, 2):
        y.backward(g, retain_graph=True)
        for i, (x, part) in enumerate(leaves):
            assert np.array_equal(x.grad.numpy(), times * part)
            others = *memory, *(other.grad.data for other, _ in leaves[:i])
            assert not any(share_memory(x.grad.data, other) for other in others)
    assert np.array_equal(to_host(g), normal_like(replace(case), output))
    assert all(np.array_equal(to_host(moved.args[i]), case.args[i]) for i in constant_arguments(name, case))


@pytest.mark.parametrize("name", ["conv2d", "batch_norm", "batch_norm_add_relu"])
@given(data=st.data(), block_bytes=st.sampled_from([1, 1000]))
def test_cutting_the_work_into_blocks_changes_nothing(device, name, data, block_bytes):
    case = data.draw(CALLS[name])
    y, pullback = run(KERNELS[name], case, device)
    g = normal_like(case, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(threads.BLOCK_BYTES, device, block_bytes)
        again, pullback_again = run(KERNELS[name], case, device)
        found = pullback_again(g)
    close(again, y)
    for part, expected in zip(found, pullback(g), strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            close(part, expected)


@given(net=residual_nets())
def test_networks_repeat_to_the_bit_and_agree_on_both_modules(device, net):
    """Twice the gradient of two backwards, the cotangent and the input unchanged, the host's numbers."""
    expected_y, expected_dx, expected_dw, g = backward(net.to("cpu"), net.input, net.rng.standard_normal)
    there = net.to(device)
    results = [backward(there, there.input, g) for _ in range(2)]
    (y, dx, dw, _), (again, dx_again, dw_again, _) = results
    assert np.array_equal(y, again) and np.array_equal(dx, dx_again)
    assert np.array_equal(to_host(there.input), net.input)
    close(y, expected_y, 1e-9)
    close(dx, expected_dx, 1e-8)
    for name, gradient in dw.items():
        assert np.array_equal(gradient, dw_again[name])
        close(gradient, expected_dw[name], 1e-8)
    x = Tensor(there.input, requires_grad=True)
    there.module.zero_grad()
    y = there.module(x)
    for _ in range(2):
        y.backward(to_device(g, device), retain_graph=True)
    assert all(np.array_equal(p.grad.numpy(), 2 * dw[name]) for name, p in there.module.named_parameters())
    grads = [x.grad.data, *(p.grad.data for p in there.module.parameters())]
    assert not any(share_memory(a, b) for i, a in enumerate(grads) for b in grads[:i])
