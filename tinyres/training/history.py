"""What a training run leaves behind: one row a step, one row an epoch, and both as CSV."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres.files import write_csv


class Step(NamedTuple):
    """One update. Steps and epochs count from 1; `lr` is the rate it was made with, of the first parameter group."""

    step: int
    epoch: int
    loss: float
    accuracy: float
    lr: float
    images: int


class Epoch(NamedTuple):
    """One pass over the data: `step` is its last, `lr` that step's, `train_…` are means over its images as they
    were seen, while the weights were changing; `val_…` are None without validation."""

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float


@dataclass
class History:
    """A run so far. Where it stands follows from its rows: finished epochs, and steps since the last of them.

    Attributes:
        epochs, steps: the rows.
        configuration: what the caller wants to find again in the checkpoint; anything that JSON holds.
        seconds: spent so far in the epoch under way.
        interrupted: whether Ctrl-C ended the run early.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    configuration: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def position(self) -> int:
        """How many batches of the epoch under way are done."""
        return len(self.steps) - (self.epochs[-1].step if self.epochs else 0)

    def end_epoch(self, val_loss: float | None = None, val_accuracy: float | None = None) -> None:
        """Sum the steps since the last epoch up in a row."""
        rows = self.steps[len(self.steps) - self.position :]
        images = [row.images for row in rows]
        train_loss = float(np.average([row.loss for row in rows], weights=images))
        train_accuracy = float(np.average([row.accuracy for row in rows], weights=images))
        last = rows[-1]
        self.epochs.append(
            Epoch(last.epoch, last.step, last.lr, train_loss, train_accuracy, val_loss, val_accuracy, self.seconds)
        )
        self.seconds = 0.0

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the epochs as a table, one row each."""
        write_csv(path, Epoch._fields, self.epochs)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `history.csv` (epochs) and `steps.csv` into `folder`. Both are replaced whole, so what an
        interrupted run had written and a resumed one repeats is never there twice."""
        self.to_csv(Path(folder) / "history.csv")
        write_csv(Path(folder) / "steps.csv", Step._fields, self.steps)
