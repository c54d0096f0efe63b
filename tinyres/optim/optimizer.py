"""Optimisers: SGD, Adam and AdamW, with PyTorch's semantics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import Array, to_device, to_host, xp
from tinyres.nn import Module
from tinyres.threads import blockwise


class Optimizer:
    """Base: parameter groups, each with its own settings, and a state of arrays for each parameter.

    Args:
        params: parameters, or dicts {"params": parameters, setting: value, …}, one for each group.
        defaults: the settings of groups that do not say otherwise.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay", "eps"):
            if defaults.get(name, 0) < 0:
                raise ValueError(f"{type(self).__name__}: {name} is {defaults[name]}, expected 0 or more")
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: params is empty, expected at least one parameter")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        self.state: dict[int, dict[str, Any]] = {}  # by the parameter's position among all groups

    def step(self) -> None:
        """Update every parameter that has a gradient, in place."""
        position = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state.setdefault(position, {})
                    self.update(parameter.data, parameter.grad.data, state, group)
                position += 1

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """{"state": {position: {name: host array or number}}, "param_groups": [settings without the parameters]}."""
        state = {
            position: {
                name: to_host(value).copy() if hasattr(value, "shape") else value for name, value in entry.items()
            }
            for position, entry in self.state.items()
        }
        groups = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned, on the parameters' devices."""
        came, expected = len(state_dict["param_groups"]), len(self.param_groups)
        if came != expected:
            raise ValueError(f"load_state_dict: {came} parameter groups came, expected {expected}")
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.state = {}
        for position, entry in state_dict["state"].items():
            parameter = parameters[int(position)]
            self.state[int(position)] = {
                name: like(value, parameter) if hasattr(value, "shape") else value for name, value in entry.items()
            }


def like(value: Array, parameter: Tensor) -> Array:
    """`value` on the parameter's device, in its memory order (an element-wise pass over two orders is slow)."""
    copy = xp(parameter.data).empty_like(parameter.data)
    copy[...] = to_device(value, parameter.device)
    return copy


class SGD(Optimizer):
    """Gradient descent with momentum: v ← μ·v + (1 − dampening)·g, p ← p − lr·v.

    Weight decay adds weight_decay·p to g first; Nesterov steps along g + μ·v (Sutskever et al. 2013).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"SGD: nesterov needs momentum > 0 and dampening 0, got {momentum} and {dampening}")
        super().__init__(
            params,
            dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov),
        )

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        first = momentum and not state
        if first:
            state["momentum_buffer"] = xp(p).empty_like(p)

        def step(p: Array, g: Array, v: Array | None = None) -> None:
            if weight_decay:
                g = g + weight_decay * p
            if v is not None and first:
                v[...] = g
            elif v is not None:
                v *= momentum
                v += (1 - group["dampening"]) * g if group["dampening"] else g
            if v is not None:
                g = g + momentum * v if group["nesterov"] else v
            p -= lr * g

        blockwise(step, p, g, *(state.values() if momentum else ()))


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1); weight decay, if any, is added to the gradient."""

    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{type(self).__name__}: betas is {betas}, expected two numbers in [0, 1)")
        super().__init__(params, dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay))

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if not state:
            state.update(step=0, exp_avg=xp(p).zeros_like(p), exp_avg_sq=xp(p).zeros_like(p))
        state["step"] += 1
        t = state["step"]

        def step(p: Array, g: Array, m: Array, v: Array) -> None:
            if self.decoupled:
                p *= 1 - lr * group["weight_decay"]
            elif group["weight_decay"]:
                g = g + group["weight_decay"] * p
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * (g * g)
            denominator = xp(p).sqrt(v)
            denominator *= 1 / float(np.sqrt(1 - beta2**t))
            denominator += group["eps"]
            p -= lr / (1 - beta1**t) * (m / denominator)

        blockwise(step, p, g, state["exp_avg"], state["exp_avg_sq"])


class AdamW(Adam):
    """Adam with decoupled weight decay: p ← (1 − lr·weight_decay)·p first (Loshchilov & Hutter 2019)."""

    decoupled: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


def no_decay_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices and kernels with weight decay; biases and norms, all vectors, without."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint 2-norm is at most `max_norm` (Pascanu et al. 2013, algorithm 1).

    Returns the norm before clipping, still on its device: reading it waits for a GPU, clipping does not.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return Tensor(0.0)
    module = xp(gradients[0].data)
    total = module.sqrt(module.stack([(g.data * g.data).sum() for g in gradients]).sum())
    factor = module.minimum(max_norm / (total + 1e-6), 1.0).astype(total.dtype)
    for gradient in gradients:
        gradient.data *= factor
    return Tensor(total)
