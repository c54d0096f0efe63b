"""ResNet-18, 34, 50, 101 and 152 for ImageNet (He et al. 2015, table 1), and their plain twins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinyres.autograd import Tensor
from tinyres.models.architecture import Architecture
from tinyres.nn import (
    AdaptiveAvgPool2d,
    BasicBlock,
    BatchNorm2d,
    Bottleneck,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    init,
)
from tinyres.nn.blocks import conv_norm_relu
from tinyres.nn.fuse import fuse

Block = type[BasicBlock] | type[Bottleneck]


class ResNet(Module):
    """A stem that shrinks the image fourfold, four stages of residual blocks, and a linear head.

    Args:
        block: BasicBlock or Bottleneck.
        depths: how many blocks each stage has.
        num_classes: the head's outputs. in_channels: the image's channels.
        shortcut: "A", "B" or "C" (He et al. 2015, §4.1).
        residual: False for the plain twin, the same layers without additions.
        zero_init_residual: start each block as the identity: the last norm's weight is 0 (Goyal et al. 2017, §5.1).
        block_options: stride_in="3x3" (torchvision) or "1x1" (paper) for bottlenecks.

    Images (N, in_channels, H, W) → logits (N, num_classes). State-dict keys are torchvision's.
    """

    def __init__(
        self,
        block: Block,
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        shortcut: str = "B",
        residual: bool = True,
        zero_init_residual: bool = False,
        **block_options: Any,
    ) -> None:
        options = dict(shortcut=shortcut, residual=residual, **block_options)
        self.conv1 = Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(64)
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, stride=2, padding=1)
        e = block.expansion
        self.layer1 = stage(block, depths[0], 64, 64, 1, **options)
        self.layer2 = stage(block, depths[1], 64 * e, 128, 2, **options)
        self.layer3 = stage(block, depths[2], 128 * e, 256, 2, **options)
        self.layer4 = stage(block, depths[3], 256 * e, 512, 2, **options)
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()
        self.fc = Linear(512 * e, num_classes)
        if zero_init_residual:
            zero_gamma(self)

    fuse = fuse

    def forward_stages(self, x: Tensor) -> Iterator[Tensor]:
        """Each stage's maps in turn, C2 to C5: (N, 64·expansion, H/4, W/4), then twice the channels at half the
        height and width."""
        x = self.maxpool(conv_norm_relu(self.conv1, self.bn1, self.relu, x))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            yield x

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps (N, 512·expansion, H/32, W/32), before pooling and head."""
        return last(self.forward_stages(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.avgpool(self.forward_features(x))))  # type: ignore[no-any-return]


def stage(block: Any, depth: int, in_channels: int, channels: int, stride: int, **options: Any) -> Sequential:
    """`depth` blocks at one resolution; the first takes the stride and the change of channels."""
    first = block(in_channels, channels, stride, **options)
    return Sequential(first, *(block(channels * block.expansion, channels, **options) for _ in range(depth - 1)))


def last(maps: Iterator[Tensor]) -> Tensor:
    """The last of them; each of the others is let go before the next is computed."""
    for x in maps:  # noqa: B007 (it is what is returned)
        pass
    return x


def zero_gamma(model: Module) -> None:
    """Start every residual block as the identity: weight 0 in the last norm before its addition."""
    for module in model.modules():
        if isinstance(module, Bottleneck) and module.add is not None:
            init.constant_(module.bn3.weight, 0)
        elif isinstance(module, BasicBlock) and module.add is not None:
            init.constant_(module.bn2.weight, 0)


resnet18 = Architecture("resnet18", ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = Architecture("resnet34", ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = Architecture("resnet50", ResNet, Bottleneck, (3, 4, 6, 3))
resnet101 = Architecture("resnet101", ResNet, Bottleneck, (3, 4, 23, 3))
resnet152 = Architecture("resnet152", ResNet, Bottleneck, (3, 8, 36, 3))
plain18 = Architecture("plain18", ResNet, BasicBlock, (2, 2, 2, 2), residual=False)
plain34 = Architecture("plain34", ResNet, BasicBlock, (3, 4, 6, 3), residual=False)
