"""The path-length spectrum: against networks whose answer is known, and against gradients with weighed branches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tinyres import Tensor, differentiable, flow, models, nn
from tinyres import functional as F
from tinyres.backend import get_rng_state
from tinyres.flow.paths import binomial, mean_length
from tinyres.models.resnet import ResNet


def dot(output, cotangent):
    return (output * cotangent).sum()


class Scaling(nn.Module):
    """h ← h + a·h."""

    def __init__(self, a):
        self.a, self.add = a, nn.Add()

    def forward(self, h):
        return self.add(h * self.a, h)


def bottleneck_net():
    return ResNet(nn.Bottleneck, (1, 1, 1, 1), 10)


NETS = {
    "ResNet": lambda: models.resnet20(width=0.25),
    "ResNet, projections": lambda: models.resnet20(width=0.25, shortcut="C"),
    "pre-activation": lambda: models.preact_resnet20(width=0.25, shortcut="B"),
    "bottlenecks": bottleneck_net,
    "evaluation": lambda: models.resnet20(width=0.25).eval(),
}


def case(name, seed=0):
    rng = np.random.default_rng(seed)
    return NETS[name]().to("float64"), rng.normal(size=(3, 3, 16, 16)), rng.integers(0, 10, 3)


def gradient(model, x, y, loss=F.cross_entropy):
    leaf = Tensor(x, requires_grad=True)
    loss(model(leaf), y).backward()
    return leaf.grad.data


def assert_close(actual, expected, tolerance=1e-12):
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("name", NETS)
def test_the_sum_is_the_gradient(name):
    model, x, y = case(name)
    spectrum = flow.path_spectrum(model, x, y)
    assert len(spectrum.gradients) == 1 + sum(isinstance(module, nn.Add) for module in model.modules())
    assert_close(sum(spectrum.gradients), gradient(model, x, y))


@pytest.mark.parametrize("t", [0, 0.5, -2])
@pytest.mark.parametrize("name", ["ResNet", "pre-activation", "bottlenecks"])
def test_it_is_a_polynomial_in_the_weight_of_the_branches(name, t):
    """Multiply the gradient into each branch by t: what arrives is Σ G[k]·tᵏ."""
    model, x, y = case(name)
    spectrum = flow.path_spectrum(model, x, y)

    @differentiable
    def weigh(z):
        return z * 1, lambda dz: dz * t

    for module in model.modules():
        if isinstance(module, nn.Add):
            module.register_forward_hook(lambda _, inputs, __: weigh(inputs[0]) + inputs[1])
    expected = gradient(model, x, y)
    assert_close(sum(g * float(t) ** k for k, g in enumerate(spectrum.gradients)), expected, 1e-11)


def test_scalings_give_elementary_symmetric_polynomials():
    factors = [2.0, -0.5, 3.0, 0.25]
    model = nn.Sequential(*map(Scaling, factors))
    x, v = np.random.default_rng(0).normal(size=(2, 3, 5))
    spectrum = flow.path_spectrum(model, x, v, dot)
    symmetric = [sum(math.prod(chosen) for chosen in itertools.combinations(factors, k)) for k in range(5)]
    for g, factor in zip(spectrum.gradients, symmetric, strict=True):
        np.testing.assert_allclose(g, factor * v, rtol=1e-14)
    squares = np.square(symmetric)
    np.testing.assert_allclose(spectrum.shares, squares / squares.sum(), rtol=1e-14)
    assert spectrum.mean == pytest.approx(squares @ np.arange(5) / squares.sum())


def test_blocks_that_are_skipped_altogether():
    model = nn.Sequential(Scaling(0.0), Scaling(1.0))
    shares = flow.path_spectrum(model, np.ones((1, 2)), np.ones((1, 2)), dot).shares
    np.testing.assert_allclose(shares, [0.5, 0.5, 0])


def test_a_branch_that_the_input_does_not_reach():
    class Shift(nn.Module):
        def __init__(self):
            self.add, self.bias = nn.Add(), nn.Parameter(np.ones((1, 2)))

        def forward(self, x):
            return self.add(self.bias * 1, x)

    shares = flow.path_spectrum(nn.Sequential(Shift()), np.ones((1, 2)), np.ones((1, 2)), dot).shares
    np.testing.assert_array_equal(shares, [1, 0])


def test_no_gradient_at_all():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach()

    model = nn.Sequential(Cut(), nn.Conv2d(3, 3, 1), Scaling(1.0))
    spectrum = flow.path_spectrum(model, np.ones((1, 3, 2, 2), np.float32), np.ones((1, 3, 2, 2), np.float32), dot)
    assert not any(gradient.any() for gradient in spectrum.gradients)
    assert np.isnan(spectrum.shares).all()


def test_a_module_that_runs_twice_is_two_blocks():
    block = Scaling(1.0)
    shares = flow.path_spectrum(nn.Sequential(nn.Sequential(block, block)), np.ones(2), np.ones(2), dot).shares
    np.testing.assert_allclose(shares, np.square([1, 2, 1]) / 6)


def test_everything_is_as_it_was():
    model, x, y = case("ResNet")
    model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
    gradient(model, x, y)  # fills .grad
    model.layer2.eval()
    before = {key: array.copy() for key, array in model.state_dict().items()}
    grads, modes = [p.grad for p in model.parameters()], [m.training for m in model.modules()]
    values, random, leaf = [g.data.copy() for g in grads], get_rng_state(), Tensor(x, requires_grad=True)
    flow.path_spectrum(model, leaf, y)
    assert leaf.grad is None
    assert [m.training for m in model.modules()] == modes
    assert get_rng_state() == random
    assert not any(module._forward_hooks for module in model.modules())
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    for parameter, grad, value in zip(model.parameters(), grads, values, strict=True):
        assert parameter.grad is grad
        np.testing.assert_array_equal(grad.data, value)


def test_on_a_gpu(cupy):
    model, x, y = case("ResNet")
    expected = flow.path_spectrum(model, x, y).shares
    model.to("cuda")
    spectrum = flow.path_spectrum(model, Tensor(x).to("cuda"), Tensor(y).to("cuda"))
    np.testing.assert_allclose(spectrum.shares, expected, rtol=1e-9)


def test_a_plain_network_is_refused():
    with pytest.raises(ValueError, match=r"CifarResNet has no nn\.Add"):
        flow.path_spectrum(models.plain20(width=0.25), np.zeros((1, 3, 8, 8), np.float32), [0])


def test_a_loss_of_many_numbers_is_refused():
    with pytest.raises(ValueError, match=r"the loss has shape \(2, 3\)"):
        flow.path_spectrum(nn.Sequential(Scaling(1.0)), np.ones((2, 3)), None, lambda output, _: output)


def test_binomial_and_means():
    np.testing.assert_allclose(binomial(3), np.array([1, 3, 3, 1]) / 8)
    np.testing.assert_allclose(mean_length(np.array([[0, 0, 1], [0.5, 0.5, 0]])), [2, 0.5])


def test_the_picture_is_the_shares():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    spectra = {"short": np.array([0.5, 0.3, 0.2, 0]), "long": np.array([0, 0.1, 0.2, 0.7])}
    ax = flow.path_plot(spectra)
    ax.figure.canvas.draw()
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(lines["short: mean 0.7"].get_ydata(), spectra["short"])
    np.testing.assert_array_equal(lines["long: mean 2.6"].get_xdata(), range(4))
    upright = sorted(line.get_xdata()[0] for label, line in lines.items() if label.startswith("_"))
    np.testing.assert_allclose(upright, [0.7, 2.6])
    assert "all $2^{3}$ paths: mean 1.5" in ax.get_legend_handles_labels()[1]
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    plt.close("all")
    assert len(flow.PathSpectrum([np.ones(2), np.ones(2)]).plot(plt.figure().add_subplot()).lines) == 2
    plt.close("all")
