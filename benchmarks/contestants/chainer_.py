"""Chainer 7.8 on NumPy, which needs NumPy before 1.24 and so Python 3.11 or earlier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chainer
from chainer import functions as F
from chainer import links as L

from benchmarks.contestants.inputs import LEARNING_RATE, images, labels

VERSION = "Chainer " + chainer.__version__


class Block(chainer.Chain):
    """Two 3×3 convolutions around a shortcut of option A."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.new = channels - in_channels
        with self.init_scope():
            self.conv1 = L.Convolution2D(in_channels, channels, 3, 2 if self.new else 1, 1, nobias=True)
            self.bn1 = L.BatchNormalization(channels)
            self.conv2 = L.Convolution2D(channels, channels, 3, 1, 1, nobias=True)
            self.bn2 = L.BatchNormalization(channels)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.new:
            x = F.average_pooling_2d(x, 1, 2)  # every second pixel; x[:, :, ::2, ::2] has a far slower gradient
            x = F.pad(x, ((0, 0), (self.new // 2, self.new // 2), (0, 0), (0, 0)), "constant")
        return F.relu(y + x)


def training(depth: int, batch: int, side: int) -> Callable[[], None]:
    """A step of the CIFAR ResNet of this depth."""
    n = depth // 6
    channels = [16] * (n + 1) + [32] * n + [64] * n
    model = chainer.Sequential(
        L.Convolution2D(3, 16, 3, 1, 1, nobias=True),
        L.BatchNormalization(16),
        F.relu,
        *(Block(channels[i], channels[i + 1]) for i in range(3 * n)),
        lambda x: F.average_pooling_2d(x, x.shape[2:]),
        L.Linear(64, 10),
    )
    optimizer = chainer.optimizers.MomentumSGD(LEARNING_RATE, momentum=0.9).setup(model)
    x, y = images(batch, side), labels(batch)

    def step() -> None:
        loss = F.softmax_cross_entropy(model(x), y)
        model.cleargrads()
        loss.backward()
        optimizer.update()

    return step
