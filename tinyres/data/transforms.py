"""Augmentation and preparation of single images.

A transform is any function (image, rng) -> image. The image is a host array (H, W, C), uint8 until `Rescale`
makes it float32; all chance comes from `rng`, so the same generator gives the same image. Those that give
a uint8 image when they get one go before `Rescale`, `Normalize` goes after it:

    Compose([RandomCrop(32, padding=4), RandomHorizontalFlip(), Rescale(), Normalize(mean, std)])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyres.data.datasets import Image

Transform = Callable[[Image, np.random.Generator], Image]
Size = int | tuple[int, int]  # a square's side, or (height, width)


@dataclass(frozen=True)
class Compose:
    """Applies transforms from first to last."""

    transforms: Sequence[Transform]

    def __post_init__(self) -> None:
        for position, transform in enumerate(self.transforms):
            if not callable(transform):
                raise TypeError(f"Compose: item {position} should be a transform, got {transform!r}.")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        for transform in self.transforms:
            image = transform(image, rng)
        return image


@dataclass(frozen=True)
class RandomCrop:
    """A window of `size` at a random place, after `padding` pixels of zeros on each side.

    RandomCrop(32, padding=4) is the augmentation of CIFAR in He et al. 2016a, section 4.2.
    """

    size: Size
    padding: int = 0

    def __post_init__(self) -> None:
        _height_width("RandomCrop", self.size)
        if not isinstance(self.padding, int) or self.padding < 0:
            raise ValueError(f"RandomCrop: padding should be 0 or a positive integer, got {self.padding!r}.")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        if self.padding:
            height, width, channels = image.shape
            p = self.padding
            padded = np.zeros((height + 2 * p, width + 2 * p, channels), image.dtype)
            padded[p : p + height, p : p + width] = image
            image = padded
        spare_height, spare_width, (height, width) = _spare("RandomCrop", image, self.size)
        top, left = rng.integers(spare_height + 1), rng.integers(spare_width + 1)
        return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class CenterCrop:
    """The window of `size` in the middle; half of an odd margin is rounded to even, as torchvision rounds it."""

    size: Size

    def __post_init__(self) -> None:
        _height_width("CenterCrop", self.size)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        spare_height, spare_width, (height, width) = _spare("CenterCrop", image, self.size)
        top, left = round(spare_height / 2), round(spare_width / 2)
        return image[top : top + height, left : left + width]


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirrors left and right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"RandomHorizontalFlip: p should be a probability from 0 to 1, got {self.p!r}.")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        return image[:, ::-1] if rng.random() < self.p else image


@dataclass(frozen=True)
class RandomRotation:
    """Turns about the centre by a uniform angle in [-degrees, degrees]; bilinear, zeros come in at the corners."""

    degrees: float

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"RandomRotation: degrees should be from 0 to 180, got {self.degrees!r}.")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        from PIL import Image as pillow

        angle = rng.uniform(-self.degrees, self.degrees)
        return _by_channel(image, lambda channel: channel.rotate(angle, pillow.Resampling.BILINEAR))


@dataclass(frozen=True)
class Resize:
    """Resizes to (height, width), or, given one integer, the shorter side to it with the aspect ratio kept.

    "bilinear" or "bicubic", with a filter as wide as the scale when shrinking (antialiased).
    """

    size: Size
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        _height_width("Resize", self.size)
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"Resize: interpolation should be 'bilinear' or 'bicubic', got {self.interpolation!r}.")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        from PIL import Image as pillow

        height, width = _height_width("Resize", self.size)
        if isinstance(self.size, int):
            shorter = min(image.shape[:2])
            height, width = (self.size * side // shorter for side in image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        kind = pillow.Resampling[self.interpolation.upper()]
        return _by_channel(image, lambda channel: channel.resize((width, height), kind))


@dataclass(frozen=True)
class Rescale:
    """uint8 from 0 to 255 becomes float32 from 0 to 1."""

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        if image.dtype != np.uint8:
            raise TypeError(f"Rescale: the image is {image.dtype} but should be uint8; is it rescaled already?")
        return np.divide(image, 255, dtype=np.float32)


@dataclass(frozen=True)
class Normalize:
    """(image - mean) / std, with one mean and one standard deviation a channel, in the units of `Rescale`."""

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if np.ndim(self.mean) != 1 or np.shape(self.mean) != np.shape(self.std):
            raise ValueError(
                "Normalize: mean and std should be sequences with one number a channel, "
                f"got {self.mean!r} and {self.std!r}."
            )
        if not all(s > 0 for s in self.std):
            raise ValueError(f"Normalize: every std should be above 0, got {self.std!r}.")

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        if image.dtype != np.float32:
            raise TypeError(f"Normalize: the image is {image.dtype} but should be float32; put Rescale before it.")
        if image.shape[2] != len(self.mean):
            raise ValueError(
                f"Normalize: mean has {len(self.mean)} channels but the image has {image.shape[2]} "
                f"(image: {image.shape})."
            )
        return (image - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


def _height_width(name: str, size: Any) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(f"{name}: size should be a positive integer or (height, width), got {size!r}.")
    return pair


def _spare(name: str, image: Image, size: Size) -> tuple[int, int, tuple[int, int]]:
    """How many rows and columns a window of `size` leaves over, and its height and width."""
    height, width = _height_width(name, size)
    spare_height, spare_width = image.shape[0] - height, image.shape[1] - width
    if spare_height < 0 or spare_width < 0:
        raise ValueError(
            f"{name}: the image is {image.shape[0]}x{image.shape[1]}, smaller than the crop of {height}x{width}; "
            "put Resize before it."
        )
    return spare_height, spare_width, (height, width)


def _by_channel(image: Image, operation: Callable[[Any], Any]) -> Image:
    """Runs a Pillow operation on each channel alone, so that uint8 and float32, grey and RGB go one way."""
    from PIL import Image as pillow

    channels = [pillow.fromarray(image[..., channel]) for channel in range(image.shape[2])]
    return np.stack([np.asarray(operation(channel)) for channel in channels], axis=-1)
