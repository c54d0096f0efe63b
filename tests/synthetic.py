"""Made-up records of CIFAR networks, with every field and role that a record can have, and numbers one can predict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyres.flow import STATISTICS, Record

FIELDS = [
    *[("step", "i8"), ("position", "i8"), ("name", "U32"), ("kind", "U32"), ("block", "U32"), ("role", "U32")],
    *[(statistic, "f8") for statistic in STATISTICS if statistic != "cosine"],
    *[("cosine", "f8"), ("histogram", "u4", (64,))],
]


def layers(depth: int, residual: bool, shortcut: str = "A") -> list[tuple[str, str, str]]:
    """Name, kind and block of each layer in the order of the forward pass."""
    found = [("conv1", "Conv2d", ""), ("bn1", "BatchNorm2d", ""), ("relu", "ReLU", "")]
    for stage in (1, 2, 3):
        for index in range((depth - 2) // 6):
            block = f"layer{stage}.{index}"
            names = [("conv1", "Conv2d"), ("bn1", "BatchNorm2d"), ("relu1", "ReLU"), ("conv2", "Conv2d")]
            if residual and index == 0 and stage > 1:
                projection = [("downsample.0", "Conv2d"), ("downsample.1", "BatchNorm2d")]
                names += projection if shortcut == "B" else [("downsample", "Subsample")]
            names += [("bn2", "BatchNorm2d"), *([("add", "Add")] if residual else []), ("relu2", "ReLU")]
            found += [(f"{block}.{name}", kind, block) for name, kind in names]
    return [*found, ("avgpool", "AdaptiveAvgPool2d", ""), ("flatten", "Flatten", ""), ("fc", "Linear", "")]


def record(
    depth: int = 20,
    residual: bool = True,
    steps: Sequence[int] = (0, 10),
    shortcut: str = "A",
    growth: float = 1.02,
    seed: int = 0,
) -> Record:
    """A record whose gradients grow by `growth` from layer to layer on their way back, and a little at random."""
    rng = np.random.default_rng(seed)
    modules = layers(depth, residual, shortcut)
    rows = []

    def add(step: int, position: int, role: str, size: float, cosine: float = np.nan) -> None:
        values = rng.normal(size=256) * size * np.exp(0.1 * rng.normal())
        rms, largest = np.sqrt(np.mean(values**2)), np.abs(values).max()
        bins = np.clip(np.floor(np.log2(np.abs(values))).astype(int) + 48, 0, 63)
        numbers = values.mean(), values.std(), rms, largest, 0.0, 0.0
        rows.append((step, position, *modules[position], role, *numbers, cosine, np.bincount(bins, minlength=64)))

    for step in steps:
        for position, (_, kind, _) in enumerate(modules):
            gradient = 1e-4 * growth ** (len(modules) - position) / (1 + step / 10)
            add(step, position, "activation", 1.0)
            add(step, position, "activation_grad", gradient)
            if kind in ("Conv2d", "BatchNorm2d", "Linear"):
                add(step, position, "weight", 0.1)
                add(step, position, "weight_grad", 10 * gradient)
                add(step, position, "update", 2e-4)
            if kind == "Add":
                for roles, sizes in ((("skip", "branch"), (1.0, 0.4)), (("skip_grad", "branch_grad"), (1e-3, 6e-4))):
                    cosine = rng.uniform(-0.3, 0.3)
                    for role, size in zip(roles, sizes, strict=True):
                        add(step, position, role, size, cosine)
    return Record(np.array(rows, np.dtype(FIELDS)))
