"""Fixtures for all tests."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, whatever pytest's import mode


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A strict fake of CuPy, which ``import cupy`` finds during the test."""
    import strict_cupy

    return strict_cupy.install(monkeypatch)
