"""The smallest deep network in which everything that happens to gradients in a ResNet can be seen and worked out:
one linear layer a block, h ← λ·h + β·W·relu(norm(h)), in float64.

λ = 0 is a plain net, λ = β = 1 a residual one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyres import functional as F
from tinyres.autograd import Tensor
from tinyres.nn import Module, Parameter, Sequential


@dataclass(frozen=True)
class Kind:
    """One kind of network. skip: λ. branch: β. gain: the weights' variance times the width; 2 is He's (2015b).
    norm: whether each block begins by normalising its input over the batch."""

    skip: float = 0.0
    branch: float = 1.0
    gain: float = 2.0
    norm: bool = False


class MLPBlock(Module):
    """h ← λ·h + β·W·relu(norm(h)): (N, width) → (N, width)."""

    def __init__(self, kind: Kind, width: int, rng: np.random.Generator) -> None:
        self.kind = kind
        self.weight = Parameter(rng.normal(0, np.sqrt(kind.gain / width), (width, width)))  # (width, width)

    def branch(self, h: Tensor) -> Tensor:
        """β·W·relu(norm(h))."""
        z = F.batch_norm(h, None, None, training=True) if self.kind.norm else h
        return self.kind.branch * F.linear(F.relu(z), self.weight)

    def forward(self, h: Tensor) -> Tensor:
        return self.branch(h) + self.kind.skip * h if self.kind.skip else self.branch(h)


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
