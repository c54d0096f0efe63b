"""An operation changes nothing but its result, and gives the same one again, wherever and however its arrays lie."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import Array, device_of, is_array, share_memory, to_device, to_host, xp
from tinyres.nn import Module
from tinyres.testing.report import Report
from tinyres.testing.subject import Arrays, Subject
from tinyres.testing.trial import Host, Trial

SIDES = "now it", "before it was"


def check_pure(f: Callable[..., Any], *args: Any, seed: int = 0, **options: Any) -> Report:
    """What a function must not do, beside computing the wrong thing.

    * It changes no argument, forward or backward (but running statistics, by that name), and not the cotangent.
    * The same call gives the same bits, and so does the same pullback, a second time, even if what it returned at
      first was overwritten meanwhile: nothing that it holds may be handed out.
    * Of Tensors and in a Module, no `.grad` shares memory with another, with the cotangent or with an argument. (A
      kernel may return its cotangent, or one array twice: the engine copies.)
    * float32 stays float32, and each gradient has its input's shape.
    * Other memory layouts give the same numbers: Fortran order, channels-last, negative strides, every other element of
      a larger array, and arrays repeated by a stride of 0, of inputs and cotangent.
    """
    trial = Trial(check_pure, f, args, options, seed)
    changes_nothing(trial)
    gives_the_same_again(trial)
    keeps_float32(trial, Subject.of(f, *args, dtype=np.float32, **options))
    layouts(trial)
    return trial.report()


def changes_nothing(trial: Trial) -> None:
    """Try that neither pass writes to what it was given, nor ties gradients together."""
    arrays, g = copied(trial.subject.arrays), trial.g.copy()
    y, pullback = trial.subject.call(arrays)
    unchanged(trial, "the forward pass", arrays, trial.subject.arrays)
    found = pullback(g)
    unchanged(trial, "the backward pass", arrays, trial.subject.arrays)
    trial.same("the backward pass changes its cotangent", g, trial.g, SIDES)
    trial.same("the backward pass changes the output", y, trial.y, SIDES)
    if not trial.subject.lifted:
        return
    memory = {f"the gradient for {key}": a for key, a in found.items() if a is not None} | {"the cotangent": g} | arrays
    for (name, one), (other, two) in itertools.combinations(memory.items(), 2):
        if name.startswith("the gradient") and share_memory(one, two):
            trial.fail(f"{name} shares memory with {other}: writing to one changes both")


def unchanged(trial: Trial, what: str, arrays: Arrays, before: Arrays) -> None:
    for key, array in arrays.items():
        if not key.startswith("running_"):
            trial.same(f"{what} changes its argument {key}", array, before[key], SIDES)


def gives_the_same_again(trial: Trial) -> None:
    """Try that a second call, and a second call of one pullback, give the same bits."""
    y, pullback = trial.subject.run({})
    trial.same("the same call gives another output", y, trial.y, ("the second", "the first"))
    names = "the second", "the first"
    for call in ("a second call's pullback gives", "the same pullback, called again, gives"):
        found = pullback(trial.g.copy())
        for key, gradient in trial.fitting(found).items():
            trial.same(f"{call} another gradient for {key}", gradient, trial.gradients[key], names)
        for returned in found.values():
            if isinstance(returned, np.ndarray) and returned.flags.writeable:
                returned[...] = np.nan  # whoever receives a gradient may write to it
    sides = "once the gradients are written to, it", "before it was"
    trial.same("the pullback hands out the memory of the output", y, trial.y, sides)


def keeps_float32(trial: Trial, subject: Subject) -> None:
    """Try that float32 goes in, out and back."""
    y, pullback = subject.run({})
    if y.dtype != np.float32:
        trial.fail(f"of float32 arrays, the output is {y.dtype}, expected float32")
        return
    for key, gradient in pullback(trial.g.astype(np.float32)).items():
        if key in subject.inputs and gradient is not None and gradient.dtype != np.float32:
            trial.fail(f"of float32 arrays, the gradient for {key} is {gradient.dtype}, expected float32")


def layouts(trial: Trial) -> None:
    """Try other strides, of all arrays together, and strides of 0, of one after the other."""
    arrays = trial.subject.arrays
    for name, lay in LAYOUTS.items():
        laid = {key: lay(array.copy()) for key, array in arrays.items()}
        agree(trial, f"with arrays {name}", laid, lay(trial.g), trial.y, trial.gradients)
    floating = {key: array for key, array in trial.subject.inputs.items() if not key.startswith("running_")}
    for key, array in (floating | {"the cotangent": trial.g}).items():
        for axis, repeated in with_stride_0(array):
            text = f"with {key} repeated along axis {axis} by a stride of 0"
            if key == "the cotangent":
                agree(trial, text, copied(arrays), repeated, *trial.at({}, repeated.copy()))
            else:
                laid = {**copied(arrays), key: repeated}
                agree(trial, text, laid, trial.g, *trial.at({key: repeated.copy()}))


def agree(trial: Trial, text: str, arrays: Arrays, g: Array, y: Host, gradients: dict[str, Host]) -> None:
    """Try that a call with these very arrays gives this output and these gradients."""
    names = "it", "with contiguous ones"
    try:
        found, pullback = trial.subject.call(arrays)
        trial.equal(f"{text}, the output is another", to_host(found), y, names)
        for key, gradient in trial.fitting(pullback(g)).items():
            text_for_key = f"{text}, the gradient for {key} is another"
            trial.equal(text_for_key, gradient, gradients[key], names, size=trial.size)
    except (TypeError, ValueError) as error:
        trial.fail(f"{text}, there is an error. {type(error).__name__}: {error}")


def check_backend_agreement(
    f: Callable[..., Any], *args: Any, device: str = "cuda", seed: int = 0, **options: Any
) -> Report:
    """NumPy and CuPy give the same output and gradients, and on the GPU these are arrays of the GPU.

    device: where to compare with the CPU. Raises ModuleNotFoundError or RuntimeError without CuPy or a GPU.
    """
    trial = Trial(check_backend_agreement, moved(f, "cpu"), moved(args, "cpu"), moved(options, "cpu"), seed)
    there = Subject.of(moved(f, device), *moved(args, device), **moved(options, device))
    y, pullback = there.run({})
    found = pullback(to_device(trial.g, device))
    results = {"the output": y} | {f"the gradient for {key}": a for key, a in found.items() if key in there.inputs}
    expected = {"the output": trial.y} | {f"the gradient for {key}": a for key, a in trial.gradients.items()}
    for name, result in results.items():
        if (result is None) != (name not in expected):
            trial.fail(f"{name} is given on one device only")
        elif result is not None and device_of(result) != device:
            trial.fail(f"{name} is on {device_of(result)}, expected {device}")
        elif result is not None:
            trial.equal(
                f"{name} is another on {device}",
                to_host(result),
                expected[name],
                (f"on {device} it", "on cpu it"),
                size=trial.size,
            )
    return trial.report()


def moved(value: Any, device: str) -> Any:
    """Arrays, Tensors and Modules on the device, also within tuples and dictionaries; all else as it is."""
    if isinstance(value, Module):
        return copy.deepcopy(value).to(device)
    if isinstance(value, Tensor):
        return Tensor(to_device(value.data, device))
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    return to_device(value, device) if is_array(value) else value


def channels_last(array: Array) -> Array:
    """The same values, their second axis last in memory."""
    if array.ndim < 3:
        return array
    return xp(array).moveaxis(xp(array).ascontiguousarray(xp(array).moveaxis(array, 1, -1)), -1, 1)


def backwards(array: Array) -> Array:
    """The same values, in memory from last to first."""
    if array.ndim == 0:
        return array
    return xp(array).flip(xp(array).ascontiguousarray(xp(array).flip(array)))


def spaced(array: Array) -> Array:
    """The same values, as every other element along each axis of an array twice as large."""
    if array.ndim == 0:
        return array
    larger = xp(array).zeros([2 * size for size in array.shape], dtype=array.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "in Fortran order": lambda array: array.copy("F"),
    "channels-last in memory": channels_last,
    "with negative strides": backwards,
    "that are every other element of larger ones": spaced,
}


def with_stride_0(array: Array) -> Iterator[tuple[int, Array]]:
    """The first index of the first axis, or of the last, in the place of all: (axis, array)."""
    for axis in sorted({0, array.ndim - 1}) if array.ndim else ():
        if array.shape[axis] > 1:
            yield axis, xp(array).broadcast_to(array.take([0], axis=axis), array.shape)


def copied(arrays: Arrays) -> Arrays:
    """Copies that lie in memory as the arrays do: a matrix product of another layout may round otherwise."""
    return {key: array.copy("K") for key, array in arrays.items()}
