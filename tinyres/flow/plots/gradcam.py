"""A Grad-CAM map over its image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinyres.flow import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def gradcam(image: Any, heat: Any, ax: Axes | None = None) -> Axes:
    """Draw where in the image the evidence for a class is: in colour, and a line around what has at least half the
    largest evidence.

    Args:
        image: (C, H, W), one channel or three; its least value is drawn black, its largest white. heat: (h, w), one
            of the maps of `flow.gradcam`, laid over the whole image.
        ax: where to draw; a new figure by default.
    """
    from matplotlib.colors import Normalize
    from matplotlib.patheffects import Normal, Stroke

    image, heat = np.asarray(image, np.float64), np.asarray(heat, np.float64)
    if image.ndim != 3 or image.shape[0] not in (1, 3) or heat.ndim != 2:
        raise ValueError(
            f"gradcam: image is {image.shape} and heat is {heat.shape}, expected (1 or 3, H, W) and (h, w)"
        )
    ax = style.axes(ax, (5, 4))
    least, largest = image.min(), image.max()
    shown = np.moveaxis((image - least) / max(largest - least, 1e-12), 0, -1)  # (H, W, C)
    _, height, width = image.shape
    ax.imshow(shown[..., 0] if len(image) == 1 else shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    heat = np.where(np.isfinite(heat), heat, 0)
    top = float(heat.max())
    norm = Normalize(0, top or 1)
    box = (-0.5, width - 0.5, height - 0.5, -0.5)
    over: dict[str, Any] = dict(cmap=style.MAP, norm=norm, extent=box, interpolation="bilinear")
    seen = ax.imshow(heat, alpha=0.6 * norm(heat).data, **over)
    if heat.min() < top / 2:
        outline = [Stroke(linewidth=3, foreground="black"), Normal()]
        padded = np.pad(heat, 1, mode="edge")  # the line goes on to the border
        rows, columns = (
            (np.arange(-1, n + 1) + 0.5) * size / n - 0.5 for n, size in zip(heat.shape, (height, width), strict=True)
        )
        ax.contour(columns, rows, padded, levels=[top / 2], colors="white", linewidths=1.5).set_path_effects(outline)
    ax.figure.colorbar(seen, ax=ax, label="evidence for the class")
    ax.set(xticks=[], yticks=[], xlim=box[:2], ylim=box[2:])
    return ax
