"""``cupy.cuda`` of the strict fake: one device that is always done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .array import synchronise


class CUDARuntimeError(RuntimeError):
    """What CuPy raises when the driver complains."""


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    getDevice=lambda: 0,
    deviceSynchronize=synchronise,
)


def is_available() -> bool:
    return True


class Device:
    """The device."""

    def __init__(self, device: int = 0) -> None:
        if device != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = device

    def synchronize(self) -> None:
        synchronise()

    def use(self) -> None: ...

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: Any) -> None: ...


class Stream:
    """A stream of work. All work is done at once, so there is nothing in it."""

    null: Stream

    def synchronize(self) -> None:
        synchronise()


Stream.null = Stream()


def get_current_stream() -> Stream:
    return Stream.null
