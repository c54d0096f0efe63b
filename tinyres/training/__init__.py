"""Training: the loop, its history and checkpoints, and the recipes that the commands train by."""

from tinyres.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from tinyres.training.history import History
from tinyres.training.loop import CHECKPOINT, Evaluation, evaluate, fit
from tinyres.training.recipe import Recipe

__all__ = [
    "CHECKPOINT",
    "Evaluation",
    "History",
    "Recipe",
    "evaluate",
    "fit",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]
