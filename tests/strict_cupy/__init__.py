"""A strict fake of CuPy for tests without a GPU: NumPy arrays behind CuPy's names, parameters and refusals.

It knows the names and parameters of the real CuPy from a snapshot (``strict_cupy_signatures.json``, made by
``snapshot_cupy.py``). Where host and device arrays mix it raises CuPy's errors. Where CuPy's result is
undefined (duplicate indices in an assignment) or silently wrong (indices out of range) it raises its own.
`synchronisations` counts how often the host had to wait for the device. The fixture `cupy` installs it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from . import cuda as cuda
from .array import synchronisations as synchronisations
from .functions import functions, namespace
from .signatures import SNAPSHOT

__version__ = SNAPSHOT["version"]


def _module(name: str, members: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


stride_tricks = _module("cupy.lib.stride_tricks", functions("stride_tricks", np.lib.stride_tricks))
lib = _module("cupy.lib", {"stride_tricks": stride_tricks})
linalg = _module("cupy.linalg", functions("linalg", np.linalg) | {"LinAlgError": np.linalg.LinAlgError})


def install(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make ``import cupy`` find this module for the time of a test."""
    module = sys.modules[__name__]
    submodules = {"cuda": cuda, "lib": lib, "lib.stride_tricks": stride_tricks, "linalg": linalg}
    monkeypatch.setitem(sys.modules, "cupy", module)
    for name, submodule in submodules.items():
        monkeypatch.setitem(sys.modules, f"cupy.{name}", submodule)
    return module


def __getattr__(name: str) -> Any:
    if name in SNAPSHOT["names"]:
        raise AttributeError(f"cupy.{name} is in CuPy {__version__}, but the strict fake does not model it")
    raise AttributeError(f"module 'cupy' has no attribute {name!r}")


globals().update(namespace())  # last, for it shadows builtins: sum, max, all, ...
