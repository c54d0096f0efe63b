"""Every check that applies, in one table."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyres.backend import Array, to_host
from tinyres.nn import Add, Module
from tinyres.testing.batchnorm import check_batch_norm
from tinyres.testing.properties import (
    Move,
    attempt,
    check_adjoint,
    check_conservation,
    check_equivariant,
    check_linear,
    close,
)
from tinyres.testing.purity import check_pure
from tinyres.testing.report import Report
from tinyres.testing.residual import check_residual
from tinyres.testing.subject import name_of
from tinyres.testing.trial import Host, Trial
from tinyres.testing.vjp import check_vjp


@dataclass(frozen=True)
class Audit:
    """The reports of all checks of one subject: `str` is a table, and below it all that failed, in full.

    ``assert audit(f, x)`` passes, or raises an AssertionError with the whole text; `passed` asks quietly.
    """

    subject: str
    reports: tuple[Report, ...]

    @property
    def passed(self) -> bool:
        return all(report.passed for report in self.reports if report.applies)

    def __bool__(self) -> bool:
        if not self.passed:
            raise AssertionError(str(self))
        return True

    def __str__(self) -> str:
        rows = [("check", "outcome", "worst error", "")]
        for report in self.reports:
            outcome = ("passed" if report.passed else "FAILED") if report.applies else "–"
            error = f"{report.error:.1e}" if report.applies else ""
            text = "; ".join(filter(None, (report.message, *report.notes)))
            rows.append((report.check, outcome, error, text if len(text) <= 80 else text[:79] + "…"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [" ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        failed = [str(report) for report in self.reports if report.applies and not report.passed]
        return "\n\n".join(["\n".join([f"audit of {self.subject}", *map(str.rstrip, lines)]), *failed])


def audit(f: Callable[..., Any], *args: Any, seed: int = 0, **options: Any) -> Audit:
    """Run every check that applies to `f` at `args`: a kernel, a function of Tensors, or a Module.

    Which identities apply is found by trying the forward pass: in which inputs it is affine, along which axes it is
    equivariant, what it conserves. A batch norm is known by its parameters, a residual block by its `nn.Add`. An error
    within a check is a failure of that check. CuPy is left to `check_backend_agreement`.
    """
    trial = Trial(audit, f, args, options, seed)  # raises where it cannot even be called
    checks: list[Callable[..., Report]] = [check_vjp, check_linear, check_adjoint, check_conservation]
    checks += [partial(check_equivariant, **found) for found in equivariances(trial)]
    checks += [check_pure]
    checks += [check_batch_norm] if is_batch_norm(f, args, options) else []
    residual = isinstance(f, Module) and len(args) == 1 and any(isinstance(module, Add) for module in f.modules())
    checks += [check_residual] if residual else []
    reports = []
    for check in checks:
        try:
            reports.append(check(f, *args, seed=seed, **options))
        except Exception as error:
            message = f"it raised {type(error).__name__}: {error}"
            reports.append(Report(name_of(check), trial.subject.name, False, math.inf, message))
    return Audit(trial.subject.name, tuple(reports))


def equivariances(trial: Trial) -> Iterator[dict[str, Any]]:
    """For each axis of the first array, a permutation or else a circular shift that the output follows, or ignores.

    Moved along are arrays of the same shape, and vectors of the axis' length (labels, γ and β); or else all arrays with
    as many axes and that length (a convolution's weight along with its input channels).
    """
    arrays = trial.subject.arrays
    first = next(iter(arrays.values()), np.zeros(()))
    for axis, size in enumerate(first.shape):
        if size < 2:
            continue
        order = trial.rng.permutation(size)
        order = order[::-1] if (order == np.arange(size)).all() else order
        alike = {key: axis for key, array in arrays.items() if array.shape == first.shape}
        vectors = {key: 0 for key, array in arrays.items() if array.shape == (size,)}
        long = {key: axis for key, array in arrays.items() if array.ndim == first.ndim and array.shape[axis] == size}
        values = {key: generic(to_host(array), trial.rng) for key, array in arrays.items()}
        here = attempt(trial, values)
        moves = partial(np.take, indices=order), partial(np.roll, shift=1)
        for move, axes, still in itertools.product(moves, (alike | vectors, long), (False, True)):
            if not still and trial.y.shape[axis : axis + 1] != (size,):
                continue
            along: dict[str, Move] = {key: partial(move, axis=at) for key, at in axes.items()}
            echo: Move = unmoved if still else partial(move, axis=axis)
            there = attempt(trial, values | {key: moved(values[key]) for key, moved in along.items()})
            if here is not None and there is not None and close(there, echo(here)):
                yield dict(move=along, move_output=echo)
                break


def generic(values: Host, rng: np.random.Generator) -> Host:
    """Like these values, of the same signs, but no two the same: permuting γ = 1 and β = 0 would show nothing."""
    if values.dtype.kind != "f":
        return values
    return np.where(values == 0, 0.1 * rng.uniform(size=values.shape), values * rng.uniform(0.5, 1.5, values.shape))


def unmoved(y: Array) -> Array:
    return y


def is_batch_norm(f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether it has a batch norm's parameters, no residual to add, and is in training mode."""
    if isinstance(f, Module):
        return all(hasattr(f, name) for name in ("running_mean", "running_var", "eps")) and f.training
    bound = inspect.signature(f).bind(*args, **options)
    bound.apply_defaults()
    given = bound.arguments
    return "running_mean" in given and "residual" not in given and bool(given.get("training"))


def find(target: str, shapes: list[tuple[int, ...]], seed: int = 0) -> tuple[Any, ...]:
    """What `tinyres audit` is asked for: (f, *args).

    target: "MODULE:NAME", a dotted module or the path of a .py file, and the name in it of a kernel, a function of
    Tensors, a Module or the class of one that takes no arguments; or, without `shapes`, of a function that returns
    (f, *args). shapes: of the arrays it takes, whose values are drawn.

    Raises:
        FileNotFoundError, ImportError, ValueError: if there is no such file, module or name, or it is nothing to audit.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ValueError(f"the target is {target!r}, expected MODULE:NAME, for instance tinyres.kernels:relu")
    found: Any = module_at(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"there is no {name} in {place}")
        found = getattr(found, part)
    found = found() if isinstance(found, type) else found
    if not callable(found):
        raise ValueError(f"{target} is a {type(found).__name__}, expected something to call")
    if shapes:
        rng = np.random.default_rng(seed)
        return found, *(rng.standard_normal(shape) for shape in shapes)
    required = [p for p in inspect.signature(found).parameters.values() if p.default is p.empty]
    made = None if required or isinstance(found, Module) else found()
    if not isinstance(made, tuple) or not made or not callable(made[0]):
        raise ValueError(f"{target} takes arrays: give the --shape of each, or name a function that returns (f, *args)")
    return made


def read_shape(text: str) -> tuple[int, ...]:
    """ "2,3,8,8" → (2, 3, 8, 8); "" → ()."""
    try:
        shape = tuple(int(size) for size in text.split(",") if text)
    except ValueError:
        shape = (-1,)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape is {text!r}, expected sizes and commas, for instance 2,3,8,8")
    return shape


def module_at(place: str) -> ModuleType:
    """The module of a dotted name, also in the working folder, or of a .py file."""
    path = Path(place)
    if path.suffix != ".py":
        sys.path.insert(0, "")
        try:
            return importlib.import_module(place)
        finally:
            sys.path.remove("")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
