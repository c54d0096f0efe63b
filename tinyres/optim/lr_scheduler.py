"""Learning-rate schedules: each is a factor on the groups' first learning rates, as a function of the step count.

Call `step()` after the optimiser's: once an epoch, or once a batch, whichever the schedule's numbers mean.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

from tinyres.optim.optimizer import Optimizer


class LRScheduler:
    """Base: `factor(t)` says by what to multiply the first learning rates after t steps.

    Makes the rates of step 0 current at once. `last_epoch`: how many steps were taken.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.last_epoch = optimizer, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._apply()

    def factor(self, t: int) -> float:
        raise NotImplementedError

    def step(self) -> None:
        """One epoch, or batch, is over."""
        self.last_epoch += 1
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(self.last_epoch)

    def get_last_lr(self) -> list[float]:
        """Each group's learning rate now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self._apply()


class StepLR(LRScheduler):
    """Times gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Times gamma at each milestone: at 32k and 48k steps in He et al. 2015, §4.2."""

    def __init__(self, optimizer: Optimizer, milestones: list[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def factor(self, t: int) -> float:
        return self.gamma ** bisect_right(self.milestones, t)


class CosineAnnealingLR(LRScheduler):
    """Down a half cosine to eta_min in T_max steps (Loshchilov & Hutter 2017, eq. 5)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def _apply(self) -> None:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.eta_min + (group["initial_lr"] - self.eta_min) * share


class LinearLR(LRScheduler):
    """Warm-up: the factor goes from start_factor to end_factor in total_iters steps (Goyal et al. 2017, §2.2)."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def factor(self, t: int) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * min(t / self.total_iters, 1)


class SequentialLR(LRScheduler):
    """One schedule after the other, the next from each milestone on, counting from 0 again: warm-up, then cosine."""

    def __init__(self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int]) -> None:
        if len(schedulers) != len(milestones) + 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need {len(schedulers) - 1} milestones, got {milestones}"
            )
        self.schedulers, self.milestones = schedulers, milestones
        super().__init__(optimizer)

    def _apply(self) -> None:
        current = bisect_right(self.milestones, self.last_epoch)
        scheduler = self.schedulers[current]
        scheduler.last_epoch = self.last_epoch - ([0, *self.milestones][current])
        scheduler._apply()
