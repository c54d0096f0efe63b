"""A data set that is a folder of images, one subfolder a class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tinyres.data.datasets import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """The images root/<class>/<file>, decoded when asked for; classes and files are sorted by name.

    Files of other kinds and names that begin with a dot are passed over.
    Raises FileNotFoundError where the folder has no classes or a class has no images.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"ImageFolder: {root} is not a folder.")
        # By name, since paths compare without regard to case on Windows.
        entries = sorted(root.iterdir(), key=lambda p: p.name)
        folders = [p for p in entries if p.is_dir() and not p.name.startswith(".")]
        if not folders:
            raise FileNotFoundError(f"ImageFolder: {root} has no subfolders; each class should be one.")
        self.classes = [folder.name for folder in folders]
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            entries = sorted(folder.iterdir(), key=lambda p: p.name)
            paths = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
            if not paths:
                raise FileNotFoundError(f"ImageFolder: the class folder {folder} has no images.")
            self.paths += paths
            labels += [label] * len(paths)
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image:
        """Image `index` as `read_image` gives it: uint8 (H, W, 3)."""
        return read_image(self.paths[index])

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images, {len(self.classes)} classes)"


def read_image(path: str | os.PathLike[str], channels: int = 3) -> Image:
    """A picture as the photographer saw it, turned upright: uint8 (H, W, channels), RGB or, for 1 channel, grey.

    Raises FileNotFoundError where there is no such file, ValueError, naming it, where it cannot be decoded.
    """
    from PIL import Image as pillow
    from PIL import ImageOps

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no image {path}")
    try:
        with pillow.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # keep the high byte, where Pillow would clip at 255
                upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.has_transparency_data:  # a palette with transparency goes to RGB only by way of RGBA
                upright = upright.convert("RGBA")
            pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # a broken file may fail in any way at all
        raise ValueError(f"{path} cannot be read as an image ({error})") from error
    return pixels.reshape(*pixels.shape[:2], channels)
