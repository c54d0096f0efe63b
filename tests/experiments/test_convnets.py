"""Real networks before training, and what they are shown."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres import Tensor
from tinyres.experiments import convnets
from tinyres.nn import BatchNorm2d, Identity


def test_norms_are_taken_out():
    with_norm, without = (convnets.build("resnet20", 0.25, 0, norm) for norm in (True, False))
    kinds = [type(module) for module in without.modules()]
    assert BatchNorm2d not in kinds
    assert kinds.count(Identity) == sum(isinstance(module, BatchNorm2d) for module in with_norm.modules()) == 19
    state = with_norm.state_dict()
    for key, array in without.state_dict().items():
        np.testing.assert_array_equal(array, state[key])
        assert array.dtype == np.float64


def test_images_are_standard_and_depend_on_the_seed():
    x, same, other = (convnets.images(20, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert x.shape == (20, 1, 28, 28)
    assert x.mean() == pytest.approx(0, abs=1e-12)
    assert x.std() == pytest.approx(1)
    np.testing.assert_array_equal(x, same)
    assert not np.array_equal(x, other)


@pytest.mark.parametrize("model", ["resnet20", "plain20", "preact_resnet20"])
def test_states_are_the_blocks_inputs_and_outputs(model):
    network = convnets.build(model, 0.25, 0)
    x = Tensor(convnets.images(2, np.random.default_rng(0)))
    states, output = convnets.states(network, x)
    assert [state.shape[1] for state in states] == [4, 4, 4, 4, 8, 8, 8, 16, 16, 16]
    assert output.shape == (2, 10)
    np.testing.assert_array_equal(output.data, network(x).data)
    assert not any(module._forward_hooks for module in network.modules())
