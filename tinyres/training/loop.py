"""Training: the loop that turns a network, batches and an optimiser into a trained network and its history.

What is measured stays on the device until it is read, since reading waits for a GPU. What a run needs to go on is
saved at each epoch's end (see `tinyres.training.checkpoint`), and a resumed run equals an unbroken one to the bit.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyres import functional as F
from tinyres.autograd import Tensor, no_grad
from tinyres.backend import Array, get_rng_state, set_rng_state, to_host, xp
from tinyres.data import DataLoader
from tinyres.data.loader import Batch
from tinyres.nn import Module
from tinyres.optim import Optimizer, clip_grad_norm_
from tinyres.optim.lr_scheduler import LRScheduler
from tinyres.threads import get_num_threads
from tinyres.training.checkpoint import load_checkpoint, save_checkpoint
from tinyres.training.history import History, Step

# Logits (N, C), labels (N,) → the batch's mean. A network with one output, (N, 1), tells two classes apart, and its
# loss is given labels like it, (N, 1): `F.binary_cross_entropy_with_logits`.
Loss = Callable[[Tensor, Tensor], Tensor]

CHECKPOINT = "checkpoint.safetensors"  # its name in a run's output folder
READ_EVERY = {"cpu": 1, "cuda": 20}  # steps between two readings of the losses: on a GPU each one waits


@dataclass(frozen=True)
class Evaluation:
    """How a network does on images it was shown in evaluation mode.

    Attributes:
        loss: mean over the images. accuracy: share of right predictions, 0 to 1.
        predictions: the class of the largest logit, of a single one whether it is above 0, int64 (N,).
        labels: the true one, int64 (N,).
    """

    loss: float
    accuracy: float
    predictions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def evaluate(model: Module, loader: Iterable[Batch], loss: Loss = F.cross_entropy) -> Evaluation:
    """Show the network all batches of `loader` in evaluation mode. Every module's mode is put back afterwards.

    Raises:
        ValueError: if `loader` has no batch.
    """
    losses: list[Array] = []
    predictions: list[Array] = []
    labels: list[npt.NDArray[np.int64]] = []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            for images, classes in loader:
                x, y = to_model(model, images, classes)
                logits = model(x)
                losses.append(loss(logits, targets(logits, y, classes)).data)
                predictions.append(predicted(logits))
                labels.append(classes)
    finally:
        for module, mode in modes:
            module.training = mode
    if not losses:
        raise ValueError("evaluate: loader has no batch, expected at least one")
    module = xp(losses[0])
    true, seen = np.concatenate(labels), to_host(module.concatenate(predictions)).astype(np.int64)
    means = to_host(module.stack(losses)).astype(np.float64)
    mean = float(np.average(means, weights=[len(classes) for classes in labels]))
    return Evaluation(mean, float((seen == true).mean()), seen, true)


def fit(
    model: Module,
    loader: DataLoader,
    optimizer: Optimizer,
    epochs: int = 10,
    *,
    scheduler: LRScheduler | None = None,
    schedule_per: str = "epoch",
    loss: Loss = F.cross_entropy,
    validation: Iterable[Batch] | None = None,
    max_grad_norm: float | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    configuration: dict[str, Any] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` until `epochs` epochs are done, and return what happened.

    The first Ctrl-C ends the step under way, saves and returns the history so far, its `interrupted` set; the
    second aborts at once.

    Args:
        scheduler, schedule_per: a schedule, stepped after each "epoch" or each "step".
        loss: of (logits, labels), the mean over a batch: `F.cross_entropy`, or for a network with one output
            `F.binary_cross_entropy_with_logits`, of (N, 1) both.
        validation: batches to evaluate on after each epoch.
        max_grad_norm: scale larger gradients down to this joint 2-norm.
        output: a folder for checkpoint.safetensors, history.csv and steps.csv, written at each epoch's end
            and, given `checkpoint_every`, each time so many steps are done.
        resume: go on from the checkpoint in `output`, if there is one. The arguments have to be those of the
            first call, but for `epochs`.
        configuration: kept in the checkpoint, for whoever reads it; anything that JSON holds.
        on_step: called after each update with its number, from 1, and the loss before it. On a GPU, do not read
            the loss each time.
        progress: a progress bar on a terminal, and one line an epoch.

    Raises:
        FloatingPointError: if the loss is NaN or Inf, naming the step and the layer in which it arose. On a CPU the
            weights are those from before that step; on a GPU the loss is read every 20 steps only.
        FileExistsError: if `output` holds a checkpoint and `resume` is not asked for.
        ValueError: if an argument, or the checkpoint, does not fit.
    """
    if schedule_per not in ("epoch", "step"):
        raise ValueError(f"fit: schedule_per is {schedule_per!r}, expected 'epoch' or 'step'")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"fit: checkpoint_every is {checkpoint_every}, expected at least 1 step")
    if output is None and (resume or checkpoint_every):
        raise ValueError("fit: resume and checkpoint_every need an output folder, but output is None")

    get_num_threads()  # decided before anything is computed: the last bits depend on it
    history = History()
    if output is not None:
        folder = Path(output)
        for name in (CHECKPOINT, "history.csv", "steps.csv"):
            for half in folder.glob(f".{name}.*.tmp"):  # left by a run that was killed while it wrote
                half.unlink()
        if (folder / CHECKPOINT).exists():
            if not resume:
                raise FileExistsError(f"fit: {output} holds a checkpoint: pass resume=True or choose another output")
            history = load_checkpoint(folder / CHECKPOINT, model, optimizer, scheduler, loader)
    history.configuration = configuration or history.configuration

    def save() -> None:
        if output is not None:
            save_checkpoint(folder / CHECKPOINT, model, optimizer, scheduler, loader, history)
            history.save(folder)

    def read() -> None:
        """Move what was measured since the last time into the history; refuse a loss that is not finite."""
        if not pending:
            return
        values = to_host(xp(pending[0][1]).stack([measured for _, measured in pending]))  # here, a GPU is waited for
        for (row, _), (value, accuracy) in zip(pending, values.tolist(), strict=True):
            if not math.isfinite(value):
                late = f" (found at step {step})" if step > row.step else ""
                where = first_nonfinite(model, x, generator)
                raise FloatingPointError(f"fit: the loss is {value} at step {row.step}{late}; {where}")
            history.steps.append(row._replace(loss=value, accuracy=accuracy))
        pending.clear()

    if not model.training:  # else modules that were set to evaluation on their own, a frozen batch norm, stay so
        model.train()
    pending: list[tuple[Step, Array]] = []
    read_every = READ_EVERY[home(model)[0]]
    with (
        deferred_interrupt() as interrupt,
        reporter(progress, history, epochs, loader, output) as report,
        np.errstate(over="ignore", invalid="ignore", divide="ignore"),  # `read` says it better
    ):
        while len(history.epochs) < epochs and not interrupt.is_set():
            epoch, step = len(history.epochs) + 1, len(history.steps)
            started = time.perf_counter() - history.seconds
            loader.set_epoch(epoch - 1)
            for images, labels in loader.batches(history.position):
                x, y = to_model(model, images, labels)
                generator = get_rng_state()
                optimizer.zero_grad()
                logits = model(x)
                value = loss(logits, targets(logits, y, labels))
                step += 1
                row = Step(step, epoch, math.nan, math.nan, optimizer.param_groups[0]["lr"], len(labels))
                pending.append((row, measure(value, logits, y)))
                if len(pending) == read_every:  # before the weights take harm, where reading costs nothing
                    read()
                value.backward()
                if max_grad_norm is not None:
                    clip_grad_norm_(model.parameters(), max_grad_norm)
                optimizer.step()
                if scheduler is not None and schedule_per == "step":
                    scheduler.step()
                if on_step is not None:
                    on_step(step, value)
                history.seconds = time.perf_counter() - started
                if not pending:
                    report()
                if interrupt.is_set():
                    break
                if checkpoint_every is not None and step % checkpoint_every == 0:
                    read()
                    save()
            read()
            score = None
            if validation is not None and not interrupt.is_set():
                score = evaluate(model, until(interrupt, validation), loss)
                history.seconds = time.perf_counter() - started
            if interrupt.is_set():
                break  # without the epoch's row: a resumed run goes on in the epoch, or validates
            history.end_epoch(*((score.loss, score.accuracy) if score else ()))
            if scheduler is not None and schedule_per == "epoch":
                scheduler.step()
            save()
            report()
        history.interrupted = interrupt.is_set()
        if history.interrupted:
            save()
            report()
    return history


