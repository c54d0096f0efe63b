"""A network as its parts: a trunk that makes maps of an image, and a head that says what they show.

All networks here are `fc(flatten(avgpool(forward_features(x))))`: whatever was trained to tell a thousand classes
apart can be given another head, or lend its trunk to another task.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, TypeVar

from tinyres.autograd import Tensor
from tinyres.nn import Linear, Module, ReLU, Sequential

M = TypeVar("M", bound=Module)


def replace_head(model: M, *widths: int) -> M:
    """Give `model` a new head: linear layers of these widths, the last one the number of outputs, with a rectifier
    between each two. Global average pooling before it stays. Returns the model.

    >>> models.replace_head(model, 256, 1)  # Linear(2048, 256), ReLU, Linear(256, 1)

    Raises:
        TypeError: if `model` has no head `fc`. ValueError: without widths.
    """
    if not widths:
        raise ValueError("replace_head: widths is empty, expected at least the number of outputs")
    model.fc = head(pooled_channels(model), *widths)  # type: ignore[attr-defined]
    return model


def head(features: int, *widths: int) -> Module:
    layers: list[Module] = []
    for before, after in itertools.pairwise((features, *widths)):
        layers += [Linear(before, after), ReLU()]
    return layers[0] if len(widths) == 1 else Sequential(*layers[:-1])


def pooled_channels(model: Module) -> int:
    """How many numbers the head takes: channels of the last stage."""
    linear = [module for module in network(model).fc.modules() if isinstance(module, Linear)]
    return linear[0].in_features


def pooled(model: Module, x: Tensor) -> Tensor:
    """What the head is given: images (N, C, H, W) → the last maps' means (N, channels)."""
    known = network(model)
    return known.flatten(known.avgpool(known.forward_features(x)))  # type: ignore[no-any-return]


class Backbone(Module):
    """The trunk of a network: images (N, C, H, W) → the maps of all stages, from large to small.

    It shares its layers with the network, not the head.
    """

    def __init__(self, model: Module) -> None:
        self.network = copy.copy(network(model))
        del self.network.fc

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.forward_stages(x))


def features(model: Module) -> Backbone:
    """The trunk of `model`, for another task: see `Backbone`.

    A ResNet gives C2, C3, C4, C5: (N, 64·e, H/4, W/4) to (N, 512·e, H/32, W/32), where e is 1 for basic blocks and
    4 for bottlenecks. A CIFAR network gives three, (N, 16, H, W) to (N, 64, H/4, W/4), times its width.
    """
    return Backbone(model)


def network(model: Any) -> Any:
    """`model`, if it is one of those here."""
    if not hasattr(model, "forward_stages") or not hasattr(model, "fc"):
        raise TypeError(f"expected one of tinyres.models' networks, with trunk and head, got a {type(model).__name__}")
    return model
