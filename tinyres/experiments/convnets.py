"""The real networks that experiments look at before training, beside the small one in `mlp`: ResNets for small images,
with batch norm or without, on digits."""

from __future__ import annotations

import numpy as np

from tinyres import models
from tinyres.autograd import Tensor
from tinyres.backend import Array, manual_seed
from tinyres.data import digits
from tinyres.nn import BasicBlock, BatchNorm2d, Identity, Module, PreActBlock


def build(model: str, width: float, seed: int, norm: bool = True) -> Module:
    """`models.get(model)` for digits, in float64. norm: False puts an `Identity` in the place of each batch norm."""
    manual_seed(seed)
    network = models.get(model, in_channels=1, width=width).to("float64")
    for module in [] if norm else list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm2d):
                setattr(module, name, Identity())
    return network


def images(count: int, rng: np.random.Generator) -> Array:
    """Different training digits, drawn by `rng`, of mean 0 and variance 1 over all of them: (count, 1, 28, 28)."""
    x = digits().images[rng.permutation(4000)[:count]].transpose(0, 3, 1, 2) / 255
    return (x - x.mean()) / x.std()


def states(network: Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The signal before the first residual block (or plain twin of one) and after each, and the network's output."""
    seen: list[Tensor] = []

    def look(_module: Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend([output] if seen else [*inputs, output])

    blocks = [module for module in network.modules() if isinstance(module, BasicBlock | PreActBlock)]
    handles = [block.register_forward_hook(look) for block in blocks]
    output = network(x)
    for handle in handles:
        handle.remove()
    return seen, output
