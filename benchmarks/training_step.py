"""One training step of ResNet-20 on CIFAR-shaped images, tinyres beside PyTorch eager, in turn in one process.

    python -m benchmarks.training_step --batch 128 --rounds 7

Each round times one step (forward, backward, SGD with momentum) of each; the figure is the median of the rounds'
ratios, so that a machine whose speed drifts cannot favour either. PyTorch runs in NCHW and channels-last memory,
and the faster of the two counts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

import tinyres
from tinyres import functional as F

Step = Callable[[], object]


def tinyres_step(images: np.ndarray, labels: np.ndarray) -> Step:
    model = tinyres.models.resnet20()
    optimizer = tinyres.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    x, y = tinyres.Tensor(images), tinyres.Tensor(labels)

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def torch_step(images: np.ndarray, labels: np.ndarray, channels_last: bool) -> Step:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, c_in: int, c: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c_in, c, 3, stride, 1, bias=False), nn.BatchNorm2d(c)
            self.conv2, self.bn2 = nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c)
            self.new = c - c_in

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.new:
                x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
            return torch.relu(out + x)

    channels = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(c_in, c, 1 if c_in == c else 2) for c_in, c in itertools.pairwise(channels)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    images = rng.standard_normal((arguments.batch, 3, 32, 32), dtype=np.float32)
    labels = rng.integers(0, 10, arguments.batch)
    steps = {
        "tinyres": tinyres_step(images, labels),
        "PyTorch NCHW": torch_step(images, labels, channels_last=False),
        "PyTorch channels-last": torch_step(images, labels, channels_last=True),
    }
    for step in steps.values():
        step(), step()  # warm up
    times = [{name: seconds(step) for name, step in steps.items()} for _ in range(arguments.rounds)]
    for name in steps:
        print(f"{name:>22}: median {statistics.median(row[name] for row in times):.3f} s a step")
    ratios = sorted(row["tinyres"] / min(row["PyTorch NCHW"], row["PyTorch channels-last"]) for row in times)
    print(f"tinyres / PyTorch: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
