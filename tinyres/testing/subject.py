"""One view of everything that has a backward pass: a kernel, an operation on Tensors, a Module.

A check wants to know one thing: for named arrays in, which array comes out, and which gradients come back for a
cotangent. `Subject` answers that in float64, with the same random numbers and the same running statistics each time.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import Array, get_rng_state, is_array, set_rng_state
from tinyres.kernels import gradients
from tinyres.nn import Module

Arrays = dict[str, Array]
Gradients = Callable[[Array], dict[str, Array | None]]


@dataclass
class Subject:
    """A function of named arrays.

    Attributes:
        name: what it is called. inputs: the arrays that can have a gradient, by argument or parameter name.
        run: inputs → (output, the gradients by name as a function of the cotangent).
    """

    name: str
    inputs: Arrays
    run: Callable[[Arrays], tuple[Array, Gradients]]

    @classmethod
    def of(cls, f: Callable[..., Any], *args: Any, dtype: Any = np.float64, **options: Any) -> Subject:
        """What `f(*args, **options)` computes, its floating arrays (and Tensors) in `dtype`.

        f: a kernel (arrays → output and pullback), a function of Tensors, or a Module, which is copied and whose
        parameters are inputs, too.
        """
        if isinstance(f, Module):
            return of_module(f, args, dtype)
        bound = inspect.signature(f).bind(*args, **options)
        values = {key: in_dtype(value, dtype) for key, value in named(bound.arguments).items()}
        inputs = {key: value for key, value in values.items() if is_array(value) and value.dtype.kind == "f"}

        def call(convert: Callable[[str, Any], Any]) -> Any:
            given = {key: convert(key, value) for key, value in values.items()}
            unnamed(bound.arguments, given)
            return f(*bound.args, **bound.kwargs)

        state = get_rng_state()

        def run(arrays: Arrays) -> tuple[Array, Gradients]:
            tensors: dict[str, Tensor] = {}

            def as_array(key: str, value: Any) -> Any:
                value = arrays.get(key, value)
                return value.copy("K") if is_array(value) else value  # a kernel may move running statistics

            def as_tensor(key: str, value: Any) -> Any:
                value = as_array(key, value)
                if key not in arrays:
                    return value
                return tensors.setdefault(key, Tensor(value, requires_grad=True))

            with same_random_numbers(state):
                result = call(as_tensor if lifted else as_array)
            if lifted:
                return result.data, lambda dy: of_tensors(result, tensors, dy)
            y, pullback = result
            keys = list(values)
            return np_array(y), lambda dy: dict(zip(keys, gradients(pullback, dy), strict=False))

        lifted = is_of_tensors(f, call)
        return cls(getattr(f, "__name__", type(f).__name__), inputs, run)


def of_module(module: Module, args: tuple[Any, ...], dtype: Any) -> Subject:
    """A module's forward pass, as a function of what it is given and of its parameters."""
    module = copy.deepcopy(module).to(dtype)
    values = {f"input{i}" if i else "input": in_dtype(value, dtype) for i, value in enumerate(args)}
    parameters = dict(module.named_parameters())
    inputs = {key: value for key, value in values.items() if is_array(value) and value.dtype.kind == "f"}
    inputs |= {key: parameter.data for key, parameter in parameters.items()}
    buffers = [(buffer, buffer.data.copy()) for _, buffer in module.named_buffers()]
    state = get_rng_state()

    def run(arrays: Arrays) -> tuple[Array, Gradients]:
        for buffer, before in buffers:
            buffer.data[...] = before
        tensors = dict(parameters)
        for key, parameter in parameters.items():
            parameter.data, parameter.grad = arrays[key].copy("K"), None
        for key, value in values.items():
            tensors[key] = Tensor(arrays.get(key, value), requires_grad=key in arrays)
        with same_random_numbers(state):
            result = module(*(tensors[key] for key in values))
        return result.data, lambda dy: of_tensors(result, tensors, dy)

    return Subject(type(module).__name__, inputs, run)


def of_tensors(result: Tensor, tensors: dict[str, Tensor], dy: Array) -> dict[str, Array | None]:
    """What `backward` leaves in the tensors' `.grad`."""
    for tensor in tensors.values():
        tensor.grad = None
    if result.requires_grad:
        result.backward(dy, retain_graph=True)
    return {key: None if tensor.grad is None else tensor.grad.data for key, tensor in tensors.items()}


def is_of_tensors(f: Callable[..., Any], call: Callable[..., Any]) -> bool:
    """Whether f takes Tensors; a kernel takes arrays and returns an output and a pullback."""
    try:
        result = call(lambda _, value: value.copy() if is_array(value) else value)
    except (TypeError, AttributeError):  # it wanted a Tensor's methods, or is broken, which a run will show
        return True
    return not (isinstance(result, tuple) and len(result) == 2 and callable(result[1]))


class same_random_numbers:
    """Inside, the global generator draws from `state` on; afterwards it is as it was before."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.before = get_rng_state()
        set_rng_state(self.state)

    def __exit__(self, *_: object) -> None:
        set_rng_state(self.before)


def in_dtype(value: Any, dtype: Any) -> Any:
    """Tensors as arrays, floating arrays in `dtype`, everything else as it is."""
    value = value.data if isinstance(value, Tensor) else value
    return value.astype(dtype, copy=True) if is_array(value) and value.dtype.kind == "f" else value


def np_array(y: Any) -> Array:
    return np.asarray(y) if isinstance(y, np.generic) else y


def named(arguments: dict[str, Any]) -> dict[str, Any]:
    """Bound arguments by name, those of *args as "name0", "name1", …"""
    flat: dict[str, Any] = {}
    for key, value in arguments.items():
        if isinstance(value, tuple) and value and all(map(is_array_like, value)):
            flat |= {f"{key}{i}": item for i, item in enumerate(value)}
        else:
            flat[key] = value
    return flat


def unnamed(arguments: dict[str, Any], flat: dict[str, Any]) -> None:
    """Put what `named` took apart, changed, back into the bound arguments."""
    for key, value in arguments.items():
        if key in flat:
            arguments[key] = flat[key]
        else:
            arguments[key] = tuple(flat[f"{key}{i}"] for i in range(len(value)))


def is_array_like(value: Any) -> bool:
    return is_array(value) or isinstance(value, Tensor)
