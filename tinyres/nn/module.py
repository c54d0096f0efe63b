"""Module: a tree of parameters, buffers and smaller modules, found by looking at its own attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyres.autograd import Handle, Tensor, as_device, is_grad_enabled
from tinyres.backend import Array, get_rng_state, set_rng_state, to_device
from tinyres.nn.recompute import Run


class Parameter(Tensor):
    """A tensor that is trained."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)


class Buffer(Tensor):
    """A tensor that is part of a module's state but not trained: running statistics."""

    __slots__ = ()


class Module:
    """Base of all layers and networks.

    Assign parameters, buffers and modules as attributes in `__init__`, say in `forward` what is computed. Their
    order everywhere is the order of assignment.
    """

    training = True
    checkpointed = False  # `tinyres.checkpoint` sets it
    frozen = False  # `nn.freeze` sets it

    def forward(self, *inputs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not say what its forward computes")

    def __call__(self, *inputs: Any) -> Any:
        output = Run(self, inputs).first() if self.checkpointed and is_grad_enabled() else self.forward(*inputs)
        for hook in list(self._forward_hooks.values()):
            replacement = hook(self, inputs, output)
            output = output if replacement is None else replacement
        return output

    @property
    def _forward_hooks(self) -> dict[int, Any]:
        return self.__dict__.setdefault("_hooks", {})  # type: ignore[no-any-return]

    def register_forward_hook(self, hook: Any) -> Handle:
        """Call `hook(module, inputs, output)` after each forward; what it returns, if anything, is the output."""
        return Handle(self._forward_hooks, hook)

    # The tree

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below, by name."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module, named "", and all below it, each before its children and only once."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module
                children = [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
                stack.extend(reversed(children))

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _named(self, kind: type[Tensor] | tuple[type[Tensor], ...]) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, kind) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{key}" if prefix else key, value

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All parameters below, by dotted name, each once."""
        return self._named(Parameter)

    def parameters(self) -> Iterator[Tensor]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return self._named(Buffer)

    # State

    def state_dict(self) -> dict[str, Array]:
        """Every parameter's and buffer's array by dotted name: the arrays themselves, not copies."""
        return {name: tensor.data for name, tensor in self._named((Parameter, Buffer))}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Copy `state` into the parameters and buffers; dtype and device stay the module's own.

        Raises:
            ValueError: naming every missing, unexpected (unless not `strict`) and mis-shaped key; nothing is
                changed then. A missing `num_batches_tracked` is no error: files older than that buffer lack it.
        """
        own = dict(self._named((Parameter, Buffer)))
        missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
        unexpected = [key for key in state if key not in own]
        shapes = [
            f"{key} is {tuple(np.shape(state[key]))}, expected {own[key].shape}"
            for key in own
            if key in state and tuple(np.shape(state[key])) != own[key].shape
        ]
        problems = [f"mis-shaped: {', '.join(shapes)}"] if shapes else []
        if strict:
            problems += [f"missing: {', '.join(missing)}"] if missing else []
            problems += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
        if problems:
            raise ValueError(f"load_state_dict into {type(self).__name__}: {'; '.join(problems)}")
        for key, tensor in own.items():
            if key in state:
                value = state[key].data if isinstance(state[key], Tensor) else np.asarray(state[key])
                tensor.data[...] = to_device(value, tensor.device).astype(tensor.dtype)

    def train(self, mode: bool = True) -> Module:
        """Training mode, but for frozen modules (`nn.freeze`): batch norm uses the batch's statistics, dropout drops.
        Returns the module."""
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self) -> Module:
        """Evaluation mode."""
        return self.train(False)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Afterwards modes, buffers and other attributes of all modules, and the random generator, are as before."""
        attributes = [(module, dict(vars(module))) for module in self.modules()]
        buffers = [(buffer, buffer.data, buffer.data.copy()) for _, buffer in self.named_buffers()]
        random = get_rng_state()
        try:
            yield
        finally:
            for module, values in attributes:
                vars(module).update(values)
            for buffer, data, numbers in buffers:
                data[...] = numbers
                buffer.data = data
            set_rng_state(random)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Whether all parameters get gradients. (`nn.freeze` also stops running statistics.)"""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, target: Any) -> Module:
        """Move all parameters and buffers to a device ("cpu", "cuda") or floating dtype, in place; gradients are
        dropped. Make the optimiser afterwards."""
        to_a_device = as_device(target)
        if not to_a_device and np.dtype(target).kind != "f":
            raise TypeError(f"to: {np.dtype(target)} has no gradients, expected a floating dtype")
        for _, tensor in self._named((Parameter, Buffer)):
            if to_a_device:
                tensor.data = to_device(tensor.data, target)
            elif tensor.dtype.kind == "f":
                tensor.data = tensor.data.astype(target)
            wanted, tensor.grad = tensor.requires_grad, None
            tensor.requires_grad = False
            tensor.requires_grad = wanted  # a fresh leaf, which knows the new dtype and device
        return self

    # What it looks like

    def extra_repr(self) -> str:
        """What to print between the parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n  ".join([f"{type(self).__name__}({self.extra_repr()}", *lines]) + "\n)"


class Sequential(Module):
    """Modules one after the other: as arguments, numbered from "0"."""

    def __init__(self, *modules: Module) -> None:
        for index, module in enumerate(modules):
            setattr(self, str(index), module)

    def forward(self, x: Any) -> Any:
        for module in self.children():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(list(self.children()))

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index]


class Identity(Module):
    """y = x."""

    def forward(self, x: Any) -> Any:
        return x
