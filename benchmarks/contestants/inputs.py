"""What every contestant is given: a device, and float32 numbers and labels from one seed."""

from __future__ import annotations

import os

import numpy as np

DEVICE = os.environ.get("BENCHMARK_DEVICE", "cpu")  # or "cuda"
RNG = np.random.default_rng(0)
IMAGENET = 18, 50  # ResNets of these depths are ImageNet's, all others CIFAR's
LEARNING_RATE = 1e-3  # small, so that the numbers stay what they are at the start: no NaN, no denormals


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def images(batch: int, side: int) -> np.ndarray:  # (N, 3, side, side)
    return random(batch, 3, side, side)


def labels(batch: int) -> np.ndarray:  # (N,)
    return RNG.integers(0, 10, batch)
