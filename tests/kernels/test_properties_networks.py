"""Networks, properties 18 to 22: what goes through many layers, on NumPy and on the strict fake of CuPy.

Conservation through rectifiers and pooling, convolutions before a batch norm, and residual blocks.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_strategies import CALLS, KERNELS
from numeric import dot
from properties import close, normal_like, run
from tinyres import Tensor, kernels, nn
from tinyres import functional as F
from tinyres.backend import to_device
from tinyres.testing.strategies import Case, bn_cases, conv_cases, normal, residual_nets, seeds

# Homogeneous functions. Where f(tx) = t·f(x) for t > 0, ⟨x, dx⟩ = ⟨f(x), g⟩ (Euler).


@st.composite
def relu_nets(draw):
    """Images, the weights of convolutions and of a head, and the layers' options: no bias, no norm."""
    n, c, classes, seed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(seeds())
    rng, layers = np.random.default_rng(seed), []
    x = normal(rng, (n, c, draw(st.integers(6, 8)), draw(st.integers(5, 9))))
    weights = []
    for _ in range(draw(st.integers(1, 4))):
        o, k, stride = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3])), draw(st.integers(1, 2))
        layers.append(
            dict(stride=stride, padding=k // 2, pool=draw(st.sampled_from([None, F.max_pool2d, F.avg_pool2d])))
        )
        weights.append(normal(rng, (o, c, k, k)))
        c = o
    return Case(seed, (x, *weights, normal(rng, (classes, c))), dict(layers=layers))


def relu_net(x, *weights, layers):
    for w, layer in zip(weights, layers, strict=False):
        x = F.relu(F.conv2d(x, w, None, layer["stride"], layer["padding"]))
        if layer["pool"]:
            x = layer["pool"](x, 3, 2, 1)
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), weights[-1])


@given(case=relu_nets())
def test_every_layer_of_a_relu_net_conserves_the_same(device, case):
    """⟨W_l, dW_l⟩ = ⟨x, dx⟩ = ⟨f, ∂L/∂f⟩ for all layers l."""
    inputs = [Tensor(value, requires_grad=True) for value in case.to(device).args]
    f = relu_net(*inputs, **case.options)
    target = Tensor(case.rng.integers(0, f.shape[1], len(f))).to(device)
    f.retain_grad()
    (F.cross_entropy(f, target) + (f * Tensor(to_device(normal_like(case, f), device))).sum()).backward()
    conserved = dot(f.numpy(), f.grad.numpy())
    scale = np.abs(f.numpy() * f.grad.numpy()).sum()
    for value in inputs:
        close(dot(value.numpy(), value.grad.numpy()), conserved, 1e-11, scale)


