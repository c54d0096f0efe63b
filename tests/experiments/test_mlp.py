"""The small network computes what its first line says."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres import Tensor
from tinyres.experiments.mlp import MLP, Kind, MLPBlock

rng = np.random.default_rng(0)
X = rng.normal(2, 3, size=(8, 5))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("norm", ["none", "centre", "batch"])
@pytest.mark.parametrize("skip", [0, 1, 0.5])
def test_the_formula(skip, norm, constant):
    block = MLPBlock(Kind(skip, 0.3, 2, norm, constant), 5, np.random.default_rng(1))
    z = X - X.mean(axis=0) if norm != "none" else X
    z = z / np.sqrt(X.var(axis=0) + 1e-5) if norm == "batch" else z
    expected = skip * X + 0.3 * np.maximum(z, 0) @ block.weight.data.T
    np.testing.assert_allclose(block(Tensor(X)).data, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["centre", "batch"])
def test_with_constant_statistics_each_gradient_is_of_its_own_input(norm):
    """The gradient at one input, of its own output, by differences with the statistics held."""
    block = MLPBlock(Kind(1, 1, 2, norm, constant_statistics=True), 5, np.random.default_rng(1))
    x, v = Tensor(X, requires_grad=True), np.zeros((8, 5))
    v[3] = rng.normal(size=5)
    (block(x) * v).sum().backward()
    scale = np.sqrt(X.var(axis=0) + 1e-5) if norm == "batch" else 1
    mask = X[3] > X.mean(axis=0)
    expected = v[3] + (v[3] @ block.weight.data) * mask / scale
    np.testing.assert_allclose(x.grad.data[3], expected, rtol=1e-12)
    assert not np.delete(x.grad.data, 3, axis=0).any()


def test_without_they_take_part():
    x = Tensor(X, requires_grad=True)
    v = np.zeros((8, 5))
    v[3] = 1
    (MLPBlock(Kind(norm="centre"), 5, np.random.default_rng(1))(x) * v).sum().backward()
    assert np.delete(x.grad.data, 3, axis=0).any()


def test_the_weights_have_their_variance():
    for gain in (1.0, 2.0):
        weight = MLP(Kind(gain=gain), 1, 300, np.random.default_rng(0)).blocks[0].weight.data
        assert weight.var() == pytest.approx(gain / 300, rel=0.02)


def test_states():
    model = MLP(Kind(skip=1), 3, 5, np.random.default_rng(0))
    states = list(model.states(Tensor(X)))
    assert len(states) == 4
    np.testing.assert_array_equal(states[0].data, X)
    np.testing.assert_array_equal(states[-1].data, model(Tensor(X)).data)


def test_a_norm_that_does_not_exist():
    with pytest.raises(ValueError, match="norm is 'layer', expected one of 'none', 'centre', 'batch'"):
        Kind(norm="layer")
