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
from tinyres.flow.live import on_screen
from tinyres.flow.record import Key, Record
from tinyres.flow.statistics import sums
from tinyres.nn import Module, Sequential, is_recomputing
from tinyres.optim import Optimizer


@contextlib.contextmanager
def watch(model: Module, optimizer: Optimizer | None = None, every: int = 1, live: bool = False) -> Iterator[Record]:
    """Record every `every`-th training step made inside the `with` block.

    Modules without children are watched, in the order in which they first run: their output (role "activation"),
    the gradient of the loss by it ("activation_grad"), and, where they have one, their `weight`, its gradient as
    `backward` brings it ("weight_grad", before clipping) and what `optimizer.step()` adds to it ("update").

    A step is all that happens up to and including `optimizer.step()`, numbered from 0; its first forward pass is the
    one recorded. Without an optimiser each forward pass is a step, which lasts until the next. Passes in evaluation
    mode or under `no_grad` do not count. Steps between recorded ones run untouched.

    With `live`, what is recorded is shown meanwhile: as a figure in a notebook, as a table in a terminal.

    Raises:
        ValueError: if `every` is less than 1, or the model has no modules inside.
    """
    if every < 1:
        raise ValueError(f"watch: every is {every}, expected 1 or more")
    recorder = Recorder(model, optimizer, every)
    with contextlib.ExitStack() as undo:
        if live:
            recorder.recorded = undo.enter_context(on_screen(recorder.record))
        undo.callback(recorder.finish)
        undo.enter_context(standing_in(model, "forward", recorder.forward))
        if optimizer is not None:
            undo.enter_context(standing_in(optimizer, "step", recorder.optimizer_step))
        yield recorder.record


def snapshot(model: Module, x: Any, y: Any, loss: Callable[[Any, Any], Tensor] = F.cross_entropy) -> Record:
    """Record one forward and one backward pass of `loss(model(x), y)` in training mode, as step 0.

    x: (N, …), an array or Tensor; y: what `loss` takes. Afterwards gradients, running statistics, the random
    generator and each module's mode are as they were.
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        with model.unchanged(), watch(model) as record:
            if not model.training:
                model.train()
            loss(model(Tensor(x)), y).backward()  # a new Tensor: x itself gets no gradient
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
    return record


class Call:
    """One call of one module: its arrays' `sums` by role, None until they come.

    place: position, name, kind, block. watched: the tensors to take, by role.
    """

    def __init__(self, place: tuple[int, str, str, str], watched: dict[str, Any]) -> None:
        self.place = place
        self.weight: Tensor | None = watched.get("weight")
        self.sums: dict[str, Array | None] = {}
        self.handles: list[Handle] = []
        for role, tensor in watched.items():
            self.expect(role, tensor)

    def expect(self, role: str, tensor: Any) -> None:
        """Take `tensor` now, and its gradient when `backward` brings it."""
        of_gradient = f"{role}_grad"
        self.sums[role] = sums(tensor.data) if isinstance(tensor, Tensor) else None
        self.sums[of_gradient] = None

        def arrive(gradient: Tensor) -> None:
            self.sums[of_gradient] = sums(gradient.data)

        if isinstance(tensor, Tensor) and tensor.requires_grad:
            self.handles.append(tensor.register_hook(arrive))


class Recorder:
    """Turns what happens to a model and its optimiser into rows of a record. `calls`: the step being recorded."""

    def __init__(self, model: Module, optimizer: Optimizer | None, every: int) -> None:
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
            call.sums["update"] = sums(weight.data - values)
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

        def hook(module: Module, _inputs: tuple[Any, ...], output: Any) -> None:
            if not self.listens:
                return
            run = next(runs)
            position = self.positions.setdefault((name, run), len(self.positions))
            watched = {"activation": output}
            if run == 0 and isinstance(weight := getattr(module, "weight", None), Tensor):
                watched["weight"] = weight  # once, however often the module runs
            self.calls.append(Call((position, name, type(module).__name__, block), watched))

        return hook

    def finish(self) -> None:
        """Write down the step, with what has come by now."""
        if self.calls:
            keys = [Key(self.step, *call.place, role) for call in self.calls for role in call.sums]
            self.record.add(keys, [value for call in self.calls for value in call.sums.values()])
        recorded = bool(self.calls)
        self.forget()
        if recorded and self.recorded is not None:
            self.recorded()

    def forget(self) -> None:
        for handle in itertools.chain(self.handles, *(call.handles for call in self.calls)):
            handle.remove()
        self.handles, self.calls = [], []


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
