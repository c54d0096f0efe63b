"""Checks of backward passes, for tinyres's own operations and for yours."""

from tinyres.testing.report import Report
from tinyres.testing.vjp import check_vjp

__all__ = ["Report", "check_vjp"]
