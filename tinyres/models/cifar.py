"""ResNets for small images, 6n + 2 layers deep (He et al. 2015, §4.2), their plain twins, and the pre-activation
form (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator

from tinyres.autograd import Tensor
from tinyres.models.architecture import Architecture
from tinyres.models.resnet import last, stage, zero_gamma
from tinyres.nn import (
    AdaptiveAvgPool2d,
    BasicBlock,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    Module,
    PreActBlock,
    ReLU,
)
from tinyres.nn.blocks import conv_norm_relu, norm_relu
from tinyres.nn.fuse import fuse


class CifarResNet(Module):
    """A 3×3 convolution, three stages of n blocks at 16, 32 and 64 channels, and a linear head.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110, 1202, … num_classes: the head's outputs. in_channels: the image's.
        width: factor on the channels 16, 32, 64.
        shortcut: "A" (zero padding, the paper's choice here), "B" or "C".
        residual: False for the plain twin, the same layers without additions.
        zero_init_residual: start each block as the identity (Goyal et al. 2017, §5.1).

    Images (N, in_channels, H, W) → logits (N, num_classes).
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        shortcut: str = "A",
        residual: bool = True,
        zero_init_residual: bool = False,
    ) -> None:
        n, channels = blocks_per_stage(depth), channels_per_stage(width)
        self.conv1 = Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels[0])
        self.relu = ReLU()
        self.layer1 = stage(BasicBlock, n, channels[0], channels[0], 1, shortcut=shortcut, residual=residual)
        self.layer2 = stage(BasicBlock, n, channels[0], channels[1], 2, shortcut=shortcut, residual=residual)
        self.layer3 = stage(BasicBlock, n, channels[1], channels[2], 2, shortcut=shortcut, residual=residual)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(channels[2], num_classes)
        if zero_init_residual:
            zero_gamma(self)

    fuse = fuse

    def forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """Each stage's maps in turn: (N, 16·width, H, W), (N, 32·width, H/2, W/2), (N, 64·width, H/4, W/4)."""
        x = conv_norm_relu(self.conv1, self.bn1, self.relu, x)
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            yield x

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps (N, 64·width, H/4, W/4), before pooling and head."""
        return last(self.forward_stages(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.avgpool(self.forward_features(x))))  # type: ignore[no-any-return]


class PreActResNet(Module):
    """CifarResNet in pre-activation form: x_{l+1} = x_l + F(x_l) with nothing on the skip, and one norm and rectifier
    after the last addition (He et al. 2016, fig. 4e). Arguments as there."""

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        shortcut: str = "A",
        residual: bool = True,
    ) -> None:
        n, channels = blocks_per_stage(depth), channels_per_stage(width)
        self.conv1 = Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.layer1 = stage(PreActBlock, n, channels[0], channels[0], 1, shortcut=shortcut, residual=residual)
        self.layer2 = stage(PreActBlock, n, channels[0], channels[1], 2, shortcut=shortcut, residual=residual)
        self.layer3 = stage(PreActBlock, n, channels[1], channels[2], 2, shortcut=shortcut, residual=residual)
        self.bn1 = BatchNorm2d(channels[2])
        self.relu = ReLU()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(channels[2], num_classes)

    fuse = fuse

    def forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """Each stage's maps in turn, as in `CifarResNet`; the last are normalised and rectified, the others sums."""
        x = self.layer1(self.conv1(x))
        yield x
        x = self.layer2(x)
        yield x
        yield norm_relu(self.bn1, self.relu, self.layer3(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps (N, 64·width, H/4, W/4), normalised and rectified."""
        return last(self.forward_stages(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.avgpool(self.forward_features(x))))  # type: ignore[no-any-return]


def blocks_per_stage(depth: int) -> int:
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth is {depth}, expected 6n + 2 with n ≥ 1: 20, 32, 44, 56, 110, 1202, …")
    return (depth - 2) // 6


def channels_per_stage(width: float) -> tuple[int, int, int]:
    base = round(16 * width)
    if base < 1:
        raise ValueError(f"width is {width}, expected a factor that leaves at least one of 16 channels")
    return base, 2 * base, 4 * base


resnet20 = Architecture("resnet20", CifarResNet, 20)
resnet32 = Architecture("resnet32", CifarResNet, 32)
resnet44 = Architecture("resnet44", CifarResNet, 44)
resnet56 = Architecture("resnet56", CifarResNet, 56)
resnet110 = Architecture("resnet110", CifarResNet, 110)
resnet1202 = Architecture("resnet1202", CifarResNet, 1202)
plain20 = Architecture("plain20", CifarResNet, 20, residual=False)
plain32 = Architecture("plain32", CifarResNet, 32, residual=False)
plain44 = Architecture("plain44", CifarResNet, 44, residual=False)
plain56 = Architecture("plain56", CifarResNet, 56, residual=False)
plain110 = Architecture("plain110", CifarResNet, 110, residual=False)
preact_resnet20 = Architecture("preact_resnet20", PreActResNet, 20)
preact_resnet32 = Architecture("preact_resnet32", PreActResNet, 32)
preact_resnet44 = Architecture("preact_resnet44", PreActResNet, 44)
preact_resnet56 = Architecture("preact_resnet56", PreActResNet, 56)
preact_resnet110 = Architecture("preact_resnet110", PreActResNet, 110)
preact_resnet1202 = Architecture("preact_resnet1202", PreActResNet, 1202)
