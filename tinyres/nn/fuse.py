"""For inference: batch norm folded into the convolution before it.

In evaluation a batch norm multiplies each channel by a number and adds one, and so can the convolution that made the
channel: with scale = γ / √(σ² + ε),

    norm(conv(x)) = x ⋆ (scale · w) + (b − μ) · scale + β.

Nothing is left to do for the norm, and what follows it, addition and rectifier, is done by the convolution too.
"""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from tinyres.backend import xp
from tinyres.nn.layers import BatchNorm2d, Conv2d
from tinyres.nn.module import Identity, Module, Parameter

M = TypeVar("M", bound=Module)


def fuse(model: M) -> M:
    """A copy of `model` for inference, in evaluation mode, in which convolutions do the work of their batch norms.

    A norm is taken to follow a convolution where it is the next attribute of the same module, as in all networks here,
    and has its channels. It becomes an `Identity`. The copy's outputs differ from the model's by rounding only, and its
    parameters are frozen.
    """
    fused = copy.deepcopy(model)
    fused.eval().requires_grad_(False)
    for module in fused.modules():
        for (_, conv), (name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, Conv2d) and type(norm) is BatchNorm2d and len(conv.weight) == len(norm.weight):
                fold(conv, norm)
                setattr(module, name, Identity())
    return fused


def fold(conv: Conv2d, norm: BatchNorm2d) -> None:
    """Have `conv` compute norm(conv(x)), with the norm's running statistics."""
    weight, dtype = conv.weight.data, conv.weight.dtype
    scale = norm.weight.data / xp(weight).sqrt(norm.running_var.data.astype("float64") + norm.eps)  # (O,), float64
    bias = 0 if conv.bias is None else conv.bias.data
    conv.bias = Parameter(((bias - norm.running_mean.data) * scale + norm.bias.data).astype(dtype), False)
    # (KH, KW, C, O) in memory, as the kernel multiplies it: nobody will ask for the gradient of (O, KH, KW, C).
    kernels = xp(weight).ascontiguousarray((weight * scale[:, None, None, None]).transpose(2, 3, 1, 0))
    conv.weight = Parameter(kernels.astype(dtype).transpose(3, 2, 0, 1), False)
