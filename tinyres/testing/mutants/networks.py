"""Broken residual blocks, engines and optimisers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyres import functional as F
from tinyres import kernels
from tinyres.autograd import Node, Tensor, differentiable
from tinyres.backend import Array
from tinyres.nn import Add, BasicBlock, Module, Parameter, PreActBlock
from tinyres.nn.blocks import norm_relu
from tinyres.optim import SGD
from tinyres.testing.mutants.mutant import ADJOINT, Original, instead_of, of, same_for_each
from tinyres.testing.subject import same_random_numbers

# Residual blocks


def block(make: Callable[..., Module]) -> Module:
    """A block of 2 channels, the same at each call, its norms' parameters away from 1 and 0."""
    rng = np.random.default_rng(0)
    with same_random_numbers(dict(rng.bit_generator.state)):
        module = make(2, 2)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data[...] = rng.uniform(0.5, 1.5, parameter.shape)
    return module


def block_with(add: type[Module]) -> Module:
    """A pre-activation block, y = F(x) + x, with another addition."""
    module: Any = block(PreActBlock)
    module.add = add()
    return module  # type: ignore[no-any-return]


ADDITION = Original(
    "PreActBlock", Add, of([3, 2, 4, 5]), build=block_with, checks=(("residual", {}), same_for_each("input"))
)
PRE_ACTIVATION = Original(
    "PreActBlock", PreActBlock, of([3, 2, 4, 5]), build=block, checks=(("residual", {}), same_for_each("input"))
)
BASIC = Original(
    "BasicBlock", BasicBlock, of([3, 2, 4, 5]), build=block, checks=(("residual", {}), same_for_each("input"))
)


@instead_of(ADDITION)
class SkipDropped(Add):
    """The block gives F(x)."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch


@instead_of(ADDITION)
class SkipAddedTwice(Add):
    """The block gives F(x) + 2x."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch + skip + skip


@instead_of(ADDITION)
class SkipSubtracted(Add):
    """The block gives F(x) − x."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch - skip


@instead_of(ADDITION)
class SkipDetached(Add):
    """The skip is added, but no gradient flows back through it."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch + skip.detach()


@instead_of(ADDITION)
class BranchDetached(Add):
    """The branch is added, but no gradient flows back through it: its layers would never learn."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return branch.detach() + skip


@instead_of(ADDITION)
class GradientHalved(Add):
    """The addition shares its gradient out among branch and skip instead of giving it to both."""

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        return add_halved(branch, skip)


@differentiable
def add_halved(input: Array, other: Array) -> Any:
    return input + other, lambda dy: (0.5 * dy, 0.5 * dy)


@instead_of(PRE_ACTIVATION)
class SkipAfterActivation(PreActBlock):
    """The skip starts behind the first norm and rectifier, so that nothing reaches the end unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        x = norm_relu(self.bn1, self.relu1, x)
        out = self.conv2(norm_relu(self.bn2, self.relu2, self.conv1(x)))
        return F.add(out, x)


@instead_of(BASIC)
class BlockWithoutSkip(BasicBlock):
    """A plain block where a residual one was asked for."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(norm_relu(self.bn1, self.relu1, self.conv1(x)))
        return norm_relu(self.bn2, self.relu2, out)


# Engines


class Engine:
    """`backward` at its simplest, with a method for each thing that can go wrong."""

    def run(self, root: Node, gradient: Array) -> None:
        gradients, waiting = {root: gradient}, {root}
        while waiting:
            node = self.next(waiting)
            waiting.remove(node)
            dy = gradients.pop(node)
            if node.pullback is None:
                self.store(node.tensor(), dy)  # type: ignore[misc]
                continue
            for parent, part in zip(node.inputs, kernels.gradients(node.pullback, dy), strict=False):
                if parent is not None:
                    gradients[parent] = self.merge(gradients[parent], part) if parent in gradients else part
                    waiting.add(parent)

    def next(self, waiting: set[Node]) -> Node:
        """The node made last: all that used it are done."""
        return max(waiting, key=lambda node: node.number)

    def merge(self, old: Array, new: Array) -> Array:
        """One gradient of the two that a tensor used twice receives."""
        return old + new

    def store(self, leaf: Any, gradient: Array) -> None:
        """Add to `.grad`."""
        leaf.grad = Tensor(gradient.copy() if leaf.grad is None else leaf.grad.data + gradient)


class Output(Tensor):
    """A result whose `backward` is another engine's."""

    def __init__(self, result: Tensor, engine: Engine) -> None:
        super().__init__(result.data)
        self._node, self.engine = result._node, engine

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        assert self._node is not None
        self.engine.run(self._node, gradient)


