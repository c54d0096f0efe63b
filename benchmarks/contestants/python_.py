"""A statement in a fresh interpreter, from its start to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

VERSION = "start-up"


def fresh(statement: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", statement], check=True)
