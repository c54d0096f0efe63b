"""Pictures of records, one a file. Matplotlib is imported when the first one is drawn.

Each takes a `Record` or the path of a saved one, those that compare also a mapping from names to either; draws into
`ax`, or a new figure; and returns the axes. Magnitudes are on a log scale. What is missing or exactly zero has no
place there: it is marked, and never stops a picture.
"""

from tinyres.flow.plots.depth import depth
from tinyres.flow.plots.diagram import diagram
from tinyres.flow.plots.gradcam import gradcam
from tinyres.flow.plots.heatmap import heatmap
from tinyres.flow.plots.highway import highway
from tinyres.flow.plots.responses import responses
from tinyres.flow.plots.ridge import ridge
from tinyres.flow.plots.update_ratio import update_ratio

depth_plot = depth  # its name in `flow`

__all__ = ["depth", "depth_plot", "diagram", "gradcam", "heatmap", "highway", "responses", "ridge", "update_ratio"]
