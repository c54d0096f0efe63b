"""Watching signals and gradients flow through a network, without a change to it or to the training loop."""

from tinyres.flow import plots
from tinyres.flow.autocorrelation import autocorrelation, autocorrelation_plot
from tinyres.flow.compare import compare
from tinyres.flow.gradcam import gradcam
from tinyres.flow.landscape import Landscape, contour_plot, landscape, line_plot, random_direction, surface_plot
from tinyres.flow.lesion import deleted, kendall_tau, lesion, lesion_plot, reordered, shuffled
from tinyres.flow.paths import PathSpectrum, path_plot, path_spectrum
from tinyres.flow.plots import depth_plot
from tinyres.flow.record import ROLES, Record
from tinyres.flow.recorder import snapshot, watch
from tinyres.flow.report import report
from tinyres.flow.statistics import STATISTICS, statistics

__all__ = [
    "ROLES",
    "STATISTICS",
    "Landscape",
    "PathSpectrum",
    "Record",
    "autocorrelation",
    "autocorrelation_plot",
    "compare",
    "contour_plot",
    "deleted",
    "depth_plot",
    "gradcam",
    "kendall_tau",
    "landscape",
    "lesion",
    "lesion_plot",
    "line_plot",
    "path_plot",
    "path_spectrum",
    "plots",
    "random_direction",
    "reordered",
    "report",
    "shuffled",
    "snapshot",
    "statistics",
    "surface_plot",
    "watch",
]
