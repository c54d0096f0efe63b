"""The recorder: puts hooks on a network for the steps it is to see, and takes them off again.

What passes is reduced to its statistics at once; no activation is kept. The hooks look and never touch, so that
training with and without them gives the same bits.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from tinyres import functional as F
from tinyres.autograd import Handle, Tensor, is_grad_enabled
from tinyres.backend import Array
from tinyres.flow.additions import Split
from tinyres.flow.live import on_screen
from tinyres.flow.measure import Measurements
from tinyres.flow.record import Key, Record
from tinyres.nn import Add, Module, Sequential, is_recomputing
from tinyres.optim import Optimizer


@contextlib.contextmanager
def watch(
    model: Module, optimizer: Optimizer | None = None, every: int = 1, live: bool = False, exact: bool = False
) -> Iterator[Record]:
    """Record every `every`-th training step made inside the `with` block.

    Modules without children are watched, in the order in which they first run: their output (role "activation"),
    the gradient of the loss by it ("activation_grad"), and, where they have one, their `weight`, its gradient as
    `backward` brings it ("weight_grad", before clipping) and what `optimizer.step()` adds to it ("update"). Of a
    residual addition (`nn.Add`) also what it adds ("skip", "branch") and the two parts of the gradient by the block's
    input ("skip_grad", "branch_grad"; missing where that input needs no gradient).

    A step is all that happens up to and including `optimizer.step()`, numbered from 0; its first forward pass is the
    one recorded. Without an optimiser each forward pass is a step, which lasts until the next. Passes in evaluation
    mode or under `no_grad` do not count. Steps between recorded ones run untouched.

    Of an array of more than 131,072 values so many are looked at, in runs of 32 neighbours spread evenly over it: root
    mean squares are good to a percent, and a lone NaN may be missed. With `exact` all values are, at twice the cost.

    With `live`, what is recorded is shown meanwhile: as a figure in a notebook, as a table in a terminal.

    Raises:
        ValueError: if `every` is less than 1, or the model has no modules inside.
    """
    if every < 1:
        raise ValueError(f"watch: every is {every}, expected 1 or more")
    recorder = Recorder(model, optimizer, every, exact)
    with contextlib.ExitStack() as undo:
        if live:
            recorder.recorded = undo.enter_context(on_screen(recorder.record))
        undo.callback(recorder.finish)
        undo.enter_context(standing_in(model, "forward", recorder.forward))
        if optimizer is not None:
            undo.enter_context(standing_in(optimizer, "step", recorder.optimizer_step))
        yield recorder.record


def snapshot(model: Module, x: Any, y: Any, loss: Callable[[Any, Any], Tensor] = F.cross_entropy) -> Record:
    """Record one forward and one backward pass of `loss(model(x), y)` in training mode, as step 0, looking at all
    values.

    x: (N, …), an array or Tensor; y: what `loss` takes. Afterwards gradients, running statistics, the random
    generator and each module's mode are as they were.
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        with model.unchanged(), watch(model, exact=True) as record:
            if not model.training:
                model.train()
            loss(model(Tensor(x)), y).backward()  # a new Tensor: x itself gets no gradient
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
    return record


class Call:
    """One call of one module: its arrays `measured`, by role, None until they come.

    place: position, name, kind, block.
    """

    def __init__(self, place: tuple[int, str, str, str], measurements: Measurements) -> None:
        self.place, self.measurements = place, measurements
        self.weight: Tensor | None = None
        self.measured: dict[str, Array | None] = {}
        self.handles: list[Handle] = []

    def expect_output(self, output: Any) -> None:
        """Take the output now, and its gradient when `backward` brings it."""
        self.measured["activation"] = self.measurements.of(output.data) if isinstance(output, Tensor) else None
        self.expect_gradient("activation_grad", output)

    def expect_weight(self, weight: Tensor) -> None:
        self.weight = weight
        self.measured["weight"] = self.measurements.of(weight.data)
        self.expect_gradient("weight_grad", weight)

    def expect_gradient(self, role: str, tensor: Any) -> None:
        self.measured[role] = None

        def arrive(gradient: Tensor) -> None:
            self.measured[role] = self.measurements.of(gradient.data)

        if isinstance(tensor, Tensor) and tensor.requires_grad:
            self.handles.append(tensor.register_hook(arrive))

    def expect_parts(self, branch: Tensor, skip: Tensor, addition: Tensor) -> None:
        """Take both operands of an addition, and the gradient by the block's input in two parts."""

        def arrive(branch: Array | None, skip: Array | None) -> None:
            self.take_pair(("branch_grad", branch), ("skip_grad", skip))

        self.take_pair(("branch", branch.data), ("skip", skip.data))
        self.take_pair(("branch_grad", None), ("skip_grad", None))
        self.handles += Split(branch, skip, addition, arrive).handles

    def take_pair(self, *pair: tuple[str, Array | None]) -> None:
        (_, first), (_, second) = pair
        if first is not None and second is not None:
            self.measured |= zip((role for role, _ in pair), self.measurements.of_pair(first, second), strict=True)
        else:
            self.measured |= {role: None if array is None else self.measurements.of(array) for role, array in pair}


