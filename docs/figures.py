"""Makes the figures of the page on instruments: `python docs/figures.py`, a minute on two cores.

plain-56 and ResNet-56, a quarter as wide as the paper's, take 40 steps on the embedded digits.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

import tinyres
from tinyres import data, flow, models, optim
from tinyres.files import atomic_write
from tinyres.training import fit

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent / "images" / "flow"
EVERY = 4  # of 40 steps


def record(name: str) -> tuple[flow.Record, tinyres.nn.Module]:
    tinyres.manual_seed(0)
    model = models.get(name, in_channels=1, width=0.25)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    digits = data.Subset(data.digits(), np.arange(1280))
    loader = data.DataLoader(digits, batch_size=64, shuffle=True, seed=0)
    with flow.watch(model, optimizer, every=EVERY) as seen:
        fit(model, loader, optimizer, epochs=2)
    return seen, model


def save(name: str) -> None:
    with atomic_write(FOLDER / f"{name}.png", "wb") as file:
        plt.savefig(file, format="png", dpi=110)
    plt.close()


plain, _ = record("plain56")
resnet, model = record("resnet56")
both = flow.compare(plain=plain, resnet=resnet)

both.plot.depth(steps=[0, 36])
save("depth")
both.plot.update_ratio()
save("update_ratio")
plain.plot.heatmap()
save("heatmap")
resnet.plot.ridge()
save("ridge")
resnet.plot.highway()
save("highway")
both.plot.responses()
save("responses")
resnet.plot.diagram()
save("diagram")
