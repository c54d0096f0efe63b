"""Code that shows a failure again, to paste into a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import is_array, to_host

MOST_NUMBERS = 64  # that are written out


def snippet(check: str, f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], **settings: Any) -> str:
    """A call of `check` with these very values; arrays too large to print are stood for by their shape and dtype."""
    module, name = getattr(f, "__module__", ""), getattr(f, "__qualname__", "")
    known = module and name and "<" not in name
    written = {**options, **{key: value for key, value in settings.items() if value is not None}}
    arguments = [*map(literal, args), *(f"{key}={literal(value)}" for key, value in written.items())]
    return "\n".join(
        [
            "import numpy as np",
            "from tinyres import testing",
            f"from {module} import {name.partition('.')[0]}" if known else f"f = ...  # {f!r}",
            f"assert testing.{check}({name if known else 'f'}, {', '.join(arguments)})",
        ]
    )


def literal(value: Any) -> str:
    """The value as an expression."""
    value = value.data if isinstance(value, Tensor) else value
    if not is_array(value):
        return repr(value)
    host = to_host(value)
    if host.size > MOST_NUMBERS:
        return f"...  # {host.dtype} of shape {host.shape}\n"
    with np.printoptions(floatmode="unique", linewidth=10**6):
        return f"np.array({np.array2string(host, separator=', ', threshold=MOST_NUMBERS + 1)}, '{host.dtype}')"
