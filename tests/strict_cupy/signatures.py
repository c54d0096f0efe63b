"""What the real CuPy offers, from the committed snapshot, and calls checked against it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

SNAPSHOT: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "strict_cupy_signatures.json").read_text(encoding="utf-8")
)

# Parameters without a default that take cupy.ndarrays and nothing else, no list and no Python number ...
ARRAYS = {
    *(
        "a",
        "a1",
        "a2",
        "ar",
        "ar1",
        "arr",
        "array",
        "ary",
        "b",
        "condition",
        "dst",
        "m",
        "prototype",
        "x",
        "x1",
    ),
    *("args", "arys"),
}
# ... except in these functions.
TAKE_SCALARS = {
    *("allclose", "apply_along_axis", "array_equiv", "isclose", "iscomplexobj", "isrealobj", "ix_"),
    *("may_share_memory", "nan_to_num", "ndim", "shape", "shares_memory"),
}


class Signature:
    """The parameters of one CuPy function: turns its calls into calls that suit its NumPy namesake.

    NumPy has other names for some parameters (`tup`, `newshape`) and another order for others (`argmax`), so
    parameters without a default are passed by position, the rest by name.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.signature = inspect.signature(eval(f"lambda {text}: None"))
        self.keeps_order = "order" in self.signature.parameters
        # Whether a call fits depends on the number of its arguments and their names only.
        self.plan = functools.cache(self._plan)

    def _plan(self, count: int, names: tuple[str, ...]) -> tuple[list[Any], list[tuple[str, Any]], list[int]]:
        """Which arguments go by position, which by name, which are arrays; for calls of the same form."""
        try:
            bound = self.signature.bind(*range(count), **{name: name for name in names})
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None
        positional: list[Any] = []
        named: list[tuple[str, Any]] = []
        arrays: list[int] = []
        for name, source in bound.arguments.items():
            parameter = self.signature.parameters[name]
            sources = source if parameter.kind is parameter.VAR_POSITIONAL else (source,)
            if parameter.kind is parameter.VAR_KEYWORD:
                named += source.items()
            elif parameter.kind is parameter.KEYWORD_ONLY or parameter.default is not parameter.empty:
                named.append((name, source))
            else:
                if name in ARRAYS and self.name not in TAKE_SCALARS:
                    arrays += range(len(positional), len(positional) + len(sources))
                positional += sources
        return positional, named, arrays

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any], list[Any]]:
        """(arguments by position, arguments by name, those of them that must be arrays)."""
        positional, named, arrays = self.plan(len(args), tuple(kwargs))

        def value(source: int | str) -> Any:
            return args[source] if isinstance(source, int) else kwargs[source]

        by_position = [value(source) for source in positional]
        return by_position, {name: value(source) for name, source in named}, [by_position[i] for i in arrays]


@functools.cache
def signatures(section: str) -> dict[str, Signature]:
    """The signatures in one section of the snapshot ("functions", "methods", ...)."""
    return {name: Signature(name, text) for name, text in SNAPSHOT[section].items() if text is not None}


def same_parameters(function: Callable[..., Any], text: str) -> bool:
    """Whether a function written by hand has the parameters that the snapshot says."""
    expected = inspect.signature(eval(f"lambda {text}: None"))
    mine = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in mine.parameters.values()]
    return plain == list(expected.parameters.values())
