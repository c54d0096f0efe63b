"""The picture of a Grad-CAM map: the image below, the map above, of one size."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres.flow import plots


@pytest.mark.parametrize("channels", [1, 3])
def test_image_below_and_map_above(channels):
    rng = np.random.default_rng(0)
    image, heat = rng.normal(size=(channels, 12, 16)), rng.uniform(size=(3, 4))
    ax = plots.gradcam(image, heat)
    below, above = ax.images
    shown = np.moveaxis((image - image.min()) / (image.max() - image.min()), 0, -1)
    np.testing.assert_allclose(below.get_array(), shown[..., 0] if channels == 1 else shown)
    np.testing.assert_array_equal(above.get_array(), heat)
    assert above.get_extent() == below.get_extent()
    assert above.get_clim() == (0, heat.max())
    np.testing.assert_allclose(above.get_alpha(), 0.6 * heat / heat.max())
    ax.figure.draw_without_rendering()


def test_a_line_runs_around_half_the_largest_evidence():
    heat = np.zeros((5, 5))
    heat[2, 2] = 1
    ax = plots.gradcam(np.zeros((1, 10, 10)), heat)
    (contour,) = ax.collections
    (path,) = contour.get_paths()
    np.testing.assert_allclose(path.get_extents().extents, [3.5, 3.5, 5.5, 5.5])  # half a cell around the middle one


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_a_map_of_one_value(value):
    plots.gradcam(np.zeros((1, 8, 8)), np.full((2, 2), value)).figure.draw_without_rendering()


def test_other_shapes_are_refused():
    message = r"image is \(2, 8, 8\) and heat is \(1, 2, 2\), expected \(1 or 3, H, W\) and \(h, w\)"
    with pytest.raises(ValueError, match=message):
        plots.gradcam(np.zeros((2, 8, 8)), np.zeros((1, 2, 2)))
