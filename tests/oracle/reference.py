"""Residual networks in PyTorch, to compare with. State-dict names are torchvision's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch (extra 'oracle') is not installed")
nn, F = torch.nn, torch.nn.functional

torch.set_num_threads(1)

relu = nn.ReLU()  # a module, so that a hook sees it


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """One residual block, from the list of its convolutions' (size, channels out, stride)."""

    def __init__(self, in_channels: int, plan: list[tuple[int, int, int]], shortcut: str) -> None:
        super().__init__()
        self.depth, self.shortcut, channels, self.stride = len(plan), shortcut, in_channels, 1
        for i, (size, out, stride) in enumerate(plan, 1):
            setattr(self, f"conv{i}", conv(channels, out, size, stride))
            setattr(self, f"bn{i}", nn.BatchNorm2d(out))
            channels, self.stride = out, self.stride * stride
        self.out_channels = channels
        self.reshapes = self.stride > 1 or channels != in_channels
        if self.reshapes and shortcut == "B":
            self.downsample = nn.Sequential(conv(in_channels, channels, 1, self.stride), nn.BatchNorm2d(channels))

    def skip(self, x: torch.Tensor) -> torch.Tensor:
        if not self.reshapes:
            return x
        if self.shortcut == "B":
            return self.downsample(x)
        new = self.out_channels - x.shape[1]
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, new // 2, new - new // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = relu(y if i < self.depth else y + self.skip(x))
        return y


class PreActBlock(nn.Module):
    """Full pre-activation, zero-padding shortcut (He et al. 2016, fig. 4e)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), conv(in_channels, channels, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(channels), conv(channels, channels, 3)
        self.stride, self.new = stride, channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return skip + self.conv2(relu(self.bn2(self.conv1(relu(self.bn1(x))))))


BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ImageNetResNet(nn.Module):
    """ResNet-18 to 152 with the stride in the 3×3 convolution ("v1.5")."""

    def __init__(self, depth: int, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1, channels = conv(3, 64, 7, 2), nn.BatchNorm2d(64), 64
        for i, count in enumerate(BLOCKS[depth]):
            stage, c = [], 64 * 2**i
            for j in range(count):
                s = 2 if i > 0 and j == 0 else 1
                plan = [(3, c, s), (3, c, 1)] if depth < 50 else [(1, c, 1), (3, c, s), (1, 4 * c, 1)]
                stage.append(Block(channels, plan, "B"))
                channels = stage[-1].out_channels
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class CifarResNet(nn.Module):
    """ResNet-20, 32, 44, 56, … for 32×32 images, option A or B; `preact` for the pre-activation form."""

    def __init__(self, depth: int, shortcut: str = "A", preact: bool = False) -> None:
        super().__init__()
        self.preact, channels = preact, 16
        self.conv1, self.bn1 = conv(3, 16, 3), nn.BatchNorm2d(64 if preact else 16)
        for i, c in enumerate((16, 32, 64)):
            stage = []
            for j in range((depth - 2) // 6):
                s = 2 if i > 0 and j == 0 else 1
                stage.append(
                    PreActBlock(channels, c, s) if preact else Block(channels, [(3, c, s), (3, c, 1)], shortcut)
                )
                channels = c
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        x = x if self.preact else relu(self.bn1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = relu(self.bn1(x)) if self.preact else x
        return self.fc(x.mean((2, 3)))
