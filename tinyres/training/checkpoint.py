"""Checkpoints: all that a training run needs to go on as if it had never stopped, in one file.

The file is a safetensors file: arrays by name ("model.layer1.0.conv1.weight", "optimizer.3.momentum_buffer"), and
in its metadata, under "tinyres", the rest as JSON. One file, written under another name and then renamed, so there
is a whole one at any moment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tinyres.backend import Array, get_rng_state, set_rng_state, to_host
from tinyres.data import DataLoader
from tinyres.files import atomic_write
from tinyres.nn import Module
from tinyres.optim import Optimizer
from tinyres.optim.lr_scheduler import LRScheduler
from tinyres.training.history import Epoch, History, Step

HostArrays = dict[str, np.ndarray[Any, Any]]


def save_checkpoint(
    path: str | os.PathLike[str],
    model: Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None = None,
    loader: DataLoader | None = None,
    history: History | None = None,
) -> None:
    """Write weights, buffers, the optimiser's, schedule's, generator's and loader's state, and the history to `path`.

    Raises:
        FloatingPointError: if a weight or buffer is not finite; what `path` held before stays.
    """
    from safetensors.numpy import save

    history = history or History()
    arrays = {f"model.{name}": in_c_order(array) for name, array in model.state_dict().items()}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError(
                f"save_checkpoint: {name.removeprefix('model.')} holds NaN or Inf after step {len(history.steps)}, "
                f"so {path} was not written"
            )
    saved = optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for position, entry in saved["state"].items():
        for name, value in entry.items():
            if hasattr(value, "shape"):
                arrays[f"optimizer.{position}.{name}"] = in_c_order(value)
            else:
                numbers.setdefault(str(position), {})[name] = value
    arrays["history.steps"] = np.array(history.steps, np.float64).reshape(-1, len(Step._fields))
    rest = {
        "optimizer": {
            "kind": type(optimizer).__name__,
            "parameters": parameter_names(model, optimizer),
            "param_groups": saved["param_groups"],
            "numbers": numbers,
        },
        "scheduler": scheduler and {"kind": type(scheduler).__name__, "state": scheduler.state_dict()},
        "generator": get_rng_state(),
        "loader": loader and {"batches": batches_of(loader), "seed": loader.seed, "epoch": loader.epoch},
        "classes": loader and list(loader.dataset.classes),
        "history": {
            "epochs": [row._asdict() for row in history.epochs],
            "seconds": history.seconds,
        },
        "configuration": history.configuration,
    }
    with atomic_write(path, "wb") as file:
        file.write(save(arrays, metadata={"tinyres": json.dumps(rest, default=plain)}))


def load_checkpoint(
    path: str | os.PathLike[str],
    model: Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    loader: DataLoader | None = None,
) -> History:
    """Put everything back to what it was when `path` was written; returns the history until then.

    With a model alone, only its weights and buffers are read. With an optimiser the run is to go on: generator,
    optimiser and schedule are put back, and so are the loader's seed and epoch, if it is given.

    Raises:
        FileNotFoundError: if `path` is not there.
        ValueError: if it is no whole checkpoint, or one of another network, optimiser, schedule or loader;
            nothing is changed then.
    """
    arrays, rest = read_checkpoint(path)
    weights = under("model.", arrays)
    refuse_difference(path, "network", signature(weights), signature(model.state_dict()))
    history = History(
        epochs=[Epoch(**row) for row in rest["history"]["epochs"]],
        steps=[
            Step(int(step), int(epoch), loss, accuracy, lr, int(images))
            for step, epoch, loss, accuracy, lr, images in arrays["history.steps"].tolist()
        ],
        configuration=rest["configuration"],
        seconds=rest["history"]["seconds"],
    )
    if optimizer is None:
        model.load_state_dict(weights)
        return history

    saved = rest["optimizer"]
    refuse_difference(path, "optimiser", saved["kind"], type(optimizer).__name__)
    for group in saved["param_groups"]:  # JSON knows no tuples
        group.update({name: tuple(value) for name, value in group.items() if isinstance(value, list)})
    mine, theirs = parameter_names(model, optimizer), saved["parameters"]
    if mine != theirs:
        raise ValueError(f"{path} is of another optimiser: its parameter groups hold {theirs}, this one's {mine}")
    schedule = rest["scheduler"]
    refuse_difference(path, "schedule", schedule and schedule["kind"], scheduler and type(scheduler).__name__)
    if loader is not None and rest["loader"] is not None:
        refuse_difference(path, "loader", rest["loader"]["batches"], batches_of(loader))
        loader.seed = rest["loader"]["seed"]
        loader.set_epoch(rest["loader"]["epoch"])

    model.load_state_dict(weights)
    state: dict[int, dict[str, Any]] = {int(position): entry for position, entry in saved["numbers"].items()}
    for key, array in under("optimizer.", arrays).items():
        position, _, name = key.partition(".")
        state.setdefault(int(position), {})[name] = array
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    if scheduler is not None:
        scheduler.load_state_dict(schedule["state"])
    set_rng_state(rest["generator"])
    return history


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[HostArrays, dict[str, Any]]:
    """What a checkpoint holds, as it is: the arrays by name, and the rest, for instance `["configuration"]` and
    `["classes"]`, the names of the loader's classes. Raises as `load_checkpoint` does."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is no checkpoint, or one that was cut short or damaged ({error})") from error
    if "tinyres" not in metadata:
        raise ValueError(f"{path} is a safetensors file but not a tinyres checkpoint: it holds no training state")
    return arrays, json.loads(metadata["tinyres"])


def in_c_order(array: Array) -> np.ndarray[Any, Any]:
    """On the host, in the order safetensors takes every array to be: weights are channels-last in memory."""
    return np.asarray(to_host(array), order="C")


def under(prefix: str, arrays: HostArrays) -> HostArrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def plain(value: Any) -> Any:
    """What JSON does not know: NumPy's numbers as Python's, anything else (a path) as its text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def parameter_names(model: Module, optimizer: Optimizer) -> list[list[str]]:
    """Which parameters each group of the optimiser trains: its state is by their position alone."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names.get(id(parameter), "?") for parameter in group["params"]] for group in optimizer.param_groups]


def signature(arrays: dict[str, Array]) -> dict[str, str]:
    return {name: f"{array.dtype} {tuple(array.shape)}" for name, array in arrays.items()}


def batches_of(loader: DataLoader) -> dict[str, Any]:
    """What the batches of an epoch follow from, besides its seed: without these the position means nothing."""
    settings = {name: getattr(loader, name) for name in ("batch_size", "shuffle", "drop_last")}
    return {"images": len(loader.dataset), **settings}


def refuse_difference(path: str | os.PathLike[str], part: str, theirs: Any, mine: Any) -> None:
    """Raise ValueError, naming the first difference, unless the checkpoint's part is like the one given."""
    if theirs == mine:
        return
    if isinstance(theirs, dict) and isinstance(mine, dict):
        differing = [name for name in {**mine, **theirs} if theirs.get(name) != mine.get(name)]
        name = differing[0]
        more = f" ({len(differing) - 1} more differ)" if len(differing) > 1 else ""
        theirs, mine = f"{name} {theirs.get(name, 'absent')}", f"{name} {mine.get(name, 'absent')}{more}"
    raise ValueError(f"{path} is of another {part}: it has {theirs}, this one {mine}")
