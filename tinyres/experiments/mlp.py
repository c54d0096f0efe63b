"""The smallest deep network in which everything that happens to gradients in a ResNet can be seen and worked out:
one linear layer a block, h ← β·W·relu(norm(h)) + λ·h, in float64.

λ = 0 is a plain net, λ = β = 1 a residual one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.nn import Add, Module, Parameter, Sequential

NORMS = ("none", "centre", "batch")


@dataclass(frozen=True)
class Kind:
    """One kind of network.

    skip: λ. branch: β. gain: the weights' variance times the width; 2 is He's (2015b).
    norm: what each block does to its input first: "none", "centre" (subtract each unit's mean over the batch) or
    "batch" (and divide by its standard deviation).
    constant_statistics: whether mean and deviation are constants to the gradient. Then each input's gradient is its
    own, whatever else is in the batch.
    """

    skip: float = 0.0
    branch: float = 1.0
    gain: float = 2.0
    norm: str = "none"
    constant_statistics: bool = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"Kind: norm is {self.norm!r}, expected one of {', '.join(map(repr, NORMS))}")


class MLPBlock(Module):
    """h ← β·W·relu(norm(h)) + λ·h: (N, width) → (N, width)."""

    def __init__(self, kind: Kind, width: int, rng: np.random.Generator) -> None:
        self.kind = kind
        self.weight = Parameter(rng.normal(0, np.sqrt(kind.gain / width), (width, width)))
        self.add = Add() if kind.skip else None

    def norm(self, h: Tensor) -> Tensor:
        """What comes before the rectifier."""
        constant = self.kind.constant_statistics
        if self.kind.norm == "centre":
            return h - (h.detach() if constant else h).mean(0)
        if self.kind.norm == "batch":
            mean, var = (h.data.mean(axis=0), h.data.var(axis=0)) if constant else (None, None)  # (width,) each
            return F.batch_norm(h, mean, var, training=not constant)
        return h

    def forward(self, h: Tensor) -> Tensor:
        branch = self.kind.branch * F.linear(F.relu(self.norm(h)), self.weight)
        return branch if self.add is None else self.add(branch, self.kind.skip * h)


class MLP(Module):
    """`depth` blocks, one after the other."""

    def __init__(self, kind: Kind, depth: int, width: int, rng: np.random.Generator) -> None:
        self.blocks = Sequential(*(MLPBlock(kind, width, rng) for _ in range(depth)))

    def states(self, x: Tensor) -> Iterator[Tensor]:
        """The signal before the first block, x, and after each."""
        yield x
        for block in self.blocks:
            yield (x := block(x))

    def forward(self, x: Tensor) -> Tensor:
        *_, last = self.states(x)
        return last
