"""The layers: parameters and settings around one operation each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.kernels.windows import Pair, pair
from tinyres.nn import init
from tinyres.nn.module import Buffer, Module, Parameter


class Conv2d(Module):
    """Convolution (N, C, H, W) → (N, O, OH, OW). Weight (O, C/groups, KH, KW), He-normal over the fan in."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: in_channels {in_channels}, out_channels {out_channels}, groups {groups}: expected positive "
                "channels that groups divides"
            )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        kh, kw = pair("Conv2d", "kernel_size", kernel_size, 1)
        # (O, KH, KW, C) in memory, as its gradient comes; (O, C, KH, KW) to read.
        weight = np.empty((out_channels, kh, kw, in_channels // groups), np.float32).transpose(0, 3, 1, 2)
        self.weight = init.kaiming_normal_(Parameter(weight))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, *self.state())

    def state(self) -> tuple[Any, ...]:
        """The arguments of `conv2d` after its input."""
        return self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups

    def extra_repr(self) -> str:
        o, c, kh, kw = self.weight.shape
        parts = [f"{c * self.groups}, {o}, kernel_size={(kh, kw)}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding else []
        parts += [f"dilation={self.dilation}"] if self.dilation != 1 else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        return ", ".join(parts + (["bias=False"] if self.bias is None else []))


class BatchNorm2d(Module):
    """Batch normalisation of (N, C, H, W) over N, H, W (Ioffe & Szegedy 2015)."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = Buffer(np.zeros(num_features, np.float32))
        self.running_var = Buffer(np.ones(num_features, np.float32))
        self.num_batches_tracked = Buffer(np.zeros((), np.int64))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, *self.state())

    def state(self) -> tuple[Any, ...]:
        """The arguments of `batch_norm` after its input; in training, one more batch is counted."""
        if self.training:
            self.num_batches_tracked.data += 1
        return (
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"


class Linear(Module):
    """y = x Wᵀ + b, (…, I) → (…, O). Weight and bias uniform on ±1/√I."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        if min(in_features, out_features) < 1:
            raise ValueError(
                f"Linear: in_features {in_features}, out_features {out_features}: expected at least 1 of each"
            )
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = init.uniform_(Parameter(np.empty((out_features, in_features), np.float32)), -bound, bound)
        self.bias = init.uniform_(Parameter(np.empty(out_features, np.float32)), -bound, bound) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + (", bias=False" if self.bias is None else "")


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Sigmoid(Module):
    """1 / (1 + e⁻ˣ)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1/(1 − p)."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """(N, …) → (N, the rest)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, 1)


class MaxPool2d(Module):
    """Largest value of each window."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size, self.stride, self.padding = (
            kernel_size,
            kernel_size if stride is None else stride,
            padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(MaxPool2d):
    """Mean of each window, its zero border included."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class AdaptiveAvgPool2d(Module):
    """Mean over a grid of `output_size` regions; 1 is global average pooling."""

    def __init__(self, output_size: Pair) -> None:
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"{self.output_size}"
