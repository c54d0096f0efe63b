"""One picture file: what its header says, and its pixels.

A header is a promise. It is read first, since it costs nothing: it says what a file is, and what decoding it would
take. Whether the file keeps the promise is seen from its end, or by decoding it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres.data.datasets import Image

# The decoders that a file may choose, by its content and not by its name. (Pillow has more; one of them runs programs.)
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = frozenset({"1", "CMYK", "HSV", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"})
TAIL = 1 << 16  # bytes in which a whole JPEG file ends; cameras append a little


class Unreadable(ValueError):
    """A file that is no picture, or none that is read here; `why` says it without the name of the file."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(f"{path} cannot be read as an image ({why})")
        self.why = why


class Header(NamedTuple):
    """What is known without decoding. height, width: as stored, before EXIF turns it upright. mode: Pillow's name for
    what a pixel is, such as "RGB", "L" (grey), "P" (palette)."""

    height: int
    width: int
    mode: str


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a picture that is whole, as far as can be seen without decoding it.

    JPEG files have to have their end mark, PNG files sound checksums; files of the other kinds are decoded.
    Raises as `read_image` does.
    """
    with opened(path) as picture:
        height, width, mode = picture.height, picture.width, picture.mode
        kind = picture.format
        if kind == "PNG":
            picture.verify()
        elif kind not in ("JPEG", "MPO") or not ends(path):
            picture.load()
    return Header(height, width, mode)


def read_image(path: str | os.PathLike[str], channels: int = 3) -> Image:
    """A picture as the photographer saw it, turned upright: uint8 (H, W, channels), RGB or, for 1 channel, grey.

    Of several pictures in a file (animations), it is the first; of 16 bits, the higher 8; of transparent pixels, the
    colour.

    Raises:
        FileNotFoundError: if there is no such file.
        Unreadable (a ValueError): naming the file, if it cannot be decoded, or is larger than
            `PIL.Image.MAX_IMAGE_PIXELS`, which is seen before any memory is asked for.
    """
    with opened(path) as picture:
        picture.load()
        upright = turned(picture)
        if deep(picture.mode, picture.format):  # keep the high byte, where Pillow would clip at 255
            from PIL import Image as pillow

            upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.has_transparency_data:  # a palette with transparency goes to RGB only by way of RGBA
            upright = upright.convert("RGBA")
        pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The picture, its header read and found fit to be decoded. What goes wrong meanwhile is said of the file."""
    from PIL import Image as pillow

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no image {path}")
    try:
        if not os.path.getsize(path):
            raise ValueError("it is empty")
        try:
            picture = pillow.open(path, formats=FORMATS)
        except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
            most = f"{pillow.MAX_IMAGE_PIXELS:,}"
            raise ValueError(f"it says that it is larger than PIL.Image.MAX_IMAGE_PIXELS, {most}") from error
        with picture:
            refuse(picture.width, picture.height, picture.mode, picture.format, pillow.MAX_IMAGE_PIXELS)
            yield picture
    except MemoryError:
        raise
    except pillow.UnidentifiedImageError as error:
        raise Unreadable(path, f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
    except Exception as error:  # a broken file may fail in any way at all
        raise Unreadable(path, str(error) or type(error).__name__) from error


def refuse(width: int, height: int, mode: str, kind: str | None, most: int | None) -> None:
    """Raise ValueError for what must not, or cannot faithfully, be decoded."""
    if most is not None and width * height > most:
        raise ValueError(
            f"it says that it is {width}×{height}, more than the {most:,} pixels of PIL.Image.MAX_IMAGE_PIXELS"
        )
    if mode not in MODES and not deep(mode, kind):
        raise ValueError(
            f"its pixels are of mode {mode!r}, for which black and white are not known: save it with 8 bits a channel"
        )


def deep(mode: str, kind: str | None) -> bool:
    """Whether grey has 16 bits. (Older Pillows give a PNG's as 32-bit integers.)"""
    return mode.startswith("I;16") or (mode == "I" and kind == "PNG")


def ends(path: str | os.PathLike[str]) -> bool:
    """Whether a JPEG file has its end mark near its end; inside the picture's data, these two bytes never stand."""
    with open(path, "rb") as file:
        file.seek(-min(TAIL, os.path.getsize(path)), os.SEEK_END)
        return b"\xff\xd9" in file.read()


def turned(picture: Any) -> Any:
    """The picture as EXIF says that it was taken, or as it is, where EXIF is damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # as many as there are ways to damage it
        return picture
