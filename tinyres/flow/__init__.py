"""Watching signals and gradients flow through a network, without a change to it or to the training loop."""

from tinyres.flow.landscape import Landscape, contour_plot, landscape, line_plot, random_direction, surface_plot
from tinyres.flow.lesion import deleted, kendall_tau, lesion, lesion_plot, reordered, shuffled
from tinyres.flow.plots import depth_plot
from tinyres.flow.record import ROLES, Record
from tinyres.flow.recorder import snapshot, watch
from tinyres.flow.statistics import STATISTICS, statistics

__all__ = [
    "ROLES",
    "STATISTICS",
    "Landscape",
    "Record",
    "contour_plot",
    "deleted",
    "depth_plot",
    "kendall_tau",
    "landscape",
    "lesion",
    "lesion_plot",
    "line_plot",
    "random_direction",
    "reordered",
    "shuffled",
    "snapshot",
    "statistics",
    "surface_plot",
    "watch",
]
