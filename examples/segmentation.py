"""Segmentation of shapes that the script draws itself: what is at each pixel, from the maps of all stages of a ResNet.

Each stage's maps are brought to a few channels and to the size of the first's, added, and read off pixel by pixel: a
small relative of the feature pyramid (Lin et al. 2017). Writes segmentation.png.
"""

import sys

import numpy as np

import tinyres
from tinyres import functional as F
from tinyres import models, nn, optim

CLASSES = ["background", "disc", "square", "cross"]


def draw(count, rng, side=32):
    """Images (count, 3, side, side) and the class of each pixel (count, side, side): two or three shapes, and noise."""
    y, x = np.mgrid[:side, :side]
    images = rng.normal(0, 0.15, (count, 3, side, side))
    labels = np.zeros((count, side, side), np.int64)
    for image, label in zip(images, labels, strict=True):
        for _ in range(rng.integers(2, 4)):
            kind, r = rng.integers(1, 4), rng.integers(4, 8)
            dy, dx = np.abs(y - rng.integers(r, side - r)), np.abs(x - rng.integers(r, side - r))
            near, far = np.minimum(dy, dx), np.maximum(dy, dx)
            inside = (dy**2 + dx**2 <= r**2, far < r, (far <= r) & (near <= r // 3))[kind - 1]
            label[inside] = kind
            image[:, inside] += rng.uniform(0.3, 1, (3, 1))
    return images.astype(np.float32), labels


class Segmenter(nn.Module):
    """Images (N, 3, H, W) → logits (N, classes, H, W)."""

    def __init__(self, backbone, channels, classes):
        self.backbone = backbone
        self.lateral = nn.Sequential(*(nn.Conv2d(c, 16, 1) for c in channels))
        self.read = nn.Conv2d(16, classes, 3, padding=1)

    def forward(self, x):
        maps = [conv(stage) for conv, stage in zip(self.lateral, self.backbone(x), strict=True)]
        return self.read(F.relu(maps[0] + enlarge(maps[1], 2) + enlarge(maps[2], 4)))


def enlarge(x, factor):
    """Each pixel becomes a square of factor × factor: (N, C, H, W) → (N, C, H·factor, W·factor)."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1).expand(n, c, h, factor, w, factor)
    return x.reshape(n, c, h * factor, w * factor)


def main(steps=300, picture="segmentation.png"):
    """Train; returns, on images not seen before, the shares of right pixels and of right pixels among the shapes'."""
    tinyres.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Segmenter(models.features(models.resnet20(width=0.5)), (8, 16, 32), len(CLASSES))
    optimizer = optim.Adam(model.parameters(), 5e-3)
    for step in range(1, steps + 1):
        x, y = draw(16, rng)
        loss = F.cross_entropy(model(tinyres.Tensor(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    x, y = draw(64, np.random.default_rng(1))
    with tinyres.no_grad():
        seen = model.eval()(tinyres.Tensor(x)).numpy().argmax(axis=1)  # (N, H, W)
    right = seen == y
    print(f"{right.mean():.1%} of all pixels are right, {right[y > 0].mean():.1%} of those of shapes")
    if picture:
        save(picture, x[:6], y[:6], seen[:6])
    return right.mean(), right[y > 0].mean()


def save(path, images, labels, seen):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, len(images), figsize=(9, 4.8), layout="constrained")
    for column, (image, label, found) in enumerate(zip(images, labels, seen, strict=True)):
        shown = image.transpose(1, 2, 0)
        axes[0, column].imshow((shown - shown.min()) / (shown.max() - shown.min()))
        for row, classes in ((1, label), (2, found)):
            axes[row, column].imshow(classes, vmin=0, vmax=len(CLASSES) - 1, cmap="viridis")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[:, 0], ("image", "drawn", "seen"), strict=True):
        ax.set_ylabel(name)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
