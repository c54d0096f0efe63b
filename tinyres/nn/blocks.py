"""Residual blocks: y = relu(F(x) + x) (He et al. 2015), y = F(x) + x (He et al. 2016), and their plain twins.

A block keeps norm, addition and rectifier as modules of their own, so that each can be watched. Where nobody
watches, one fused kernel does all three; the bits are the same. (`conv` is passed along because it fuses, too, once
`nn.fuse` has folded its norm into it.)
"""

from __future__ import annotations

from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.nn.layers import BatchNorm2d, Conv2d, ReLU
from tinyres.nn.module import Identity, Module, Sequential

SHORTCUTS = ("A", "B", "C")


class Add(Module):
    """The residual addition: branch + skip."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        if branch.shape != skip.shape:
            raise ValueError(f"Add: the branch is {branch.shape} but the skip is {skip.shape}, expected the same shape")
        return F.add(branch, skip)


def norm_relu(norm: Module, relu: Module, x: Tensor) -> Tensor:
    """relu(norm(x))."""
    if type(norm) is not BatchNorm2d or watched(norm, relu):
        return relu(norm(x))  # type: ignore[no-any-return]
    return F.batch_norm_add_relu(x, None, *norm.state())


def conv_norm_relu(conv: Conv2d, norm: Module, relu: Module, x: Tensor) -> Tensor:
    """relu(norm(conv(x)))."""
    if type(norm) is not Identity or watched(conv, norm, relu):
        return norm_relu(norm, relu, conv(x))
    return F.conv2d_add_relu(x, None, *conv.state())


def conv_norm_add_relu(
    conv: Conv2d, norm: Module, add: Module, relu: Module, x: Tensor, start: Tensor, shortcut: Module | None
) -> Tensor:
    """relu(norm(conv(x)) + shortcut(start)), where None is the identity."""
    if type(norm) is Identity and not watched(conv, norm, add, relu):
        return F.conv2d_add_relu(x, start if shortcut is None else shortcut(start), *conv.state())
    branch = conv(x)
    skip = start if shortcut is None else shortcut(start)
    if type(norm) is not BatchNorm2d or watched(norm, add, relu):
        return relu(add(norm(branch), skip))  # type: ignore[no-any-return]
    return F.batch_norm_add_relu(branch, skip, *norm.state())


def watched(*modules: Module) -> bool:
    """Whether somebody looks at what comes out of one of the modules."""
    return any(module._forward_hooks for module in modules)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    return Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    return Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Subsample(Module):
    """Option A's shortcut (He et al. 2015, §3.3): every stride-th pixel, new channels zero, half on either side."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        self.stride, self.new_channels = stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, new_channels={self.new_channels}"


def make_shortcut(option: str, in_channels: int, out_channels: int, stride: int, norm: bool = True) -> Module | None:
    """The way round a block, or None for the identity.

    Options (He et al. 2015, §4.1): "A" zero padding where the shape changes, "B" a 1×1 convolution (and a batch
    norm, unless not `norm`) there, "C" a 1×1 convolution everywhere.
    """
    if option not in SHORTCUTS:
        raise ValueError(f"shortcut is {option!r}, expected one of {', '.join(map(repr, SHORTCUTS))}")
    if stride == 1 and in_channels == out_channels and option != "C":
        return None
    if option == "A":
        if out_channels < in_channels:
            raise ValueError(f"shortcut 'A' adds zero channels: it cannot go from {in_channels} to {out_channels}")
        return Subsample(in_channels, out_channels, stride)
    projection = conv1x1(in_channels, out_channels, stride)
    return Sequential(projection, BatchNorm2d(out_channels)) if norm else projection


class BasicBlock(Module):
    """Two 3×3 convolutions (He et al. 2015, fig. 5 left): (N, C, H, W) → (N, channels, H/stride, W/stride).

    residual=False makes its plain twin: the same layers, no addition.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B", residual: bool = True
    ) -> None:
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = BatchNorm2d(channels)
        self.relu1 = ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = BatchNorm2d(channels)
        self.add = Add() if residual else None
        self.relu2 = ReLU()
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm_relu(self.conv1, self.bn1, self.relu1, x)
        if self.add is None:
            return conv_norm_relu(self.conv2, self.bn2, self.relu2, out)
        return conv_norm_add_relu(self.conv2, self.bn2, self.add, self.relu2, out, x, self.downsample)


class Bottleneck(Module):
    """1×1, 3×3, 1×1 convolutions, the last with 4 times the channels (He et al. 2015, fig. 5 right).

    stride_in: which convolution takes the stride, "3x3" (as torchvision does) or "1x1" (as the paper does).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        shortcut: str = "B",
        residual: bool = True,
        stride_in: str = "3x3",
    ) -> None:
        if stride_in not in ("3x3", "1x1"):
            raise ValueError(f"stride_in is {stride_in!r}, expected '3x3' or '1x1'")
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, channels, stride if stride_in == "1x1" else 1)
        self.bn1 = BatchNorm2d(channels)
        self.relu1 = ReLU()
        self.conv2 = conv3x3(channels, channels, stride if stride_in == "3x3" else 1)
        self.bn2 = BatchNorm2d(channels)
        self.relu2 = ReLU()
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = BatchNorm2d(out_channels)
        self.add = Add() if residual else None
        self.relu3 = ReLU()
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        out = conv_norm_relu(self.conv1, self.bn1, self.relu1, x)
        out = conv_norm_relu(self.conv2, self.bn2, self.relu2, out)
        if self.add is None:
            return conv_norm_relu(self.conv3, self.bn3, self.relu3, out)
        return conv_norm_add_relu(self.conv3, self.bn3, self.add, self.relu3, out, x, self.downsample)


class PreActBlock(Module):
    """Full pre-activation (He et al. 2016, fig. 4e): norm and rectifier before each convolution, nothing after the
    addition, so that x_L = x_l + ΣF exactly. A projection shortcut starts from the activated input."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "A", residual: bool = True
    ) -> None:
        self.bn1 = BatchNorm2d(in_channels)
        self.relu1 = ReLU()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = BatchNorm2d(channels)
        self.relu2 = ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.add = Add() if residual else None
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride, norm=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        activated = norm_relu(self.bn1, self.relu1, x)
        out = self.conv2(conv_norm_relu(self.conv1, self.bn2, self.relu2, activated))
        if self.add is None:
            return out  # type: ignore[no-any-return]
        if self.downsample is None:
            skip = x
        else:
            skip = self.downsample(x if isinstance(self.downsample, Subsample) else activated)
        return self.add(out, skip)  # type: ignore[no-any-return]