def under(function: Callable[..., Tensor]) -> Callable[[type[Engine]], Callable[..., Tensor]]:
    """What makes of an engine `function`, with that engine to run it backward."""

    def build(engine: type[Engine]) -> Callable[..., Tensor]:
        def run(x: Tensor, z: Tensor) -> Tensor:
            return Output(function(x, z), engine())

        run.__name__ = engine.__name__
        return run

    return build


def reused(x: Tensor, z: Tensor) -> Tensor:
    """A graph in which a leaf and an inner node are each used twice, on ways of different length."""
    h = x * z
    square = h * h
    return (h + x) ** 2 + square


def total(x: Tensor, z: Tensor) -> Tensor:
    """The smallest graph in which two leaves receive one array."""
    return x + z


REUSE = Original("engine", Engine, of([2, 3], [2, 3]), build=under(reused), checks=(same_for_each("x", "z"),))
LEAVES = Original("engine", Engine, of([2, 3], [2, 3]), build=under(total), checks=(same_for_each("x", "z"),))


@instead_of(REUSE)
class EngineOverwrites(Engine):
    """The second gradient of a tensor used twice takes the first one's place."""

    def merge(self, old: Array, new: Array) -> Array:
        return new


@instead_of(REUSE)
class EngineAddsInPlace(Engine):
    """Gradients are added in place, although another node holds the same array."""

    def merge(self, old: Array, new: Array) -> Array:
        old += new
        return old


@instead_of(REUSE)
class EngineForgetsUses(Engine):
    """Only the first gradient that reaches a tensor counts."""

    def merge(self, old: Array, new: Array) -> Array:
        return old


@instead_of(REUSE)
class EngineInAnyOrder(Engine):
    """Nodes are taken as they were made, the first one first, and a leaf keeps what it has when it is taken."""

    def next(self, waiting: set[Node]) -> Node:
        return min(waiting, key=lambda node: node.number)

    def store(self, leaf: Any, gradient: Array) -> None:
        if leaf.grad is None:
            super().store(leaf, gradient)


@instead_of(LEAVES)
class EngineAliases(Engine):
    """The leaves of a sum share one array as their `.grad`: clipping one clips the other."""

    def store(self, leaf: Any, gradient: Array) -> None:
        leaf.grad = Tensor(gradient)


# Optimisers


def stepping(optimizer: type[SGD], decay: float = 0.5, lr: float = 0.1, momentum: float = 0.9) -> Callable[..., Any]:
    """Two steps with the same gradient, as a kernel. They are linear in both arguments, the same for each element."""

    def two_steps(parameter: Array, gradient: Array) -> Any:
        p = Parameter(parameter.copy())
        p.grad = Tensor(gradient)
        stepper = optimizer([p], lr=lr, weight_decay=decay, momentum=momentum)
        stepper.step()
        stepper.step()
        return p.data, lambda dy: (dy * by_hand(1.0, 0.0), dy * by_hand(0.0, 1.0))

    def by_hand(p: float, g: float) -> float:
        """What two steps make of one number."""
        v = g + decay * p
        p -= lr * v
        v = momentum * v + g + decay * p
        return p - lr * v

    two_steps.__name__ = optimizer.__name__
    return two_steps


STEPS = Original(
    "SGD", SGD, of([2, 3], [2, 3]), build=stepping, checks=(ADJOINT, same_for_each("parameter", "gradient"))
)
STEPS_PLAIN = Original(
    "SGD",
    SGD,
    of([2, 3], [2, 3]),
    build=functools.partial(stepping, decay=0.0),
    checks=(ADJOINT, same_for_each("parameter", "gradient")),
)


@instead_of(STEPS)
class DecayInPlace(SGD):
    """Weight decay is added to `.grad` itself: at the next step, or in another group, it is there again."""

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        g += group["weight_decay"] * p
        super().update(p, g, state, {**group, "weight_decay": 0.0})


@instead_of(STEPS_PLAIN)
class MomentumKeepsGradient(SGD):
    """The first gradient becomes the momentum buffer without being copied, and the second step changes it."""

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        if state:
            super().update(p, g, state, group)
        else:
            state["momentum_buffer"] = g
            p -= group["lr"] * g


@instead_of(STEPS)
class MomentumAveraged(SGD):
    """The buffer is a running mean, μ·v + (1 − μ)·g, where a running sum was meant."""

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(p, g, state, {**group, "dampening": group["momentum"]})


@instead_of(STEPS)
class DecayDecoupled(SGD):
    """The parameter shrinks by itself, as in AdamW, and the decay gathers no momentum."""

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        p *= 1 - group["lr"] * group["weight_decay"]
        super().update(p, g, state, {**group, "weight_decay": 0.0})
