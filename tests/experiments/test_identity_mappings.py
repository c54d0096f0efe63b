"""Identity mappings: gradients before training and errors after it, for each variant; the claim by hand-made rows."""

from __future__ import annotations

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


from tinyres.experiments.experiment import table  # noqa: E402
from tinyres.experiments.identity_mappings import NETS, IdentityMappings, Row  # noqa: E402

TINY = IdentityMappings(seeds=1, train_images=64, image_size=8, depth=20, epochs=1)


def rows_of(**errors):
    """Rows with each net's last error for each seed, 0.5 where nothing is said."""
    rows = []
    for net in NETS:
        for seed, error in enumerate(errors.get(net.split()[0].replace("½", "half"), [0.5, 0.5])):
            rows += [Row(net, seed, "gradient", place, 2.0**-place) for place in (1, 2, 3)]
            rows += [Row(net, seed, "error", 1, 0.9), Row(net, seed, "error", 2, error)]
    return table(rows)
