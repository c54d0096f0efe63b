"""Residual networks and their plain twins, by name."""

from __future__ import annotations

from typing import Any

from tinyres.models.architecture import Architecture, Pretrained
from tinyres.models.cifar import (
    CifarResNet,
    PreActResNet,
    plain20,
    plain32,
    plain44,
    plain56,
    plain110,
    preact_resnet20,
    preact_resnet32,
    preact_resnet44,
    preact_resnet56,
    preact_resnet110,
    preact_resnet1202,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
    resnet1202,
)
from tinyres.models.match import Match, compare, load
from tinyres.models.pretrained import Preprocessing, find, imagenet_classes
from tinyres.models.resnet import (
    ResNet,
    plain18,
    plain34,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from tinyres.models.summary import Summary, summary
from tinyres.models.trunk import Backbone, features, replace_head
from tinyres.models.weights import Weights, load_state_dict_file, read_weights, save_state_dict_file
from tinyres.nn import Module

_MODELS: dict[str, Architecture] = {name: value for name, value in globals().items() if isinstance(value, Architecture)}


def _family_and_depth(name: str) -> tuple[str, int]:
    family = name.rstrip("0123456789")
    return family, int(name.removeprefix(family))


def names() -> list[str]:
    """Every model that `get` makes."""
    return sorted(_MODELS, key=_family_and_depth)


def get(name: str, **options: Any) -> Module:
    """The model of that name, with fresh weights from the global generator or those that `weights` names.

    Options are those of its class, and `weights` and `strict` (see `Architecture`)."""
    if name not in _MODELS:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(names())}")
    try:
        model: Module = _MODELS[name](**options)
    except TypeError as error:  # an option that the model does not have
        raise TypeError(f"{name}: {error}") from error
    return model


__all__ = [
    "Architecture",
    "Backbone",
    "CifarResNet",
    "Match",
    "PreActResNet",
    "Preprocessing",
    "Pretrained",
    "ResNet",
    "Summary",
    "Weights",
    "compare",
    "features",
    "find",
    "get",
    "imagenet_classes",
    "load",
    "load_state_dict_file",
    "names",
    "read_weights",
    "replace_head",
    "save_state_dict_file",
    "summary",
    *_MODELS,
]
