"""Fine-tuning against PyTorch: a frozen trunk in evaluation mode, a last stage that goes on learning more slowly, a
new head of one sigmoid. The same losses step by step, the same running statistics."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from oracle import reference
from tinyres import functional as F
from tinyres import models, nn, optim

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")


@pytest.mark.parametrize("stage", [None, "layer3"])
def test_losses_and_statistics(stage):
    torch.manual_seed(0)
    net = reference.CifarResNet(20).double()
    with torch.no_grad():  # statistics that are not those of a fresh network
        net.train()(torch.tensor(np.random.default_rng(1).normal(size=(32, 3, 16, 16))))
    model = models.resnet20().to("float64")
    model.load_state_dict({key: value.numpy() for key, value in net.state_dict().items()})
    before = {name: array.copy() for name, array in model.state_dict().items()}

    head = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double()
    models.replace_head(nn.freeze(model), 8, 1).to("float64")
    model.fc.load_state_dict({key: value.numpy() for key, value in head.state_dict().items()})
    net.fc = head
    net.requires_grad_(False).eval()
    head.requires_grad_(True).train()
    groups, theirs = [{"params": model.fc.parameters()}], [{"params": head.parameters()}]
    if stage:
        groups += [{"params": nn.unfreeze(getattr(model, stage)).parameters(), "lr": 1e-3}]
        theirs += [{"params": getattr(net, stage).requires_grad_(True).train().parameters(), "lr": 1e-3}]
    own, other = optim.Adam(groups, 1e-2), torch.optim.Adam(theirs, 1e-2)
    model.train()

    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.normal(size=(8, 3, 16, 16)), rng.integers(0, 2, (8, 1))
        loss = F.binary_cross_entropy_with_logits(model(tinyres.Tensor(x)), y)
        its_loss = torch.nn.functional.binary_cross_entropy_with_logits(net(torch.tensor(x)), torch.tensor(y).double())
        for optimiser, of in ((own, loss), (other, its_loss)):
            optimiser.zero_grad()
            of.backward()
            optimiser.step()
        assert loss.item() == pytest.approx(its_loss.item(), abs=1e-9)
    state = net.state_dict()
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-6, atol=1e-9, err_msg=name)
        if not name.startswith(("fc.", stage or "fc.")):
            np.testing.assert_array_equal(array, before[name], err_msg=name)
