"""Code that shows a failure again, to paste into a file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyres.autograd import Tensor
from tinyres.backend import is_array, to_host

MOST_NUMBERS = 64  # that are written out


def snippet(
    check: Callable[..., Any], f: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], **settings: Any
) -> str:
    """A call of `check` with these very values, but for settings that are the check's own defaults.

    What cannot be written, as an array too large to print, is an ellipsis and a comment.
    """
    module, name = getattr(f, "__module__", ""), getattr(f, "__qualname__", "")
    known = module and name and "<" not in name
    defaults = {key: parameter.default for key, parameter in inspect.signature(check).parameters.items()}
    written = options | {key: value for key, value in settings.items() if value is not defaults[key]}
    arguments = [*map(literal, args), *(f"{key}={literal(value)}" for key, value in written.items())]
    call = f"assert testing.{check.__name__}({name if known else 'f'}, {', '.join(arguments)})"
    lines = ["import numpy as np"]
    lines += ["from numpy import inf, nan"] if re.search(r"\b(inf|nan)\b", call) else []
    lines += ["from tinyres import testing"]
    lines += [f"from {module} import {name.partition('.')[0]}" if known else f"f = {ellipsis(f)}".rstrip()]
    return "\n".join([*lines, call])


def literal(value: Any) -> str:
    """The value as an expression."""
    value = value.data if isinstance(value, Tensor) else value
    if callable(value) or isinstance(value, dict):
        return ellipsis(value)
    if not is_array(value):
        return repr(value)
    host = to_host(value)
    if host.size > MOST_NUMBERS:
        return ellipsis(f"{host.dtype} of shape {host.shape}")
    with np.printoptions(floatmode="unique", linewidth=10**6):
        return f"np.array({np.array2string(host, separator=', ', threshold=MOST_NUMBERS + 1)}, '{host.dtype}')"


def ellipsis(value: Any) -> str:
    """What stands for a value that cannot be written, and ends the line."""
    return f"...  # {' '.join(str(value).split())}\n"
