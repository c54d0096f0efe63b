"""Checks of backward passes, for tinyres's own operations and for yours.

The checks need NumPy alone. `strategies` needs Hypothesis and is imported when it is first asked for, as is
`mutants`, the broken operations that the checks are tested on.
"""

import importlib
from typing import Any

from tinyres.testing.audit import Audit, audit
from tinyres.testing.batchnorm import check_batch_norm
from tinyres.testing.properties import check_adjoint, check_conservation, check_equivariant, check_linear
from tinyres.testing.purity import check_backend_agreement, check_pure
from tinyres.testing.report import Report
from tinyres.testing.residual import check_residual
from tinyres.testing.vjp import check_vjp

__all__ = [
    "Audit",
    "Report",
    "audit",
    "check_adjoint",
    "check_backend_agreement",
    "check_batch_norm",
    "check_conservation",
    "check_equivariant",
    "check_linear",
    "check_pure",
    "check_residual",
    "check_vjp",
]


def __getattr__(name: str) -> Any:
    if name in ("mutants", "strategies"):
        return importlib.import_module(f"tinyres.testing.{name}")
    if name == "kill_matrix":
        return importlib.import_module("tinyres.testing.mutants").kill_matrix
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
