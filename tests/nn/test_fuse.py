"""Batch norm folded into convolutions: the same outputs, and nothing else changed."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import Tensor, models, nn, no_grad


def trained(name, **options):
    """A network whose norms have seen data, so that nothing in them is 0 or 1."""
    tinyres.manual_seed(0)
    model, rng = models.get(name, **options), np.random.default_rng(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            c = len(module.weight)
            module.running_mean.data[...], module.running_var.data[...] = rng.standard_normal(c), rng.uniform(0.5, 2, c)
            module.weight.data[...], module.bias.data[...] = rng.uniform(0.5, 2, c), rng.standard_normal(c)
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "plain18", "resnet20", "plain20", "preact_resnet20"])
def test_a_fused_network_has_the_same_outputs(name):
    model = trained(name).to("float64")
    x = Tensor(np.random.default_rng(1).standard_normal((2, 3, 64, 64)))
    fused = model.fuse()
    assert type(fused) is type(model) and model.training and not fused.training
    norms = [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    # A pre-activation block's first norm follows no convolution.
    assert len(norms) == (10 if name.startswith("preact") else 0)
    expected = model.eval()(x).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(fused(x).numpy(), expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    watched = []
    for module in fused.modules():
        module.register_forward_hook(lambda module, inputs, output: watched.append(module) and None)
    np.testing.assert_allclose(fused(x).numpy(), expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert set(map(id, watched)) == set(map(id, fused.modules()))


def test_outputs_in_float32_within_1e_5():
    model = trained("resnet20").eval()
    x = Tensor(np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32))
    with no_grad():
        found, expected = model.fuse()(x).numpy(), model(x).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_model_stays_as_it_was():
    model = trained("resnet20")
    before = {name: array.copy() for name, array in model.state_dict().items()}
    fused = model.fuse()
    for parameter in fused.parameters():
        assert not parameter.requires_grad
        parameter.data += 1
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_convolutions_own_bias_is_folded_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4)).to("float64")
    rng = np.random.default_rng(0)
    model[0].bias.data[...] = rng.standard_normal(4)
    model[1].running_mean.data[...] = rng.standard_normal(4)
    x = Tensor(rng.standard_normal((2, 3, 5, 6)))
    np.testing.assert_allclose(nn.fuse(model)(x).numpy(), model.eval()(x).numpy(), rtol=1e-12, atol=1e-12)


def test_norms_that_follow_no_convolution_stay():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert [type(module).__name__ for module in nn.fuse(model)] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d"]