@pytest.mark.parametrize("name", ["relu", "abs", "amax", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
@given(data=st.data())
def test_rectifier_and_pooling_are_homogeneous(device, name, data):
    """⟨x, dx⟩ = ⟨y, g⟩: each output is a weighted sum of the inputs it came from."""
    case = data.draw(CALLS[name])
    y, pullback = run(KERNELS[name], case, device)
    g = normal_like(case, y)
    close(dot(case.args[0], pullback(g)[0]), dot(y, g), 1e-12, np.abs(y * g).sum())


@pytest.mark.parametrize("name", ["avg_pool2d", "adaptive_avg_pool2d"])
@given(data=st.data())
def test_average_pooling_conserves_the_gradients_sum(device, name, data):
    """Σdx = Σg for each channel of each image, if no border is averaged in."""
    case = data.draw(CALLS[name])
    if "padding" in case.options and any(case.options["padding"]):
        case.options["count_include_pad"] = False
    y, pullback = run(KERNELS[name], case, device)
    g = normal_like(case, y)
    close(pullback(g)[0].sum((2, 3)), g.sum((2, 3)))


@given(case=CALLS["cross_entropy"])
def test_rows_of_the_cross_entropy_gradient_sum_to_zero(device, case):
    y, pullback = run(kernels.cross_entropy, case, device)
    dx = pullback(normal_like(case, y))[0]
    close(dx.sum(1), np.zeros(case.args[1].shape))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(data=st.data())
def test_softmax_ignores_a_shift(device, name, data):
    case = data.draw(CALLS[name])
    x, dim = case.args
    y, pullback = run(KERNELS[name], case, device)
    close(run(KERNELS[name], case, device, x + 1000, dim)[0], y, 1e-11)
    close(pullback(normal_like(case, y))[0].sum(dim), np.zeros(y.sum(dim).shape))


# A convolution before a batch norm, which ignores scale and shift of each filter


def before_batch_norm(case, device):
    """s, γ, ε and x̂ per filter, g, and the convolution's gradients."""
    z, pull_conv = run(kernels.conv2d, case, device)
    axes, channels, eps = (0, 2, 3), z.shape[1], 1e-3
    weight, bias = case.rng.uniform(0.5, 2, channels), case.rng.standard_normal(channels)
    norm = Case(case.seed, (z, None, None, weight, bias), dict(training=True, eps=eps))
    y, pull_norm = run(kernels.batch_norm, norm, device)
    s = np.sqrt(z.var(axes) + eps)
    normed = (z - z.mean(axes, keepdims=True)) / s[:, None, None]
    g = normal_like(case, y)
    return s, weight, eps, normed, g, pull_conv(pull_norm(g)[0])


several_images = conv_cases().filter(lambda case: len(case.args[0]) > 1)  # so that there is a variance


@given(case=several_images)
def test_weights_before_a_batch_norm_are_nearly_orthogonal_to_their_gradients(device, case):
    """Per filter, ⟨w, dw⟩ = γ(ε/s²) Σ g·x̂."""
    x, w, _ = case.args
    s, weight, eps, normed, g, (_, dw, _) = before_batch_norm(case, device)
    scale = np.abs(g).sum() * np.abs(x).max() * np.abs(w).sum() / s.min()
    close((w * dw).sum((1, 2, 3)), weight * eps / s**2 * (g * normed).sum((0, 2, 3)), 1e-11, scale)


@given(case=several_images)
def test_a_bias_before_a_batch_norm_has_no_gradient(device, case):
    s, _, _, _, g, (_, _, db) = before_batch_norm(case, device)
    close(db, np.zeros(len(s)), 1e-11, np.abs(g).sum() / s.min())


# Residual blocks


def branch_of(block):
    """F of a residual block y = x + F(x) or relu(x + F(x)): the same layers and parameters, nothing around them."""
    branch = copy.deepcopy(block)
    branch.add = branch.downsample = None
    if not isinstance(block, nn.PreActBlock):
        last = [module for module in branch.children() if isinstance(module, nn.ReLU)][-1]
        last.register_forward_hook(lambda module, inputs, output: inputs[0])
    return branch


def pulled_back(module, x, g):
    """The module's output at x, and the gradient by x: arrays of the module's device."""
    x = Tensor(x, requires_grad=True)
    y = module(x)
    y.backward(g)
    return y.data, x.grad.data


def cotangent_on(device, net, x):
    return to_device(net.rng.standard_normal(x.shape), device)


@given(
    net=residual_nets(max_depth=1, identity=True) | residual_nets(max_depth=1, blocks=(nn.BasicBlock, nn.Bottleneck))
)
def test_the_gradient_of_a_block_is_the_skips_plus_the_branchs(device, net):
    """y = x + F(x): dx = g + J_Fᵀ g. After a last rectifier g is what passes it; a projection S gives J_Sᵀ g for g."""
    net = net.to(device)
    (block,) = net.module
    y = block(Tensor(net.input)).data
    g = cotangent_on(device, net, y)
    _, dx = pulled_back(block, net.input, g)
    passed = g if isinstance(block, nn.PreActBlock) else g * (y > 0)
    f, by_branch = pulled_back(branch_of(block), net.input, passed)
    skip, by_skip = pulled_back(block.downsample or nn.Identity(), net.input, passed)
    total = to_device(f + skip, "cpu")
    close(to_device(y, "cpu"), total if isinstance(block, nn.PreActBlock) else np.maximum(total, 0))
    close(to_device(dx, "cpu"), to_device(by_skip + by_branch, "cpu"), 1e-9)


@given(net=residual_nets(identity=True))
def test_with_zero_gamma_residual_blocks_are_the_identity_to_the_bit(device, net):
    """In the last norm of each block: y = x and dx = g (of positive x, where a block ends in a rectifier)."""
    x = np.abs(net.input)
    for block in net.module:
        last = [module for module in block.children() if isinstance(module, nn.BatchNorm2d)][-1]
        last.weight.data[...] = last.bias.data[...] = 0
    g = cotangent_on(device, net, x)
    y, dx = pulled_back(net.to(device).module, to_device(x, device), g)
    assert np.array_equal(to_device(y, "cpu"), x)
    assert np.array_equal(to_device(dx, "cpu"), to_device(g, "cpu"))


@given(case=bn_cases(training=True))
def test_with_zero_gamma_the_fused_kernel_passes_the_residual_to_the_bit(device, case):
    x, _, _, _, _ = case.args
    zero, residual = np.zeros(x.shape[1]), case.rng.standard_normal(x.shape)
    y, pullback = run(kernels.batch_norm_add_relu, case, device, x, residual, None, None, zero, zero)
    g = normal_like(case, y)
    dx, dresidual, *_ = pullback(g)
    assert np.array_equal(y, np.maximum(residual, 0))
    assert not dx.any() and np.array_equal(dresidual, g * (residual > 0))


@given(net=residual_nets(max_depth=4, blocks=(nn.PreActBlock,), identity=True))
def test_the_branches_sum_to_what_a_chain_adds(device, net):
    """x_L − x_0 = Σ F_l(x_l)."""
    net = net.to(device)
    seen = []
    for block in net.module:
        block.add.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numpy()))
    y = net.module(Tensor(net.input)).numpy()
    assert len(seen) == len(net.module)
    close(y - to_device(net.input, "cpu"), sum(seen), 1e-12)


@given(net=residual_nets(max_depth=4, blocks=(nn.PreActBlock,), identity=True))
def test_gradients_by_path_length_sum_to_the_whole_gradient(device, net):
    """Π (1 + J_lᵀ) g = Σ over the number k of branches taken; that of k = 0 is g itself."""
    net = net.to(device)
    points = [net.input]
    for block in net.module:
        points.append(block(Tensor(points[-1])).data)
    g = cotangent_on(device, net, net.input)
    by_length = [g]
    for block, x in reversed(list(zip(net.module, points[:-1], strict=True))):
        taken = [pulled_back(branch_of(block), x, gradient)[1] for gradient in by_length]
        by_length = [g, *(skipped + more for skipped, more in zip(by_length[1:], taken, strict=False)), taken[-1]]
    assert len(by_length) == len(net.module) + 1
    _, dx = pulled_back(net.module, net.input, g)
    total = sum(to_device(gradient, "cpu") for gradient in by_length)
    close(to_device(dx, "cpu"), total, 1e-11, max(np.abs(to_device(part, "cpu")).max() for part in by_length))
