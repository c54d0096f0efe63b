"""Fixtures for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tinyres.testing import strategies

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, whatever pytest's import mode
strategies.load_profile()


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A strict fake of CuPy, which ``import cupy`` finds during the test."""
    import strict_cupy

    return strict_cupy.install(monkeypatch)


@pytest.fixture(scope="module", params=["cpu", "cuda"], ids=["numpy", "cupy"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each device in turn, "cuda" being the strict fake of CuPy: for Hypothesis's tests, whose examples share it."""
    import strict_cupy

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cuda":
            strict_cupy.install(patch)
        yield request.param
