"""Residual networks and their plain twins, by name."""

from __future__ import annotations

from functools import partial
from typing import Any

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
from tinyres.models.trunk import Backbone, features, load_trunk, replace_head
from tinyres.models.weights import load_state_dict_file
from tinyres.nn import Module

_MODELS: dict[str, Any] = {name: value for name, value in globals().items() if isinstance(value, partial)}


def _family_and_depth(name: str) -> tuple[str, int]:
    family = name.rstrip("0123456789")
    return family, int(name.removeprefix(family))


def names() -> list[str]:
    """Every model that `get` makes."""
    return sorted(_MODELS, key=_family_and_depth)


def get(name: str, **options: Any) -> Module:
    """The model of that name, with fresh weights from the global generator. Options are those of its class."""
    if name not in _MODELS:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(names())}")
    try:
        model: Module = _MODELS[name](**options)
    except TypeError as error:  # an option that the model does not have
        raise TypeError(f"{name}: {error}") from error
    return model


__all__ = [
    "Backbone",
    "CifarResNet",
    "PreActResNet",
    "ResNet",
    "Summary",
    "features",
    "get",
    "load_state_dict_file",
    "load_trunk",
    "names",
    "replace_head",
    "summary",
    *_MODELS,
]
