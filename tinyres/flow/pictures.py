"""The figures of `tinyres.flow.plots` as methods of what they draw."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Pictures:
    """Each function of `tinyres.flow.plots` with its first argument filled in: `record.plot.heatmap(role="update")`.
    Called itself, it draws `depth`."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def __call__(self, **options: Any) -> Axes:
        return self.depth(**options)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        from tinyres.flow import plots

        if name not in plots.__all__:
            raise AttributeError(f"plot.{name}: there is no such picture, expected one of {', '.join(plots.__all__)}")
        return functools.partial(getattr(plots, name), self._records)

    def __dir__(self) -> list[str]:
        from tinyres.flow import plots

        return list(plots.__all__)
