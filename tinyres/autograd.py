"""The engine: tensors, the tape, and `backward`. It knows no operation.

A `Tensor` is an array and, if a gradient is wanted, a `Node`. A node stands for one place in the computation:
it knows the nodes it was made from and a *pullback*, the function that turns the gradient of the loss by its
output into the gradients by its inputs. Nodes are numbered as they are made, so walking them by falling number
visits each one after everything that used it: that, a table of gradients, and no recursion, is `backward`.

Nodes never point at tensors (but weakly) and pullbacks hold arrays only, so a graph has no reference cycles:
when its last tensor is deleted, all its memory goes at once.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import inspect
import itertools
import operator
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from tinyres.backend import DEVICES, Array, device_of, is_array, memory_order, to_device, to_host, untranspose, xp
from tinyres.threads import add, copy

P = ParamSpec("P")
Pullback = Callable[[Array], Any]
Hook = Callable[["Tensor"], "Tensor | None"]

_numbers = itertools.count()
_recording = True
_anomaly = False
_call: Callable[..., tuple[Array, Pullback]] = operator.call  # how operations call kernels: see `calling`
_listeners: tuple[Callable[[Node], None], ...] = ()  # who is told of each operation recorded: see `telling`, `tape`


class Handle:
    """What registering a hook returns: `remove()` takes the hook off again."""

    _keys = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks, self._key = hooks, next(Handle._keys)
        hooks[self._key] = hook

    def remove(self) -> None:
        self._hooks.pop(self._key, None)


class Node:
    """One place in the computation: an operation's result, or a leaf."""

    __slots__ = (
        "device",
        "dtype",
        "hooks",
        "inputs",
        "made_at",
        "number",
        "op",
        "part_hooks",
        "pullback",
        "shape",
        "shapes",
        "tensor",
    )

    def __init__(self, tensor: Tensor, op: str, inputs: tuple[Node | None, ...], pullback: Pullback | None) -> None:
        self.number = next(_numbers)
        self.op = op
        self.inputs = inputs
        self.pullback = pullback  # None for a leaf, and once it was run
        self.hooks: dict[int, Hook] = {}
        self.part_hooks: dict[int, Callable[[int, Array], None]] = {}  # told what the pullback hands to each input
        self.tensor = weakref.ref(tensor) if op == "leaf" else None  # whose .grad to fill
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.shapes = self.made_at = ""  # for detect_anomaly

    @property
    def is_leaf(self) -> bool:
        return self.op == "leaf"


