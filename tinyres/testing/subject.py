"""One view of everything that has a backward pass: a kernel, an operation on Tensors, a Module.

A check wants to know one thing: for named arrays in, which array comes out, and which gradients come back for a
cotangent. `Subject` answers that in float64, with the same random numbers and the same running statistics each time.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import Array, get_rng_state, is_array, set_rng_state, xp
from tinyres.kernels import gradients
from tinyres.nn import Module

Arrays = dict[str, Array]
Gradients = Callable[[Array], dict[str, Array | None]]


@dataclass
class Subject:
    """A function of named arrays.

    Attributes:
        name: what it is called. arrays: all that it is given, by argument or parameter name.
        call: arrays, as they are → (output, the gradients by name as a function of the cotangent).
        lifted: whether it works on Tensors, so that its gradients come from the engine.
    """

    name: str
    arrays: Arrays
    call: Callable[[Arrays], tuple[Array, Gradients]]
    lifted: bool

    @property
    def inputs(self) -> Arrays:
        """The arrays that can have a gradient: the floating ones."""
        return {key: value for key, value in self.arrays.items() if value.dtype.kind == "f"}

    def run(self, arrays: Arrays) -> tuple[Array, Gradients]:
        """`call` with copies (an operation may move running statistics), those that are not given as they were."""
        return self.call({key: value.copy("K") for key, value in {**self.arrays, **arrays}.items()})

    @classmethod
    def of(cls, f: Callable[..., Any], *args: Any, dtype: Any = np.float64, **options: Any) -> Subject:
        """What `f(*args, **options)` computes, its floating arrays (and Tensors) in `dtype`.

        f: a kernel (arrays → output and pullback), a function of Tensors, or a Module, which is copied and whose
        parameters, unless frozen, are inputs, too.
        """
        if isinstance(f, Module):
            if options:
                raise TypeError(f"{type(f).__name__}: a module takes no options, but {', '.join(options)} came")
            return of_module(f, args, dtype)
        try:
            bound = inspect.signature(f).bind(*args, **options)
        except TypeError as error:
            raise TypeError(f"{name_of(f)}: {error}") from None
        bound.apply_defaults()  # a pullback has a gradient for each argument, also for those left out
        given = named(bound.arguments)
        values = {key: in_dtype(value, dtype) for key, value in given.items()}
        state = get_rng_state()

        def result_of(convert: Callable[[str, Any], Any]) -> Any:
            unnamed(bound.arguments, {key: convert(key, value) for key, value in values.items()})
            with same_random_numbers(state):
                return f(*bound.args, **bound.kwargs)

        lifted = is_of_tensors(result_of)

        def call(arrays: Arrays) -> tuple[Array, Gradients]:
            tensors = {
                key: Tensor(value, requires_grad=value.dtype.kind == "f")
                for key, value in arrays.items()
                if lifted and (value.dtype.kind == "f" or isinstance(given[key], Tensor))
            }
            result = result_of(lambda key, value: tensors.get(key, arrays.get(key, value)))
            if lifted:
                return data_of(result), lambda dy: of_tensors(result, tensors, dy)
            y, pullback = result
            return np_array(y), lambda dy: dict(zip(values, map(np_array, gradients(pullback, dy)), strict=False))

        return cls(name_of(f), {key: value for key, value in values.items() if is_array(value)}, call, lifted)


def of_module(module: Module, args: tuple[Any, ...], dtype: Any) -> Subject:
    """A module's forward pass, as a function of what it is given and of its parameters."""
    module = copy.deepcopy(module).to(dtype)
    values = {f"input{i}" if i else "input": in_dtype(value, dtype) for i, value in enumerate(args)}
    parameters = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    arrays = {key: value for key, value in values.items() if is_array(value)}
    arrays |= {key: parameter.data for key, parameter in parameters.items()}
    buffers = [(buffer, buffer.data.copy()) for _, buffer in module.named_buffers()]
    state = get_rng_state()

    def call(arrays: Arrays) -> tuple[Array, Gradients]:
        for buffer, before in buffers:
            buffer.data[...] = before
        for key, parameter in parameters.items():
            parameter.data = arrays[key]
        given = {key: arrays.get(key, value) for key, value in values.items()}
        given = {key: Tensor(v, v.dtype.kind == "f") if is_array(v) else v for key, v in given.items()}
        with same_random_numbers(state):
            result = module(*given.values())
        tensors = parameters | {key: value for key, value in given.items() if isinstance(value, Tensor)}

        def pullback(dy: Array) -> dict[str, Array | None]:
            # What the engine leaves without a gradient counts as 0: a parameter that is not trained is worth a word.
            found = of_tensors(result, tensors, dy)
            return {key: xp(a).zeros_like(a) if found[key] is None else found[key] for key, a in arrays.items()}

        return data_of(result), pullback

    return Subject(type(module).__name__, arrays, call, lifted=True)


def of_tensors(result: Tensor, tensors: dict[str, Tensor], dy: Array) -> dict[str, Array | None]:
    """What `backward` leaves in the tensors' `.grad`."""
    for tensor in tensors.values():
        tensor.grad = None
    if result.requires_grad:
        result.backward(dy, retain_graph=True)
    return {key: None if tensor.grad is None else tensor.grad.data for key, tensor in tensors.items()}


def data_of(result: Any) -> Array:
    if not isinstance(result, Tensor):
        raise TypeError(f"it returned a {type(result).__name__}, expected one Tensor, or an array and its pullback")
    return result.data


def is_of_tensors(result_of: Callable[..., Any]) -> bool:
    """Whether it takes Tensors; a kernel takes arrays and returns an output and a pullback."""
    try:
        with np.errstate(all="ignore"):
            result = result_of(lambda _, value: value.copy() if is_array(value) else value)
    except Exception:  # it wanted a Tensor's methods, or is broken, which a run will show
        return True
    return not (isinstance(result, tuple) and len(result) == 2 and callable(result[1]))


def name_of(f: Callable[..., Any]) -> str:
    """A function's own name, also where some of its arguments are filled in already."""
    f = f.func if isinstance(f, functools.partial) else f
    return getattr(f, "__name__", type(f).__name__)


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
    """Bound arguments by name; arrays in a tuple, as of *args, and what is beside them, as "name0", "name1", …"""
    flat: dict[str, Any] = {}
    for key, value in arguments.items():
        if isinstance(value, tuple) and any(map(is_array_like, value)):
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
