"""Optimisers, schedules and clipping against torch.optim: 20 steps of a small network in float64."""

from __future__ import annotations

import numpy as np
import pytest

import tinyres
from tinyres import functional as F
from tinyres import optim

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")
torch.set_num_threads(1)

STEPS = 20


class Pair:
    """The same two-layer network twice, 5 → 7 → 3, with a parameter beside that never gets a gradient."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        first = [rng.standard_normal(shape) for shape in ((7, 5), (7,), (3, 7), (3,), (4,))]
        self.theirs = [torch.tensor(array, requires_grad=True) for array in first]
        self.ours = [tinyres.nn.Parameter(array) for array in first]
        self.batches = rng.standard_normal((STEPS, 8, 5))

    def backward(self, step: int) -> None:
        for parameter in [*self.ours, *self.theirs]:
            parameter.grad = None
        batch = self.batches[step]
        for (w, b, v, c, _), tanh, x in (
            (self.ours, F.tanh, tinyres.Tensor(batch)),
            (self.theirs, torch.tanh, torch.tensor(batch)),
        ):
            y = tanh(x @ w.T + b) @ v.T + c
            y.backward(y.detach() / 8)  # of the loss Σy²/16

    def check(self) -> None:
        for own, other in zip(self.ours, self.theirs, strict=True):
            same(own.data, other.detach().numpy())


def same(own, other):
    assert np.abs(own - other).max() <= 1e-12 * np.abs(other).max()


OPTIMISERS = {
    "SGD": [
        dict(),
        dict(momentum=0.9),
        dict(weight_decay=0.1),
        dict(momentum=0.9, weight_decay=1e-2),
        dict(momentum=0.9, dampening=0.3, weight_decay=1e-2),
        dict(momentum=0.8, nesterov=True),
        dict(momentum=0.8, weight_decay=0.1, nesterov=True),
    ],
    "Adam": [dict(), dict(betas=(0.7, 0.95)), dict(eps=1e-3), dict(weight_decay=0.1), dict(betas=(0.0, 0.5))],
    "AdamW": [dict(), dict(betas=(0.7, 0.95)), dict(eps=1e-3), dict(weight_decay=0.0), dict(weight_decay=0.3)],
}
SETTINGS = [(name, settings) for name, variants in OPTIMISERS.items() for settings in variants]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=[f"{name}({settings})" for name, settings in SETTINGS])
def test_optimisers(name, settings):
    pair = Pair()
    own = getattr(optim, name)(pair.ours, lr=0.05, **settings)
    other = getattr(torch.optim, name)(pair.theirs, lr=0.05, **settings)
    for step in range(STEPS):
        pair.backward(step)
        own.step()
        other.step()
        pair.check()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_defaults(name):
    pair = Pair()
    own, other = getattr(optim, name)(pair.ours), getattr(torch.optim, name)(pair.theirs)
    for key, value in own.param_groups[0].items():
        assert key == "params" or value == other.param_groups[0][key], key


@pytest.mark.parametrize("name", OPTIMISERS)
def test_parameter_groups(name):
    """Each group has its own settings, and what it does not say it takes from the call."""
    pair = Pair()
    own, other = (
        getattr(module, name)([{"params": p[::2], "lr": 0.2}, {"params": p[1::2], "weight_decay": 0.3}], lr=0.01)
        for module, p in ((optim, pair.ours), (torch.optim, pair.theirs))
    )
    for step in range(STEPS):
        pair.backward(step)
        own.step()
        other.step()
        pair.check()


SCHEDULES = {
    "StepLR": lambda library, optimiser: library.StepLR(optimiser, 3, gamma=0.5),
    "MultiStepLR": lambda library, optimiser: library.MultiStepLR(optimiser, [4, 4, 9, 15], gamma=0.3),
    "MultiStepLR, unsorted": lambda library, optimiser: library.MultiStepLR(optimiser, [9, 2]),
    "CosineAnnealingLR": lambda library, optimiser: library.CosineAnnealingLR(optimiser, STEPS, eta_min=0.003),
    "LinearLR": lambda library, optimiser: library.LinearLR(optimiser, 0.1, total_iters=7),
    "LinearLR, down": lambda library, optimiser: library.LinearLR(optimiser, 1.0, 0.2, total_iters=30),
    "warm-up, then cosine": lambda library, optimiser: library.SequentialLR(
        optimiser,
        [library.LinearLR(optimiser, 0.01, total_iters=5), library.CosineAnnealingLR(optimiser, STEPS - 5)],
        milestones=[5],
    ),
    "three in a row": lambda library, optimiser: library.SequentialLR(
        optimiser,
        [
            library.LinearLR(optimiser, 0.5, total_iters=3),
            library.StepLR(optimiser, 2),
            library.MultiStepLR(optimiser, [3]),
        ],
        milestones=[4, 11],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    pair = Pair()
    own, other = (
        module.SGD([{"params": p[:2]}, {"params": p[2:], "lr": 0.1}], lr=0.3, momentum=0.5)
        for module, p in ((optim, pair.ours), (torch.optim, pair.theirs))
    )
    schedule = SCHEDULES[name](optim.lr_scheduler, own)
    its_twin = SCHEDULES[name](torch.optim.lr_scheduler, other)
    for step in range(STEPS):
        rates = [group["lr"] for group in other.param_groups]
        same(np.array([group["lr"] for group in own.param_groups]), np.array(rates))
        same(np.array(schedule.get_last_lr()), np.array(rates))
        pair.backward(step)
        own.step()
        other.step()
        pair.check()
        schedule.step()
        its_twin.step()


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e3])
def test_clip_grad_norm(max_norm):
    pair = Pair()
    for step in range(5):
        pair.backward(step)
        own = optim.clip_grad_norm_(pair.ours, max_norm)
        other = torch.nn.utils.clip_grad_norm_(pair.theirs, max_norm)
        same(own.data, other.numpy())
        for parameter, twin in zip(pair.ours[:4], pair.theirs[:4], strict=True):
            same(parameter.grad.data, twin.grad.numpy())
        assert pair.ours[4].grad is None