class Tensor:
    """An array that remembers how it was made.

    Args:
        data: a NumPy or CuPy array (shared, not copied), a number, or nested lists of numbers. Python floats
            become float32; arrays keep their dtype.
        requires_grad: whether `backward` is to fill `.grad`. Floating dtypes only.

    Attributes:
        data: the array. grad: the gradient, a Tensor of the same shape, dtype and device, or None.
    """

    __slots__ = ("__weakref__", "_node", "data", "grad")
    __array_ufunc__ = None  # `array + tensor` is Tensor.__radd__'s to answer, not NumPy's

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            data = data.data
        if isinstance(data, np.generic):  # before the test for floats: np.float64 is one
            data = np.asarray(data)
        elif isinstance(data, int | float | list | tuple):
            data = np.asarray(data)
            data = data.astype(np.float32) if data.dtype == np.float64 else data
        if not is_array(data) or data.dtype.kind not in "fiub":
            raise TypeError(
                f"Tensor: data is {_describe(data)}, expected an array, a number or nested lists of numbers"
            )
        self.data: Array = data
        self.grad: Tensor | None = None
        self._node: Node | None = None
        if requires_grad:
            self.requires_grad = True

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        return int(self.data.ndim)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        return device_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it: parameters, inputs, and everything that needs no gradient."""
        return self._node is None or self._node.is_leaf

    @property
    def requires_grad(self) -> bool:
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and self.dtype.kind != "f":
            raise TypeError(f"requires_grad: a tensor of dtype {self.dtype} has no gradient, expected a floating dtype")
        if not self.is_leaf:
            raise RuntimeError(
                "requires_grad can be set on leaves only; this is the result of an operation: use .detach()"
            )
        if wanted != self.requires_grad:
            self._node = Node(self, "leaf", (), None) if wanted else None

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("a tensor with no axes cannot be iterated over")
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __reduce__(self) -> Any:
        """Copied and pickled tensors are leaves: the value, as it lies in memory, the gradient, no history."""
        axes = memory_order(self.data)
        in_memory_order = self.data if axes == sorted(axes) else self.data.transpose(axes)  # pickle writes in C order
        return _rebuild, (type(self), in_memory_order, axes, self.requires_grad, self.grad)

    def __repr__(self) -> str:
        body = np.array2string(to_host(self.data), separator=", ", prefix="tensor(", threshold=200, precision=4)
        notes = [] if self.dtype in (np.float32, np.int64, np.bool_) else [f"dtype={self.dtype}"]
        notes += ["device='cuda'"] if self.device == "cuda" else []
        notes += ["requires_grad=True"] if self.requires_grad and self.is_leaf else []
        notes += [f"op={self._node.op}"] if self._node and not self._node.is_leaf else []
        return f"tensor({', '.join([body, *notes])})"

    # Out of the graph

    def detach(self) -> Tensor:
        """The same array (shared memory) without its history."""
        return Tensor(self.data)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array: shared memory on the CPU, a copy from the GPU."""
        return to_host(self.data)

    def item(self) -> Any:
        """The one value as a Python number. On a GPU this waits for all work before it."""
        if self.data.size != 1:
            raise ValueError(f"item: the tensor has shape {self.shape}, expected exactly one element")
        return self.data.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    # Backward

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor by every leaf to the leaf's `.grad`.

        Args:
            gradient: the cotangent, of this tensor's shape, dtype and device; 1 for a tensor of one element.
            retain_graph: keep what the pullbacks hold, so that `backward` can be called again.

        Raises:
            RuntimeError: if nothing requires a gradient, or the graph was freed by an earlier call.
            ValueError, TypeError: if `gradient` is missing for a non-scalar, or does not fit.
        """
        if self._node is None:
            raise RuntimeError("backward: this tensor needs no gradient: no input of it had requires_grad=True")
        if gradient is None:
            if self.data.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs gradient=, of that shape")
            gradient = xp(self.data).ones_like(self.data)
        else:
            gradient = _raw(gradient)
            _check_gradient("backward: gradient", gradient, self._node)
        run_backward(self._node, gradient, retain_graph)

    def register_hook(self, hook: Hook) -> Handle:
        """Call `hook(grad)` in `backward` once this tensor's whole gradient is known; what it returns, if anything,
        takes the gradient's place."""
        if self._node is None:
            raise RuntimeError("register_hook: this tensor needs no gradient, so no hook would ever be called")
        return Handle(self._node.hooks, hook)

    def retain_grad(self) -> None:
        """Fill `.grad` in `backward` although this tensor is no leaf."""
        if self._node is None:
            raise RuntimeError("retain_grad: this tensor needs no gradient")
        self._node.tensor = weakref.ref(self)

    # Elsewhere

    def to(self, target: Any) -> Tensor:
        """This tensor on a device ("cpu", "cuda") or in a dtype; itself if nothing changes. Differentiable."""
        if as_device(target):
            return self if target == self.device else _to_device(self, target)
        return self if np.dtype(target) == self.dtype else _to_dtype(self, target)

    if TYPE_CHECKING:  # `functional` defines these, and says what they do

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def abs(self) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def relu(self) -> Tensor: ...
        def sigmoid(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def clamp(self, min: float | None = None, max: float | None = None) -> Tensor: ...
        def sum(self, dim: Any = None, keepdim: bool = False) -> Tensor: ...
        def mean(self, dim: Any = None, keepdim: bool = False) -> Tensor: ...
        def var(self, dim: Any = None, correction: int = 1, keepdim: bool = False) -> Tensor: ...
        def amax(self, dim: Any = None, keepdim: bool = False) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor: ...
        def permute(self, *dims: Any) -> Tensor: ...
        def transpose(self, dim0: int, dim1: int) -> Tensor: ...
        def expand(self, *shape: Any) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...


def run_backward(root: Node, gradient: Array, retain_graph: bool) -> None:
    """Send `gradient` from `root` back to every leaf, walking the tape by falling node number."""
    gradients: dict[Node, Array] = {root: gradient}
    queue = [(-root.number, root)]
    while queue:
        node = heapq.heappop(queue)[1]
        gradient = gradients.pop(node)  # complete: everything that used this node has a higher number
        gradient = _through_hooks(node, gradient)
        if node.tensor is not None:
            _accumulate(node.tensor(), gradient)
        if node.is_leaf:
            continue
        if node.pullback is None:
            raise RuntimeError(
                f"backward: {node.op} was run backward before and what it held is freed; "
                "to run it again, pass retain_graph=True to the call before"
            )
        parts = node.pullback(gradient)
        parts = parts([parent is not None for parent in node.inputs]) if callable(parts) else parts
        parts = parts if isinstance(parts, tuple) else (parts,)
        for position, (parent, part) in enumerate(zip(node.inputs, parts, strict=False)):
            if parent is None or part is None:
                continue
            part = part() if callable(part) else part
            part = np.asarray(part) if isinstance(part, np.generic) else part
            _check_gradient(f"{node.op}: the pullback's gradient for input {position}", part, parent)
            if _anomaly:
                _check_finite(part, f"{node.op}: the gradient for input {position}", node.shapes, node.made_at)
            for hook in list(node.part_hooks.values()):
                hook(position, part)
            if parent in gradients:
                gradients[parent] = add(gradients[parent], part)  # a new array: `part` may be shared with another node
            else:
                gradients[parent] = part
                heapq.heappush(queue, (-parent.number, parent))
        if any(node.inputs[len(parts) :]) or len(parts) > len(node.inputs):
            came = f"{len(parts)} gradient{'s' if len(parts) > 1 else ''}"
            raise ValueError(f"{node.op}: the pullback gave {came}, expected one for each of {len(node.inputs)} inputs")
        if not retain_graph:
            node.pullback, node.inputs = None, ()
        gradient = parts = part = None  # what they hold goes before the next pullback needs memory


def _through_hooks(node: Node, gradient: Array) -> Array:
    """Show the gradient to the node's hooks. Returns it, or what took its place."""
    for hook in list(node.hooks.values()):
        replacement = hook(Tensor(gradient))
        if replacement is not None:
            if not isinstance(replacement, Tensor):
                raise TypeError(f"{node.op}: a hook returned {_describe(replacement)}, expected a Tensor or None")
            gradient = replacement.data
            _check_gradient(f"{node.op}: the gradient that a hook returned", gradient, node)
    return gradient


def _accumulate(tensor: Tensor | None, gradient: Array) -> None:
    if tensor is None:  # nobody holds the leaf any more
        return
    if tensor.grad is None:
        tensor.grad = Tensor(copy(gradient))  # a copy: pullbacks may share what they return
    else:
        tensor.grad = Tensor(add(tensor.grad.data, gradient))


def differentiable(kernel: Callable[P, tuple[Array, Pullback]]) -> Callable[P, Tensor]:
    """Lift a kernel (arrays in, output and pullback out) to an operation on Tensors.

    The kernel's array arguments come first. Its pullback takes the gradient by the output and returns the
    gradient by the input, or a tuple of one for each array argument in order: an array, None where there is no
    gradient, or a function of no arguments, called only if that gradient is needed. Where gradients share work, it
    returns one function that gives the tuple, called with a list that says of each argument whether it is needed.

    >>> @differentiable
    ... def cube(x):
    ...     return x**3, lambda dy: dy * 3 * x**2

    Raises (the operation):
        TypeError: if floating inputs differ in dtype. ValueError: if inputs are on different devices.
    """
    parameters = inspect.signature(kernel).parameters
    name, names = kernel.__name__, tuple(parameters)
    arrays = {key for key, parameter in parameters.items() if "Array" in str(parameter.annotation)}

    @functools.wraps(kernel)
    def op(*args: Any, **kwargs: Any) -> Tensor:
        inputs = args + tuple(kwargs.get(key) for key in names[len(args) :])
        _check_alike(name, names, arrays, inputs)
        output, pullback = _call(kernel, *map(_raw, args), **{key: _raw(value) for key, value in kwargs.items()})
        result = Tensor(output)
        if _recording:
            parents = tuple(value._node if isinstance(value, Tensor) else None for value in inputs)
            if any(parents):
                result._node = Node(result, name, parents, pullback)
                for listener in _listeners:
                    listener(result._node)
        if _anomaly:
            shapes = ", ".join(
                f"{key}: {value.shape}" for key, value in zip(names, inputs, strict=False) if hasattr(value, "shape")
            )
            _check_finite(result.data, f"{name}: the output", shapes, _calling_line())
            if result._node:
                result._node.shapes, result._node.made_at = shapes, _calling_line()
        return result

    return op


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing: results inside need no gradient and hold no history. Also a decorator."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


def is_grad_enabled() -> bool:
    """Whether operations are being recorded, as they are outside `no_grad`."""
    return _recording


@contextlib.contextmanager
def calling(stand_in: Callable[..., tuple[Array, Pullback]]) -> Iterator[None]:
    """Inside, operations call `stand_in(call, kernel, …)` where they would have called `call(kernel, …)`."""
    global _call
    before, _call = _call, functools.partial(stand_in, _call)
    try:
        yield
    finally:
        _call = before


@contextlib.contextmanager
def telling(listener: Callable[[Node], None]) -> Iterator[None]:
    """Inside, call `listener(node)` for each operation recorded, before those who listened before."""
    global _listeners
    before, _listeners = _listeners, (listener, *_listeners)
    try:
        yield
    finally:
        _listeners = before


@contextlib.contextmanager
def tape() -> Iterator[list[Node]]:
    """Record on a tape of one's own, also under `no_grad`: a list of the nodes that operations inside make, of which
    nobody else is told."""
    global _recording, _listeners
    nodes: list[Node] = []
    before = _recording, _listeners
    _recording, _listeners = True, (nodes.append,)
    try:
        yield nodes
    finally:
        _recording, _listeners = before


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Stop where a NaN or Inf first appears, forward or backward, naming the operation, its shapes and its line.

    Raises:
        FloatingPointError: at the first operation whose output or gradient is not finite.
    """
    global _anomaly
    before, _anomaly = _anomaly, True
    try:
        yield
    finally:
        _anomaly = before


def _rebuild(kind: type[Tensor], data: Array, axes: list[int], requires_grad: bool, grad: Tensor | None) -> Tensor:
    tensor = kind.__new__(kind)
    Tensor.__init__(tensor, data if axes == sorted(axes) else untranspose(data, axes), requires_grad)
    tensor.grad = grad
    return tensor


def as_device(target: Any) -> bool:
    """Whether the argument of a `.to(…)` is a device, and not a dtype. Refuses what is neither."""
    if isinstance(target, str) and target in DEVICES:
        return True
    try:
        np.dtype(target)
    except TypeError:
        raise ValueError(f"to: {target!r} is neither a device ({', '.join(map(repr, DEVICES))}) nor a dtype") from None
    return False


def _raw(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data
    if isinstance(value, tuple):  # an index of several tensors
        return tuple(map(_raw, value))
    return value.item() if isinstance(value, np.generic) else value  # a NumPy scalar would widen float32


def _describe(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {value.dtype}" if is_array(value) else "")


def _check_alike(op: str, names: tuple[str, ...], arrays: set[str], inputs: tuple[Any, ...]) -> None:
    """Refuse inputs on two devices or of two floating dtypes, and lists for arrays, by name."""
    first: Any = None
    for position, value in enumerate(inputs):
        array = value.data if isinstance(value, Tensor) else value
        name = names[min(position, len(names) - 1)]
        if not is_array(array):
            if isinstance(array, list) and name in arrays:
                raise TypeError(f"{op}: {name} is a list, expected a Tensor, an array or a number")
            continue
        here = name, device_of(array), array.dtype
        if first is None:
            first = here
        elif first[1] != here[1]:
            raise ValueError(f"{op}: {first[0]} is on {first[1]} but {here[0]} is on {here[1]}: move one with .to(...)")
        elif first[2].kind != "f":
            first = here
        elif here[2].kind == "f" and first[2] != here[2]:
            raise TypeError(f"{op}: {first[0]} is {first[2]} but {here[0]} is {here[2]}: convert one with .to(dtype)")


def _check_gradient(what: str, gradient: Array, node: Node) -> None:
    """Refuse a gradient that does not fit the node it is for."""
    if not is_array(gradient):
        raise TypeError(f"{what} is {_describe(gradient)}, expected an array")
    came = tuple(gradient.shape), gradient.dtype, device_of(gradient)
    expected = node.shape, node.dtype, node.device
    if came != expected:
        say = "shape {}, {} on {}".format
        raise (TypeError if came[0] == expected[0] else ValueError)(
            f"{what} has {say(*came)}, expected {say(*expected)}"
        )


def _check_finite(array: Array, what: str, shapes: str, line: str) -> None:
    if array.dtype.kind == "f" and not bool(xp(array).isfinite(array).all()):
        bad = int((~xp(array).isfinite(array)).sum())
        raise FloatingPointError(f"{what} has {bad} NaN or Inf of {array.size} values ({shapes}), made at {line}")


def _calling_line() -> str:
    """The innermost line of the stack that is not tinyres's own."""
    package = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(package)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else "an unknown line"


@differentiable
def _to_device(x: Array, device: str) -> tuple[Array, Pullback]:
    home = device_of(x)
    return to_device(x, device), lambda dy: to_device(dy, home)


@differentiable
def _to_dtype(x: Array, dtype: Any) -> tuple[Array, Pullback]:
    return x.astype(dtype), lambda dy: dy.astype(x.dtype)
