"""Residual networks that were tried, written as words: other orders of convolution, norm, rectifier and addition,
other shortcuts (He et al. 2016), and nets without normalisation (Zhang et al. 2019, De & Smith 2020).

All have the frame of He et al. 2015, §4.2: 6n + 2 layers, three stages at 16, 32 and 64 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.backend import generator
from tinyres.models.cifar import blocks_per_stage, channels_per_stage
from tinyres.models.resnet import stage
from tinyres.nn import (
    AdaptiveAvgPool2d,
    Add,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    Module,
    Parameter,
    ReLU,
    Sequential,
    init,
)
from tinyres.nn.blocks import make_shortcut


class Variant(NamedTuple):
    """A network in words. Each of stem, branch, after and top is a row of layers: conv (3×3), norm, relu; the scalars
    scale (begins at 1), zero (a scale that begins at 0) and bias; half (times 0.5).

    after: what follows the addition. top: what follows the last block. shortcut: one of SHORTCUTS.
    """

    branch: str = "conv norm relu conv norm"
    after: str = "relu"
    shortcut: str = "identity"
    stem: str = "conv norm relu"
    top: str = ""


class Scalar(Module):
    """A trained number, times (or plus) everything."""

    def __init__(self, start: float, plus: bool = False) -> None:
        self.value, self.plus = Parameter(np.full(1, start, np.float32)), plus

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value if self.plus else x * self.value


class Half(Module):
    """x / 2."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class Gate(Module):
    """(1 − g(x)) · x with g = σ(W x + b), 1×1 (He et al. 2016, §3.1, shortcut-only gating). b begins at 0: half
    open."""

    def __init__(self, channels: int) -> None:
        self.conv = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - F.sigmoid(self.conv(x))) * x


WORDS: dict[str, Callable[[int], Module]] = {
    "norm": BatchNorm2d,
    "relu": lambda channels: ReLU(),
    "scale": lambda channels: Scalar(1),
    "zero": lambda channels: Scalar(0),
    "bias": lambda channels: Scalar(0, plus=True),
    "half": lambda channels: Half(),
}

SHORTCUTS: dict[str, Callable[[int], list[Module]]] = {  # what stands on the skip, of a number of channels
    "identity": lambda channels: [],
    "half": lambda channels: [Half()],
    "dropout": lambda channels: [Dropout(0.5)],
    "gate": lambda channels: [Gate(channels)],
}


def layers(words: str, in_channels: int, channels: int, stride: int = 1) -> Sequential:
    """The layers in a row. The first convolution takes the stride and the change of channels. Convolutions have no
    bias of their own."""
    made: list[Module] = []
    for word in words.split():
        if word == "conv":
            made.append(Conv2d(in_channels, channels, 3, stride, padding=1, bias=False))
            in_channels, stride = channels, 1
        elif word in WORDS:
            made.append(WORDS[word](in_channels))
        else:
            raise ValueError(f"layers: there is no layer {word!r}, expected conv or one of {', '.join(WORDS)}")
    return Sequential(*made)


class Block(Module):
    """after(branch(x) + shortcut(x)): (N, in_channels, H, W) → (N, channels, H/stride, W/stride).

    survival: the probability that the branch takes part in a training step; in evaluation it is weighted by it
    (Huang et al. 2016, eq. 2 and 5).
    """

    expansion = 1
    survival = 1.0

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, variant: Variant) -> None:
        self.branch = layers(variant.branch, in_channels, channels, stride)
        if variant.shortcut == "convolution":  # 1×1 with a norm, everywhere: option C of He et al. 2015
            self.shortcut = make_shortcut("C", in_channels, channels, stride)
        else:
            change = make_shortcut("A", in_channels, channels, stride)
            inside = SHORTCUTS[variant.shortcut](channels)
            self.shortcut = Sequential(*([] if change is None else [change]), *inside)
        self.add = Add()
        self.after = layers(variant.after, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        assert self.shortcut is not None
        skip = self.shortcut(x)
        if self.survival == 1:
            return self.after(self.add(self.branch(x), skip))  # type: ignore[no-any-return]
        if not self.training:
            return self.after(self.add(self.survival * self.branch(x), skip))  # type: ignore[no-any-return]
        if generator().random() < self.survival:
            return self.after(self.add(self.branch(x), skip))  # type: ignore[no-any-return]
        return self.after(skip)  # type: ignore[no-any-return]


class Net(Module):
    """The network of a variant: images (N, in_channels, H, W) → logits (N, num_classes).

    depth: 6n + 2. width: factor on the channels.
    """

    def __init__(
        self, variant: Variant, depth: int, num_classes: int = 10, in_channels: int = 3, width: float = 1.0
    ) -> None:
        n, channels = blocks_per_stage(depth), channels_per_stage(width)
        self.stem = layers(variant.stem, in_channels, channels[0])
        self.layer1 = stage(Block, n, channels[0], channels[0], 1, variant=variant)
        self.layer2 = stage(Block, n, channels[0], channels[1], 2, variant=variant)
        self.layer3 = stage(Block, n, channels[1], channels[2], 2, variant=variant)
        self.top = layers(variant.top, channels[2], channels[2])
        self.pool = Sequential(AdaptiveAvgPool2d(1), Flatten())
        self.fc = Linear(channels[2], num_classes)

    def blocks(self) -> Iterator[Block]:
        for one in (self.layer1, self.layer2, self.layer3):
            yield from one  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.pool(self.top(x)))  # type: ignore[no-any-return]


def zero_gamma(net: Net) -> None:
    """Start each block as the identity: the branch's last norm has weight 0 (Goyal et al. 2017, §5.1)."""
    for block in net.blocks():
        init.constant_(last(block.branch, BatchNorm2d).weight, 0)


def fixup(net: Net) -> None:
    """Fixup's start, for branches of two convolutions (Zhang et al. 2019, §3): the first shrinks by L^(−1/2) where
    L counts the branches, the second is zero, and so is the head."""
    blocks = list(net.blocks())
    for block in blocks:
        first, second = (layer for layer in block.branch if isinstance(layer, Conv2d))
        first.weight.data *= len(blocks) ** -0.5
        init.constant_(second.weight, 0)
    for parameter in net.fc.parameters():
        init.constant_(parameter, 0)


def stochastic_depth(net: Net, last: float = 0.5) -> None:
    """Block l of L survives a step with probability 1 − l/L · (1 − last) (Huang et al. 2016, eq. 4)."""
    blocks = list(net.blocks())
    for position, block in enumerate(blocks, start=1):
        block.survival = 1 - position / len(blocks) * (1 - last)


def last(row: Sequential, kind: type[Module]) -> Any:
    """The last layer of a kind."""
    return [layer for layer in row if isinstance(layer, kind)][-1]
