"""DeZero 0.0.13 on NumPy, which needs NumPy before 1.24, as Chainer does."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from dezero import Function, Layer, optimizers
from dezero import functions as F
from dezero import layers as L
from dezero.models import Sequential

from benchmarks.contestants.inputs import LEARNING_RATE, images, labels

VERSION = "DeZero " + version("dezero")


class PadChannels(Function):
    """(N, C, H, W) → (N, C + 2·new, H, W): zero channels on either side. DeZero has no padding of its own."""

    def __init__(self, new: int) -> None:
        self.new = new

    def forward(self, x: Any) -> Any:
        return np.pad(x, ((0, 0), (self.new, self.new), (0, 0), (0, 0)))

    def backward(self, dy: Any) -> Any:
        return F.as_variable(dy.data[:, self.new : -self.new])


class Block(Layer):
    """Two 3×3 convolutions around a shortcut of option A."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.new = channels - in_channels
        self.conv1 = L.Conv2d(channels, 3, 2 if self.new else 1, 1, nobias=True, in_channels=in_channels)
        self.bn1 = L.BatchNorm()
        self.conv2 = L.Conv2d(channels, 3, 1, 1, nobias=True, in_channels=channels)
        self.bn2 = L.BatchNorm()

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.new:
            x = F.average_pooling(x, 1, 2)  # every second pixel; x[:, :, ::2, ::2] has a far slower gradient
            x = PadChannels(self.new // 2)(x)
        return F.relu(y + x)


def training(depth: int, batch: int, side: int) -> Callable[[], None]:
    """A step of the CIFAR ResNet of this depth."""
    n = depth // 6
    channels = [16] * (n + 1) + [32] * n + [64] * n
    model = Sequential(
        L.Conv2d(16, 3, 1, 1, nobias=True, in_channels=3),
        L.BatchNorm(),
        F.relu,
        *(Block(channels[i], channels[i + 1]) for i in range(3 * n)),
        lambda x: F.flatten(F.average_pooling(x, x.shape[2:])),
        L.Linear(10, in_size=64),
    )
    optimizer = optimizers.MomentumSGD(LEARNING_RATE, momentum=0.9).setup(model)
    x, y = images(batch, side), labels(batch).astype(np.int16)  # wider ones turn its gradients into float64

    def step() -> None:
        loss = F.softmax_cross_entropy(model(x), y)
        model.cleargrads()
        loss.backward()
        optimizer.update()

    return step
