"""Frozen modules stand still, cost no backward, and thaw."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import functional as F
from tinyres import models, nn, optim
from tinyres.autograd import tape

STAGES = ["layer1", "layer2", "layer3"]


@pytest.fixture
def model():
    tinyres.manual_seed(0)
    return models.replace_head(nn.freeze(models.CifarResNet(8, width=0.25)), 5, 2)


def operations(model):
    """What a training step records, by the names of the operations, and the loss."""
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    with tape() as nodes:
        loss = F.cross_entropy(model.train()(tinyres.Tensor(x)), np.array([0, 1, 0, 1]))
    return [node.op for node in nodes], loss


def test_the_engine_records_the_head_alone(model):
    recorded, loss = operations(model)
    assert recorded == ["linear", "relu", "linear", "cross_entropy"]
    loss.backward()
    with_gradient = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert with_gradient == ["fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"]


def test_an_unfrozen_stage_is_recorded_and_what_is_before_it_is_not(model):
    whole = len(operations(nn.unfreeze(models.CifarResNet(8, width=0.25)))[0])
    counts = [len(operations(model)[0])]
    for stage in reversed(STAGES):
        nn.unfreeze(getattr(model, stage))
        recorded, loss = operations(model)
        counts.append(len(recorded))
    assert counts == sorted(counts)
    assert len(set(counts)) == 4
    assert counts[-1] < whole + 2  # two more operations in the head, but no stem
    loss.backward()
    assert model.conv1.weight.grad is None
    assert model.layer1[0].conv1.weight.grad is not None


def test_training_leaves_frozen_parameters_and_statistics_as_they_are(model):
    before = {name: array.copy() for name, array in model.state_dict().items()}
    optimizer = optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        _, loss = operations(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, array in model.state_dict().items():
        assert np.array_equal(array, before[name]) != name.startswith("fc."), name


def test_train_leaves_frozen_modules_in_evaluation_mode(model):
    model.eval().train()
    assert {name.partition(".")[0] for name, module in model.named_modules() if module.training} == {"fc"}
    nn.unfreeze(model.layer3)
    assert model.layer3[0].bn1.training
    assert not model.layer2[0].bn1.training
    model.eval()
    assert not any(module.training for module in model.modules())
    model.train()
    assert model.layer3[0].bn1.training
    assert not model.bn1.training


def test_unfrozen_a_module_trains_as_one_that_never_was_frozen():
    def trained(thawed):
        tinyres.manual_seed(3)
        model = models.CifarResNet(8, width=0.25, num_classes=2)
        if thawed:
            nn.unfreeze(nn.freeze(model))
        operations(model)[1].backward()
        return {name: p.grad.numpy() for name, p in model.named_parameters()}, model.state_dict()

    for one, other in zip(trained(True), trained(False), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
