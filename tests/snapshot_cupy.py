"""Record what the installed CuPy offers, for the strict fake in ``strict_cupy``.

Run where CuPy is installed (no GPU is needed)::

    python tests/snapshot_cupy.py

It writes ``strict_cupy_signatures.json``: the public names of CuPy, and the parameters of its functions,
ufuncs and array methods. ``null`` stands for parameters that could not be found out.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

SNAPSHOT = Path(__file__).with_name("strict_cupy_signatures.json")


def public(namespace: Any) -> list[str]:
    """The names in a module or class that are for its users."""
    return sorted(name for name in dir(namespace) if not name.startswith("_"))


def parameters(function: Callable[..., Any]) -> str | None:
    """The parameters of `function` as source text, "a, axis=None, out=None", without annotations."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return parameters_from_docstring(inspect.getdoc(function) or "")
    plain = [
        parameter.replace(annotation=parameter.empty, default=literal(parameter.default))
        for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=plain, return_annotation=signature.empty))[1:-1]
    return text.replace("Ellipsis", "...")


def literal(default: Any) -> Any:
    """`default` if it can be written as Python source, else an ellipsis: "there is one"."""
    if default is inspect.Parameter.empty:
        return default
    try:
        ast.literal_eval(repr(default))
    except (ValueError, SyntaxError):
        return ...
    return default


def parameters_from_docstring(doc: str) -> str | None:
    """The parameters that open the docstring of a Cython function: "ndarray.sort(self, int axis=-1)"."""
    match = re.match(r"[\w.]+\((.*)\)( ->.*)?$", doc.partition("\n")[0])
    if match is None:
        return None
    without_types = [item.strip().partition("=") for item in match[1].split(",")]
    text = ", ".join(name.split(" ")[-1] + equals + default for name, equals, default in without_types)
    try:
        compile(f"lambda {text}: None", "", "eval")
    except SyntaxError:
        return None
    return text


def special_methods(type_: type) -> list[str]:
    """The special methods (``__add__``) of a class beyond those of every object, and those that Python itself adds from
    3.12 on."""
    names = set(dir(type_)) - set(dir(object)) - {"__buffer__", "__release_buffer__"}
    return sorted(name for name in names if re.fullmatch(r"__(?!pyx)\w+__", name))


def functions(module: ModuleType | type) -> dict[str, str | None]:
    """Name to parameters for all functions in `module`, those of C and generalised ufuncs among them."""
    members = {name: getattr(module, name) for name in public(module)}
    return {
        name: parameters(value)
        for name, value in members.items()
        if inspect.isroutine(value) or type(value).__name__ == "_GUFunc"
    }


def snapshot() -> dict[str, Any]:
    """Everything that the fake knows of CuPy, ready for JSON."""
    import cupy
    import cupy.lib.stride_tricks

    ufuncs = {name: value for name in public(cupy) if isinstance(value := getattr(cupy, name), cupy.ufunc)}
    return {
        "version": cupy.__version__,
        "names": public(cupy),
        "functions": functions(cupy),
        "linalg": functions(cupy.linalg),
        "stride_tricks": functions(cupy.lib.stride_tricks),
        # at: the kind of scatter behind `ufunc.at`; CuPy has it for few ufuncs
        "ufuncs": {name: {"nin": u.nin, "nout": u.nout, "at": u._scatter_op} for name, u in ufuncs.items()},
        "methods": functions(cupy.ndarray),
        "attributes": public(cupy.ndarray) + special_methods(cupy.ndarray),
    }


def main() -> None:
    SNAPSHOT.write_text(json.dumps(snapshot(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
