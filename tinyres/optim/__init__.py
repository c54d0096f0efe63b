"""Optimisers, learning-rate schedules, and gradient clipping."""

from tinyres.optim import lr_scheduler
from tinyres.optim.optimizer import SGD, Adam, AdamW, Optimizer, clip_grad_norm_, no_decay_groups

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "lr_scheduler", "no_decay_groups"]
