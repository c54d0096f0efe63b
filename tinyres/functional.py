"""The differentiable operations: each kernel lifted onto Tensors.

What an operation computes, and how its gradient flows back, stands in `tinyres.kernels`. An operation of your own
is one line, too: ``op = tinyres.differentiable(kernel)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyres import kernels
from tinyres.autograd import Tensor, differentiable

add = differentiable(kernels.add)
sub = differentiable(kernels.sub)
mul = differentiable(kernels.mul)
div = differentiable(kernels.div)
pow = differentiable(kernels.pow)
neg = differentiable(kernels.neg)
abs = differentiable(kernels.abs)
exp = differentiable(kernels.exp)
log = differentiable(kernels.log)
sqrt = differentiable(kernels.sqrt)
clamp = differentiable(kernels.clamp)
matmul = differentiable(kernels.matmul)

sum = differentiable(kernels.sum)
mean = differentiable(kernels.mean)
var = differentiable(kernels.var)
amax = differentiable(kernels.amax)

reshape = differentiable(kernels.reshape)
flatten = differentiable(kernels.flatten)
permute = differentiable(kernels.permute)
transpose = differentiable(kernels.transpose)
expand = differentiable(kernels.expand)
getitem = differentiable(kernels.getitem)
pad = differentiable(kernels.pad)

linear = differentiable(kernels.linear)
conv2d = differentiable(kernels.conv2d)
conv2d_add_relu = differentiable(kernels.conv2d_add_relu)
batch_norm = differentiable(kernels.batch_norm)
batch_norm_add_relu = differentiable(kernels.batch_norm_add_relu)
max_pool2d = differentiable(kernels.max_pool2d)
avg_pool2d = differentiable(kernels.avg_pool2d)
adaptive_avg_pool2d = differentiable(kernels.adaptive_avg_pool2d)

relu = differentiable(kernels.relu)
sigmoid = differentiable(kernels.sigmoid)
tanh = differentiable(kernels.tanh)
softmax = differentiable(kernels.softmax)
log_softmax = differentiable(kernels.log_softmax)
dropout = differentiable(kernels.dropout)

cross_entropy = differentiable(kernels.cross_entropy)
binary_cross_entropy_with_logits = differentiable(kernels.binary_cross_entropy_with_logits)
mse_loss = differentiable(kernels.mse_loss)

_cat = differentiable(kernels.cat)


def cat(tensors: Sequence[Any], dim: int = 0) -> Tensor:
    """Join tensors along `dim`."""
    return _cat(*tensors, dim=dim)


# The operators and methods of Tensor, by the operation behind each.
_METHODS = dict(
    __add__=add,
    __radd__=lambda self, other: add(other, self),
    __sub__=sub,
    __rsub__=lambda self, other: sub(other, self),
    __mul__=mul,
    __rmul__=lambda self, other: mul(other, self),
    __truediv__=div,
    __rtruediv__=lambda self, other: div(other, self),
    __matmul__=matmul,
    __rmatmul__=lambda self, other: matmul(other, self),
    __pow__=pow,
    __neg__=neg,
    __getitem__=getitem,
    abs=abs,
    exp=exp,
    log=log,
    sqrt=sqrt,
    relu=relu,
    sigmoid=sigmoid,
    tanh=tanh,
    clamp=clamp,
    sum=sum,
    mean=mean,
    var=var,
    amax=amax,
    reshape=reshape,
    flatten=flatten,
    permute=permute,
    transpose=transpose,
    expand=expand,
    T=property(lambda self: permute(self, *range(self.ndim)[::-1])),
)
for _name, _method in _METHODS.items():
    setattr(Tensor, _name, _method)

__all__ = [
    _name
    for _name in dir()
    if not _name.startswith("_")
    and _name not in ("Any", "Sequence", "Tensor", "annotations", "differentiable", "kernels")
]