class Recorder:
    """Turns what happens to a model and its optimiser into rows of a record. `calls`: the step being recorded."""

    def __init__(self, model: Module, optimizer: Optimizer | None, every: int, exact: bool) -> None:
        if not list(model.children()):
            raise ValueError(f"watch: the model is a single {type(model).__name__}, expected one with modules inside")
        self.model, self.optimizer, self.every = model, optimizer, every
        self.record = Record()
        self.recorded: Callable[[], None] | None = None  # to be called after each recorded step
        self.step = -1 if optimizer is None else 0
        self.calls: list[Call] = []
        self.handles: list[Handle] = []
        self.listens = False
        self.positions: dict[tuple[str, int], int] = {}  # by name and how many times the module ran before
        self.measurements = Measurements(exact)  # of the step

    def forward(self, original: Callable[..., Any], *inputs: Any) -> Any:
        """The model's forward pass, seen if it is the first of a step that is due."""
        if not (self.model.training and is_grad_enabled()) or is_recomputing():
            return original(*inputs)
        if self.optimizer is None:
            self.finish()
            self.step += 1
        if self.calls or self.step % self.every:
            return original(*inputs)
        with self.listening():
            return original(*inputs)

    def optimizer_step(self, original: Callable[..., Any], *args: Any) -> Any:
        """The optimiser's step, and the end of the recorder's."""
        before = [(call, call.weight, call.weight.data.copy("K")) for call in self.calls if call.weight is not None]
        result = original(*args)
        for call, weight, values in before:
            call.measured["update"] = self.measurements.of(weight.data - values)
        self.finish()
        self.step += 1
        return result

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks on all modules without children, which listen for one forward pass. They stay for the step: where a
        module is run again in backward (`checkpoint`), it should find what it found in the forward pass."""
        modules = dict(self.model.named_modules())
        leaves = {name: module for name, module in modules.items() if not list(module.children())}
        self.handles = [m.register_forward_hook(self.listener(n, block(n, modules))) for n, m in leaves.items()]
        self.listens = True
        try:
            yield
        except BaseException:
            self.forget()  # half a pass
            raise
        finally:
            self.listens = False

    def listener(self, name: str, block: str) -> Callable[[Module, tuple[Any, ...], Any], None]:
        runs = itertools.count()

        def hook(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not self.listens:
                return
            run = next(runs)
            position = self.positions.setdefault((name, run), len(self.positions))
            call = Call((position, name, type(module).__name__, block), self.measurements)
            self.calls.append(call)
            call.expect_output(output)
            if run == 0 and isinstance(weight := getattr(module, "weight", None), Tensor):
                call.expect_weight(weight)  # once, however often the module runs
            if isinstance(module, Add) and all(isinstance(operand, Tensor) for operand in inputs):
                branch, skip = inputs
                call.expect_parts(branch, skip, output)

        return hook

    def finish(self) -> None:
        """Write down the step, with what has come by now."""
        if self.calls:
            keys = [Key(self.step, *call.place, role) for call in self.calls for role in call.measured]
            self.record.add(keys, [value for call in self.calls for value in call.measured.values()])
        recorded = bool(self.calls)
        self.forget()
        if recorded and self.recorded is not None:
            self.recorded()

    def forget(self) -> None:
        for handle in itertools.chain(self.handles, *(call.handles for call in self.calls)):
            handle.remove()
        self.handles, self.calls, self.measurements = [], [], Measurements(self.measurements.exact)


def block(name: str, modules: dict[str, Module]) -> str:
    """The innermost module around `name` that is no mere Sequential: its residual block, or "" for the model."""
    while name:
        name = name.rpartition(".")[0]
        if not isinstance(modules[name], Sequential):
            return name
    return ""


@contextlib.contextmanager
def standing_in(owner: Any, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling `owner.name(*args)` calls `stand_in(original, *args)`."""
    original, before = getattr(owner, name), vars(owner).get(name)

    def method(self: Any, *args: Any) -> Any:
        if self is not owner:  # a deep copy made meanwhile, which nobody watches
            return getattr(type(self), name)(self, *args)
        return stand_in(original, *args)

    setattr(owner, name, MethodType(method, owner))
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
