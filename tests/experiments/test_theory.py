"""Mean-field theory against wide networks, and against its own definitions in other words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tinyres import Tensor
from tinyres.experiments.mlp import MLP, Kind
from tinyres.experiments.theory import branch_factors, gradient_rms, path_shares, variances

KINDS = {
    "plain": Kind(),
    "plain + BN": Kind(norm="batch"),
    "residual + BN": Kind(skip=1, norm="batch"),
    "residual + BN, Glorot": Kind(skip=1, norm="batch", gain=1),
    "λ, β": Kind(skip=0.5, branch=0.7, norm="batch"),
    "λ, no norm": Kind(skip=0.5, branch=0.7),
}
DEPTH = 6


@pytest.mark.parametrize("name", KINDS)
def test_wide_networks_agree(name):
    kind, seen_variances, seen_rms = KINDS[name], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        states = list(MLP(kind, DEPTH, 300, rng).states(Tensor(rng.normal(size=(256, 300)), requires_grad=True)))
        for state in states:
            state.retain_grad()
        states[-1].backward(rng.normal(size=states[-1].shape))
        rms = np.array([np.sqrt((state.grad.data**2).mean()) for state in states])
        seen_rms.append(rms / rms[-1])
        seen_variances.append([state.data.var(axis=0).mean() for state in states[:-1]])
    np.testing.assert_allclose(gradient_rms(kind, DEPTH), np.mean(seen_rms, axis=0), rtol=0.06)
    if kind.norm == "batch":
        np.testing.assert_allclose(variances(kind, DEPTH), np.mean(seen_variances, axis=0), rtol=0.05)


def test_numbers_worked_out_by_hand():
    np.testing.assert_allclose(variances(Kind(skip=1, norm="batch"), 3), [1, 2 - 1 / np.pi, 3 - 2 / np.pi])
    np.testing.assert_allclose(branch_factors(Kind(norm="batch"), 3), [1, np.pi / (np.pi - 1), np.pi / (np.pi - 1)])
    np.testing.assert_allclose(gradient_rms(Kind(skip=1), 4), 2.0 ** (np.arange(4, -1, -1) / 2))
    np.testing.assert_allclose(gradient_rms(Kind(gain=1), 2), [1 / 2, 2**-0.5, 1])
    np.testing.assert_allclose(path_shares(Kind(skip=1), 2), [1 / 4, 1 / 2, 1 / 4])
    np.testing.assert_allclose(path_shares(Kind(skip=1, gain=1), 2), [4 / 9, 4 / 9, 1 / 9])


def test_path_shares_are_sums_over_all_paths():
    kind = KINDS["λ, β"]
    factors, sums = branch_factors(kind, 5), np.zeros(6)
    for taken in itertools.product([0, 1], repeat=5):
        sums[sum(taken)] += np.prod([f if t else kind.skip**2 for f, t in zip(factors, taken, strict=True)])
    np.testing.assert_allclose(path_shares(kind, 5), sums / sums.sum(), rtol=1e-12)


def test_a_plain_net_has_the_longest_path_only():
    np.testing.assert_array_equal(path_shares(Kind(), 4), [0, 0, 0, 0, 1])
