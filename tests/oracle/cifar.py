"""Real CIFAR-10 images for the comparisons: JPEG files in an archive beside the repository, which a clone lacks."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def shared(name: str) -> Path:
    """A file beside the repository; where there is none, the test is skipped."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not there: it lies in a folder beside the repository that a clone does not have")
    return path


def images(part: str, picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32), float32, normalised, and labels (N,): those at `picks` of all names in order, class by
    class, of "train" or "test"."""
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with zipfile.ZipFile(shared("data/cifar10-jpeg.zip")) as archive:
        names = sorted(
            name for name in archive.namelist() if name.startswith(f"cifar10/{part}/") and name[-4:] == ".jpg"
        )
        classes = sorted({name.split("/")[2] for name in names})
        picked = [names[pick] for pick in picks]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in picked])  # (N, 32, 32, 3)
    labels = np.array([classes.index(name.split("/")[2]) for name in picked])
    return ((pixels / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2), labels
