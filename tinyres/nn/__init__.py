"""Modules, layers, initialisers and residual blocks."""

from tinyres.nn import init
from tinyres.nn.blocks import Add, BasicBlock, Bottleneck, PreActBlock, Subsample
from tinyres.nn.freeze import freeze, unfreeze
from tinyres.nn.fuse import fuse
from tinyres.nn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Tanh,
)
from tinyres.nn.module import Buffer, Identity, Module, Parameter, Sequential
from tinyres.nn.recompute import checkpoint, is_recomputing

__all__ = [
    "AdaptiveAvgPool2d",
    "Add",
    "AvgPool2d",
    "BasicBlock",
    "BatchNorm2d",
    "Bottleneck",
    "Buffer",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Identity",
    "Linear",
    "MaxPool2d",
    "Module",
    "Parameter",
    "PreActBlock",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Subsample",
    "Tanh",
    "checkpoint",
    "freeze",
    "fuse",
    "init",
    "is_recomputing",
    "unfreeze",
]
