"""Training: the loop, its history and checkpoints, and the recipes that the commands train by."""

from tinyres.training.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from tinyres.training.curves import curves
from tinyres.training.features import Features, OnFeatures, features
from tinyres.training.history import History
from tinyres.training.loop import CHECKPOINT, Evaluation, evaluate, fit
from tinyres.training.recipe import Recipe
from tinyres.training.transfer import Transfer, fine_tune

__all__ = [
    "CHECKPOINT",
    "Evaluation",
    "Features",
    "History",
    "OnFeatures",
    "Recipe",
    "Transfer",
    "curves",
    "evaluate",
    "features",
    "fine_tune",
    "fit",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]
