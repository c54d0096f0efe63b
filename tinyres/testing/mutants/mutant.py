"""What a mutant is: an operation with one known mistake, and an input at which the mistake shows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyres.backend import Array
from tinyres.kernels import gradients

Check = tuple[str, dict[str, Any]]  # its name without check_, and its settings
Example = Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]

# Checks with their settings. The first three hold for everything.
ALWAYS: tuple[Check, ...] = (("vjp", {}), ("linear", {}), ("pure", {}))
ADJOINT: Check = ("adjoint", {})
CONSERVES: Check = ("conservation", {})


def backwards(x: Array) -> Array:
    """The batch, or whatever the first axis is, in reverse order."""
    return x[::-1]


def same_for_each(*inputs: str) -> Check:
    """What reverses these inputs along their first axis reverses the output."""
    return "equivariant", {"move": dict.fromkeys(inputs, backwards), "move_output": backwards}


@dataclass(frozen=True, eq=False)
class Original:
    """What is to be broken.

    Attributes:
        name: of the operation.
        part: what a mutant puts another in place of: a kernel, or the class of a module, optimiser or engine.
        example: gives arguments and options at which mistakes show.
        checks: those that hold for it beside the ones that always do.
        build: makes of the part what the checks are given.
    """

    name: str
    part: Any
    example: Example
    checks: tuple[Check, ...] = ()
    build: Callable[[Any], Any] = field(default=lambda part: part, repr=False)

    @property
    def kernel(self) -> Any:
        """The unbroken operation."""
        return self.build(self.part)

    def all_checks(self) -> tuple[Check, ...]:
        """Everything that the unbroken operation passes."""
        return ALWAYS + self.checks


@dataclass(frozen=True, eq=False)
class Mutant:
    """An operation with one mistake.

    Attributes:
        name, what: the mistake, in short and in a sentence. original: what was broken. part: the broken part.
    """

    name: str
    what: str
    original: Original
    part: Any = field(repr=False)

    @property
    def of(self) -> str:
        """The name of the operation that is broken."""
        return self.original.name

    @property
    def kernel(self) -> Any:
        """The broken operation, to be called as the unbroken one is."""
        return self.original.build(self.part)

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and options at which the mistake is to be noticed."""
        return self.original.example()


MUTANTS: list[Mutant] = []


def instead_of(original: Original) -> Callable[[Any], Any]:
    """Decorator: this kernel or class takes the place of the right one."""

    def register(part: Any) -> Any:
        MUTANTS.append(Mutant(part.__name__, " ".join(part.__doc__.split()), original, part))
        return part

    return register


def backward_of(original: Original) -> Callable[[Any], Any]:
    """Decorator: the forward pass is right, and this gives the gradients.

    It is called with the right gradients, dy and all the arguments of the kernel, defaults included.
    """
    signature = inspect.signature(original.part)

    def register(change: Any) -> Any:
        def kernel(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            bound.apply_defaults()
            y, pullback = original.part(*args, **options)
            return y, lambda dy: change(gradients(pullback, dy), dy, *bound.args)

        functools.update_wrapper(kernel, change)
        kernel.__wrapped__ = original.part  # type: ignore[attr-defined]  # whose signature it has
        return instead_of(original)(kernel)

    return register


def of(*parts: Any, **options: Any) -> Example:
    """An example: lists are shapes to draw normal values for, functions are called with the generator."""

    def draw(part: Any, rng: np.random.Generator) -> Any:
        if isinstance(part, list):
            return rng.standard_normal(part)
        return part(rng) if callable(part) else part

    def example() -> tuple[tuple[Any, ...], dict[str, Any]]:
        rng = np.random.default_rng(0)
        return tuple(draw(part, rng) for part in parts), options

    return example


def positive(*shape: int) -> Any:
    """Uniform on [0.5, 2)."""
    return lambda rng: rng.uniform(0.5, 2.0, shape)


def distinct(*shape: int) -> Any:
    """No two values nearer than 0.1, none nearer to zero than 0.05."""
    return lambda rng: (rng.permutation(0.1 * np.arange(np.prod(shape))) - 0.95).reshape(shape)
