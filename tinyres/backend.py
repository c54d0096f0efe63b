"""The one place that knows NumPy and CuPy both exist.

Everything else asks an array for the module that made it, ``xp(x)``, and calls that: the array decides where
the work is done, and no kernel is written twice.
"""

from __future__ import annotations

import importlib
import math
import threading
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a numpy.ndarray or a cupy.ndarray

DEVICES = ("cpu", "cuda")


def xp(array: Array) -> Any:
    """The array module that made `array`: `numpy` for host arrays and scalars, else `cupy`."""
    if isinstance(array, np.ndarray | np.generic | int | float):
        return np
    return importlib.import_module(type(array).__module__.partition(".")[0])


def is_array(value: Any) -> bool:
    """Whether `value` is an array of either module, and not a number, a dtype or something else."""
    return isinstance(value, np.ndarray) or type(value).__module__.partition(".")[0] == "cupy"


def device_of(array: Array) -> str:
    """ "cpu" or "cuda": where the memory of `array` is."""
    return "cpu" if isinstance(array, np.ndarray | np.generic) else "cuda"


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """`array` as a NumPy array; copied from the GPU if it lives there (which waits for the GPU)."""
    return np.asarray(array if device_of(array) == "cpu" else array.get())


def memory_order(array: Array) -> list[int]:
    """The axes of `array` as they lie in memory, from the outermost to the innermost: of images, (0, 2, 3, 1)."""
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def untranspose(array: Array, axes: list[int]) -> Array:
    """What `axes` made `array` of: the inverse of ``.transpose(axes)``."""
    return array.transpose(sorted(range(array.ndim), key=axes.__getitem__))


def to_device(array: Array, device: str) -> Array:
    """`array` on `device` ("cpu" or "cuda"); itself if it is there already."""
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}, expected one of {', '.join(map(repr, DEVICES))}")
    if device_of(array) == device:
        return array
    # Images are channels-last in memory, and a copy between devices is in C order: let it see the axes in memory order.
    axes = memory_order(array)
    ordered = array.transpose(axes)
    moved = to_host(ordered) if device == "cpu" else cupy().asarray(ordered)
    return untranspose(moved, axes)


def cupy() -> Any:
    """The module `cupy`, once it is sure that it is installed and that a GPU answers."""
    try:
        module = importlib.import_module("cupy")
    except ImportError as error:
        raise ModuleNotFoundError(
            "device 'cuda' needs CuPy, which is not installed: pip install 'tinyres[cuda13]' (or 'tinyres[cuda12]')"
        ) from error
    try:
        count = module.cuda.runtime.getDeviceCount()
    except module.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device 'cuda' was asked for, but CuPy found no GPU: {error}") from error
    if count == 0:
        raise RuntimeError("device 'cuda' was asked for, but CuPy found no GPU")
    return module


def flat(array: Array) -> Array:
    """`array` as a vector in its memory order, so that a transposed view is not copied."""
    axes = memory_order(array)
    return array.transpose(axes).reshape(-1)


def share_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one module have a byte in common. (CuPy takes any two arrays of no dimension for one.)"""
    module = xp(a)
    return bool(module.shares_memory(module.atleast_1d(a), module.atleast_1d(b)))


def as_strided(array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """The memory of `array`, looked at in another shape and with other steps, in bytes: a view."""
    if device_of(array) == "cpu" and array.flags.c_contiguous:
        # A seventh of the time of NumPy's own, and it looks whether the view stays inside.
        return np.ndarray(shape, array.dtype, array, 0, strides)
    return xp(array).lib.stride_tricks.as_strided(array, shape, strides)


class _Workspaces(threading.local):
    def __init__(self) -> None:
        self.kept: dict[tuple[str, np.dtype[Any]], Array] = {}


_workspaces = _Workspaces()


def workspace(name: str, shape: tuple[int, ...], like: Array) -> Array:
    """Scratch memory, not filled, in the dtype and on the device of `like`.

    A thread that asks again by the same name gets the same memory, still in its cache and with no page faults to pay.
    On a GPU, CuPy's own pool does as much.
    """
    if device_of(like) == "cuda":
        return xp(like).empty(shape, dtype=like.dtype)
    size, key = math.prod(shape), (name, like.dtype)
    kept = _workspaces.kept.get(key)
    if kept is None or kept.size < size:
        kept = _workspaces.kept[key] = np.empty(size, like.dtype)
    return kept[:size].reshape(shape)


# Random numbers are drawn on the host, so that a CPU run and a GPU run draw the same.
_generator = np.random.default_rng()


def manual_seed(seed: int) -> None:
    """Restart the generator that initialisers and dropout draw from."""
    global _generator
    _generator = np.random.default_rng(seed)


def generator() -> np.random.Generator:
    """The generator that initialisers and dropout draw from."""
    return _generator


def get_rng_state() -> dict[str, Any]:
    """The generator's state: plain numbers and strings, so it can be written as JSON."""
    return dict(_generator.bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generator back to a state that `get_rng_state` returned."""
    _generator.bit_generator.state = state
