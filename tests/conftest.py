"""Fixtures for all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from tinyres.testing import strategies

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, whatever pytest's import mode
strategies.load_profile()


def pytest_configure(config: pytest.Config) -> None:
    """`pytest --hypothesis-seed N` draws by that seed, where the profile "ci" would draw what it always draws."""
    if config.getoption("hypothesis_seed") is not None:
        settings.register_profile(
            "seeded", settings.get_profile(settings.get_current_profile_name()), derandomize=False
        )
        settings.load_profile("seeded")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The experiments only where they are asked for. The slow ones first: with several workers, they then overlap with
    all others."""
    if "experiment" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("experiment")])
        items[:] = [item for item in items if not item.get_closest_marker("experiment")]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A strict fake of CuPy, which ``import cupy`` finds during the test."""
    import strict_cupy

    return strict_cupy.install(monkeypatch)


def gpus() -> int:
    """How many GPUs CuPy finds here."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount())
    except (ImportError, RuntimeError):
        return 0


@pytest.fixture(scope="module", params=["numpy", "fake of cupy", "cupy"][: 3 if gpus() else 2])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each device in turn, "cuda" on the strict fake of CuPy and, where there is a GPU, on CuPy: for Hypothesis's
    tests, whose examples share it."""
    import strict_cupy

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fake of cupy":
            strict_cupy.install(patch)
        yield "cpu" if request.param == "numpy" else "cuda"
