"""Watching signals and gradients flow through a network, without a change to it or to the training loop."""

from tinyres.flow import plots
from tinyres.flow.compare import compare
from tinyres.flow.gradcam import gradcam
from tinyres.flow.plots import depth_plot
from tinyres.flow.record import ROLES, Record
from tinyres.flow.recorder import snapshot, watch
from tinyres.flow.statistics import STATISTICS, statistics

__all__ = [
    "ROLES",
    "STATISTICS",
    "Record",
    "compare",
    "depth_plot",
    "gradcam",
    "plots",
    "snapshot",
    "statistics",
    "watch",
]
