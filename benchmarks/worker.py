"""One contestant in a process of its own, so that it has its own threads, its own memory and its own Python.

    python -m benchmarks.worker torch_ '{"kind": "training", "depth": 20, "batch": 128, "side": 32, ...}'

It imports that module of `benchmarks.contestants` and no other, calls the function that the task's kind names for a
step to take, and answers questions, a line of JSON for each line it reads: "go 3" takes the step three times and
answers their mean time in seconds, "memory" two peaks in bytes, after the imports and by now, "who" its versions. On a
GPU, the time ends when the GPU has done its work, and the memory is the GPU's.
(Old peers need an old Python: this file, and theirs, run on Python 3.8.)
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def peak_memory() -> int:
    """Most resident memory so far, bytes, of this process or of one that it started and that ended.

    (For the process itself, `getrusage` would count the memory of whoever started it, too.)
    """
    with open("/proc/self/status") as status:
        own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return 1024 * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def who(version: str) -> str:
    """`version`, and what it runs on: Python, NumPy, and NumPy's BLAS with the processor it takes this one for."""
    parts = ["Python " + platform.python_version()]
    if "numpy" in sys.modules:
        parts.append("NumPy " + sys.modules["numpy"].__version__)
        try:
            from threadpoolctl import threadpool_info
        except ImportError:
            pass
        else:
            libraries = [library for library in threadpool_info() if library["internal_api"] == "openblas"]
            parts += ["OpenBLAS {version} for {architecture}".format(**library) for library in libraries]
    return "{} on {}".format(version, ", ".join(parts))


def main(contestant: str, task: str) -> None:
    options = json.loads(task)
    module = importlib.import_module("benchmarks.contestants." + contestant)
    gpu = os.environ.get("BENCHMARK_DEVICE") == "cuda"
    imported = 0 if gpu else peak_memory()
    step = getattr(module, options.pop("kind"))(**options)

    def go(times: str = "1") -> float:
        start = time.perf_counter()
        for _ in range(int(times)):
            step()
        if gpu:
            module.synchronize()
        return (time.perf_counter() - start) / int(times)

    answers: dict[str, Callable[..., Any]] = {
        "go": go,
        "memory": lambda: (imported, module.gpu_memory() if gpu else peak_memory()),
        "who": lambda: who(module.VERSION),
    }
    for line in sys.stdin:
        question, *arguments = line.split()
        print(json.dumps(answers[question](*arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
