"""Recomputation: memory for time (Chen et al. 2016, "Training deep nets with sublinear memory cost").

What a network keeps for backward is, nearly all of it, held by pullbacks. The operations of a checkpointed module
forget theirs; what is kept are its inputs. When backward comes to the module, it is run once more, its operations get
their pullbacks back, use them and are done with them before backward comes to the next module.

Only pullbacks are forgotten. The graph stays, with its order and its hooks, so nothing else has to know: every sum is
made in the order in which it would have been made, and every hook is called once.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, TypeVar

from tinyres.autograd import Node, Pullback, tape, telling
from tinyres.backend import Array, get_rng_state, set_rng_state

if TYPE_CHECKING:
    from tinyres.nn.module import Module

M = TypeVar("M", bound="Module")

_recomputing = False


def checkpoint(module: M) -> M:
    """Have `module` keep no more than its inputs for backward, and run a second time there. Returns the module.

    Outputs, gradients, running statistics and random numbers stay the same to the bit. With every block of a network
    checkpointed, training takes the memory of the blocks' inputs and of one block, for the time of one more forward
    pass:

    >>> for block in (*model.layer1, *model.layer2, *model.layer3):
    ...     tinyres.checkpoint(block)

    A `Sequential` of several blocks keeps less and recomputes more at once; checkpointed modules may contain others.
    `module.checkpointed = False` takes it back. Where nothing is recorded, as under `no_grad`, it changes nothing.

    The second run finds modes, buffers, forward hooks and random numbers as the first did, and leaves no trace. Hooks
    on tensors inside are called once, but forward hooks inside are in both runs: see `is_recomputing`.

    Raises:
        TypeError: if it is no module. RuntimeError (`backward`): if the second run does not do what the first did.
    """
    from tinyres.nn.module import Module  # here, since it imports this file

    if not isinstance(module, Module):
        raise TypeError(f"checkpoint: expected a Module, but it is a {type(module).__name__}")
    module.checkpointed = True
    return module


def is_recomputing() -> bool:
    """Whether a checkpointed module is being run for the second time: what watches it has seen all this before."""
    return _recomputing


class Run:
    """One run of a checkpointed module: what it recorded, and all that it takes to repeat it.

    It knows no node: the nodes know of it, and it goes when they go.
    """

    def __init__(self, module: Module, inputs: tuple[Any, ...]) -> None:
        self.module, self.inputs, self.random = module, inputs, get_rng_state()
        self.states: list[tuple[Module, dict[str, Any]]] = [
            (each, {"training": each.training, "_hooks": dict(each._forward_hooks)}) for each in module.modules()
        ]
        self.buffers = [(buffer, buffer.data.copy()) for _, buffer in module.named_buffers()]
        self.operations: list[tuple[str, tuple[int, ...]]] = []  # name, shape of the output
        self.pullbacks: dict[int, Pullback] = {}  # by operation: those that were brought back and not used yet

    def first(self) -> Any:
        """The module's output."""
        with telling(self.forget):
            output = self.module.forward(*self.inputs)
        for each, state in self.states:
            state["_hooks"] |= each._forward_hooks  # what was put on meanwhile is there in the second run, too
        return output

    def forget(self, node: Node) -> None:
        node.pullback = functools.partial(self.pull, len(self.operations))
        self.operations.append((node.op, node.shape))

    def pull(self, operation: int, dy: Array) -> Any:
        """What stands in for a pullback. Backward comes to the last operation first, and its pullback is not there."""
        if operation not in self.pullbacks:
            self.pullbacks = self.second()
        return self.pullbacks.pop(operation)(dy)

    def second(self) -> dict[int, Pullback]:
        """Run the module again as it was run, for the pullbacks."""
        global _recomputing
        before, _recomputing = _recomputing, True
        try:
            with self.module.unchanged(), tape() as nodes:
                set_rng_state(self.random)
                for each, state in self.states:
                    vars(each).update(state)
                for buffer, values in self.buffers:
                    buffer.data[...] = values
                self.module.forward(*self.inputs)
        finally:
            _recomputing = before
        operations = [(node.op, node.shape) for node in nodes]
        for first, second in itertools.zip_longest(self.operations, operations):
            if first != second:
                then, now = ("{} of {}".format(*done) if done else "nothing more" for done in (first, second))
                raise RuntimeError(
                    f"checkpoint: {type(self.module).__name__} did {then} when it was first run but {now} when it was "
                    "run again for backward, expected the same"
                )
        return {index: node.pullback for index, node in enumerate(nodes)}  # type: ignore[misc]
