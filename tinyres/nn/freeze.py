"""Frozen modules: a part of a network that training leaves exactly as it is.

Two things have to stand still. Parameters get no gradient, and where none of an operation's inputs needs one, the
engine records nothing: backward ends where the frozen part begins. And a batch norm has statistics besides its
parameters, which training mode would go on averaging: a frozen module stays in evaluation mode whatever
`model.train()` says.
"""

from __future__ import annotations

from typing import TypeVar

from tinyres.nn.module import Module

M = TypeVar("M", bound=Module)


def freeze(module: M) -> M:
    """Keep all parameters and running statistics of `module` as they are, in evaluation mode. Returns the module.

    What is put into it afterwards, such as a new head, is not frozen:

    >>> nn.freeze(model)
    >>> model.fc = nn.Linear(2048, 1)
    """
    for each in module.modules():
        each.frozen = True
    module.requires_grad_(False).eval()
    return module


def unfreeze(module: M) -> M:
    """Have `module`, for instance the last stage `model.layer4`, train again, in training mode. Returns the module."""
    for each in module.modules():
        each.frozen = False
    module.requires_grad_().train()
    return module