def home(model: Module) -> tuple[str, Any]:
    """Device and dtype of the network's parameters, which its batches have to share."""
    first = next(model.parameters(), Tensor(0.0))
    return first.device, first.dtype


def to_model(model: Module, images: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """A batch where the model is, the images in its dtype."""
    device, dtype = home(model)
    return Tensor(images).to(device).to(dtype), Tensor(labels).to(device)


def measure(loss: Tensor, logits: Tensor, labels: Tensor) -> Array:
    """(loss, accuracy) of a batch in float64, (2,), on its device."""
    hits = predicted(logits) == labels.data  # (N,)
    return xp(hits).stack([loss.data.astype(np.float64), hits.mean(dtype=np.float64)])


def predicted(logits: Tensor) -> Array:
    """The class of the largest logit, (N,); of a single one whether it is above 0, its sigmoid above one half."""
    single = logits.ndim == 2 and logits.shape[1] == 1
    return logits.data[:, 0] > 0 if single else logits.data.argmax(axis=1)


def targets(logits: Tensor, labels: Tensor, on_host: npt.NDArray[np.int64]) -> Tensor:
    """The labels as the loss takes them: (N, 1) like a single logit, else (N,)."""
    if logits.ndim != 2 or logits.shape[1] != 1:
        return labels
    if len(on_host) and on_host.max() > 1:
        raise ValueError(
            f"the network has one output, which tells two classes apart, but there is a label {on_host.max()}: "
            f"expected 0 and 1, or a network with one output for each class"
        )
    return labels.reshape(-1, 1)


def first_nonfinite(model: Module, x: Tensor, generator: dict[str, Any]) -> str:
    """Which module is the first to give NaN or Inf, found by a second forward pass with the same random numbers,
    which leaves the model unchanged."""
    names = {id(module): name or "the network itself" for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not found and not finite(output):
            bad = [name for name, parameter in module.named_parameters() if not finite(parameter)]
            bad += [] if all(map(finite, inputs)) else ["input"]
            why = f"its {' and '.join(bad)} held some before" if bad else "its parameters and input are finite"
            found.append(
                f"the first output to hold NaN or Inf is that of {names[id(module)]} ({type(module).__name__}): {why}"
            )

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        with model.unchanged(), no_grad():
            set_rng_state(generator)
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "every module's output is finite, so it arose in the loss"


def finite(value: Any) -> bool:
    """Whether no number of a tensor is NaN or Inf; of anything else, nothing is known against it."""
    return not isinstance(value, Tensor) or value.dtype.kind != "f" or bool(xp(value.data).isfinite(value.data).all())


def until(stop: threading.Event, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, the first of them always, until `stop` is set."""
    for batch in batches:
        yield batch
        if stop.is_set():
            return


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second interrupts as it always does. Python lets the main thread
    alone handle signals: in another, nothing ever sets the event."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def remember(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def reporter(
    wanted: bool, history: History, epochs: int, loader: DataLoader, output: str | os.PathLike[str] | None
) -> Iterator[Callable[[], None]]:
    """A function that shows where `history` is: a bar on a terminal, and a line for each finished epoch anywhere."""
    if not wanted:
        yield lambda: None
        return
    from rich import get_console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = get_console()  # the one of everybody: what else is live on it stays apart from the bar
    columns = TextColumn("{task.description}"), BarColumn(12), TimeRemainingColumn()  # 80 characters together
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=epochs * len(loader), completed=len(history.steps))
    told = len(history.epochs)

    def report() -> None:
        nonlocal told
        for row in history.epochs[told:]:
            text = f"epoch {row.epoch}/{epochs}: loss {row.train_loss:.4f}, accuracy {row.train_accuracy:.1%}"
            if row.val_loss is not None:
                text += f"; validation loss {row.val_loss:.4f}, accuracy {row.val_accuracy:.1%}"
            console.print(f"{text} ({row.seconds:.1f} s)", soft_wrap=True, highlight=False)
        told = len(history.epochs)
        if history.interrupted:
            way_on = f"go on with fit(…, output={str(output)!r}, resume=True)" if output else "without output, unsaved"
            console.print(f"stopped after step {len(history.steps)}: {way_on}", soft_wrap=True, highlight=False)
        elif history.position and history.seconds:
            recent = history.steps[-20:]
            loss, accuracy = (float(np.mean(values)) for values in list(zip(*recent, strict=True))[2:4])
            rate = history.position * loader.batch_size / history.seconds
            text = f"epoch {told + 1}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.1%}  {rate:,.0f} images/s"
            bar.update(task, completed=len(history.steps), description=text)

    with bar:
        yield report
