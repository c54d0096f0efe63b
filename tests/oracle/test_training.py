"""Fifty training steps of ResNet-20 on real images: the same loss as PyTorch's, step by step.

Training multiplies rounding errors: from PyTorch's own initialisation, float32 losses leave float64 ones by 1e-2 to
1e-1 within 20 steps, PyTorch's as much as ours. In float64 the two stay together for all fifty steps. In float32 they
do where every block starts as the identity (γ = 0 in its last norm; Goyal et al. 2017, §5.1), which is far calmer.
"""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from oracle import cifar, reference
from tinyres import functional as F
from tinyres import models, optim

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")

STEPS = 50
SETTINGS = {
    "SGD": dict(lr=0.05, momentum=0.9, weight_decay=1e-4),
    "AdamW": dict(lr=1e-3),
}


def train(name, dtype, batch, zero_gamma):
    """Loss at every step, (STEPS,): ours and PyTorch's, from the same weights on the same batches."""
    x, labels = cifar.images("train", np.random.default_rng(0).permutation(20_000)[: STEPS * batch])
    x = x.astype(dtype)
    torch.manual_seed(0)
    net, model = reference.CifarResNet(20), models.get("resnet20")
    for key, parameter in net.named_parameters():
        if zero_gamma and key.endswith("bn2.weight"):
            torch.nn.init.zeros_(parameter)
    model.load_state_dict({key: value.numpy() for key, value in net.state_dict().items()})
    net.to(getattr(torch, dtype))
    model.to(dtype)

    own = getattr(optim, name)(model.parameters(), **SETTINGS[name])
    other = getattr(torch.optim, name)(net.parameters(), **SETTINGS[name])
    schedule = optim.lr_scheduler.MultiStepLR(own, [30, 40])
    its_twin = torch.optim.lr_scheduler.MultiStepLR(other, [30, 40])
    losses = []
    for start in range(0, STEPS * batch, batch):
        images, target = x[start : start + batch], labels[start : start + batch]
        loss = F.cross_entropy(model(tinyres.Tensor(images)), target)
        its_loss = torch.nn.functional.cross_entropy(net(torch.tensor(images)), torch.tensor(target))
        for optimiser, scheduler, of in ((own, schedule, loss), (other, its_twin, its_loss)):
            optimiser.zero_grad()
            of.backward()
            optimiser.step()
            scheduler.step()
        losses.append((loss.item(), its_loss.item()))
    return np.array(losses).T


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("dtype", "batch", "zero_gamma"), [("float32", 32, True), ("float64", 8, False)], ids=["float32", "float64"]
)
def test_loss_curve(name, dtype, batch, zero_gamma):
    own, theirs = train(name, dtype, batch, zero_gamma)
    assert np.abs(own - theirs).max() <= 1e-3, f"first at step {np.argmax(np.abs(own - theirs) > 1e-3)}"
    assert theirs[-5:].mean() < theirs[:5].mean()  # and it was training
