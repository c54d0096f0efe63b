"""PyTorch eager, with the networks written as torchvision writes them: addition and rectifier in place.

On a GPU, products are full float32 (TF32 off) and cuDNN picks each convolution's algorithm by trying them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.contestants.inputs import DEVICE, IMAGENET, LEARNING_RATE, images, labels, random

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = True

VERSION = f"PyTorch {torch.__version__}"
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv2d": lambda x, weight, stride: F.conv2d(x, weight, None, stride, weight.shape[-1] // 2),
    "batch_norm_add_relu": lambda x, skip, weight, bias: F.relu_(
        F.batch_norm(x, None, None, weight, bias, training=True).add_(skip)
    ),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "linear": F.linear,
}


class ConvNorm(nn.Sequential):
    """Convolution and batch norm."""

    def __init__(self, in_channels: int, channels: int, size: int, stride: int = 1) -> None:
        conv = nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels))


class Subsample(nn.Module):
    """Option A's shortcut: every second pixel, new channels zero."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.pads = (0, 0, 0, 0, new_channels // 2, new_channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.pads)


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, shortcut: nn.Module, *branch: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.branch = shortcut, nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += self.shortcut(x)
        return F.relu_(y)


def resnet(depth: int) -> nn.Sequential:
    """ResNet-18 and 50 for ImageNet, and 6n + 2 layers for CIFAR."""
    cifar, bottleneck = depth not in IMAGENET, depth == 50
    layers: list[nn.Module] = [ConvNorm(3, 16, 3) if cifar else ConvNorm(3, 64, 7, 2), nn.ReLU(inplace=True)]
    if not cifar:
        layers.append(nn.MaxPool2d(3, 2, 1))
    blocks = (depth // 6,) * 3 if cifar else (3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)
    c_in = first = 16 if cifar else 64
    for stage, count in enumerate(blocks):
        c = first * 2**stage
        c_out = 4 * c if bottleneck else c
        for stride in (1 if stage == 0 else 2,) + (1,) * (count - 1):
            if bottleneck:
                branch = [
                    ConvNorm(c_in, c, 1),
                    nn.ReLU(True),
                    ConvNorm(c, c, 3, stride),
                    nn.ReLU(True),
                    ConvNorm(c, c_out, 1),
                ]
            else:
                branch = [ConvNorm(c_in, c, 3, stride), nn.ReLU(True), ConvNorm(c, c, 3)]
            shortcut: nn.Module = nn.Identity()
            if c_in != c_out:
                shortcut = Subsample(c_out - c_in) if cifar else ConvNorm(c_in, c_out, 1, stride)
            layers.append(Residual(shortcut, *branch))
            c_in = c_out
    head = nn.Linear(c_in, 10 if cifar else 1000)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def fuse(model: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution before it."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ConvNorm):
                setattr(parent, name, fuse_conv_bn_eval(*child))
    return model


def memory_format(channels_last: bool) -> Any:
    return torch.channels_last if channels_last else torch.contiguous_format


def tensor(array: np.ndarray, channels_last: bool = False) -> Tensor:
    tensor = torch.from_numpy(array).to(DEVICE)
    return tensor.contiguous(memory_format=memory_format(channels_last and array.ndim == 4))


def synchronize() -> None:
    torch.cuda.synchronize()


def gpu_memory() -> int:
    """Most bytes that PyTorch's pool has taken from the GPU."""
    return torch.cuda.max_memory_reserved()


def training(depth: int, batch: int, side: int, channels_last: bool) -> Callable[[], None]:
    model = resnet(depth).to(DEVICE, memory_format=memory_format(channels_last))
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    x, y = tensor(images(batch, side), channels_last), tensor(labels(batch))

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def inference(depth: int, batch: int, side: int, fused: bool, channels_last: bool) -> Callable[[], None]:
    model = resnet(depth).eval()
    model = (fuse(model) if fused else model).to(DEVICE, memory_format=memory_format(channels_last))
    x = tensor(images(batch, side), channels_last)

    def step() -> None:
        with torch.inference_mode():
            model(x)

    return step


def kernel(
    operation: str, shapes: list[list[int]], wanted: list[bool], channels_last: bool, **options: Any
) -> Callable[[], None]:
    """One operation on inputs of these shapes; backward too, where the gradient of an input is wanted."""
    inputs = [
        tensor(random(*shape), channels_last).requires_grad_(needs) for shape, needs in zip(shapes, wanted, strict=True)
    ]
    operate = OPERATIONS[operation]

    def forward() -> None:
        with torch.inference_mode():
            operate(*inputs, **options)

    dy = torch.randn_like(operate(*inputs, **options))  # in the output's layout

    def forward_and_backward() -> None:
        for x in inputs:
            x.grad = None
        operate(*inputs, **options).backward(dy)

    return forward_and_backward if any(wanted) else forward
