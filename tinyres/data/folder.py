"""A data set that is a folder of images, one subfolder a class, in the disrepair in which such folders are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tinyres.data.datasets import Image
from tinyres.data.picture import Header, Unreadable, read_header, read_image
from tinyres.data.report import Report

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# Pictures, too, which nobody should lose without a word.
OTHER_PICTURES = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".orf", ".psd", ".raw", ".svg"}
)
CLUTTER = frozenset({"thumbs.db", "desktop.ini"})  # the hidden files of Windows
SCANNERS = 8  # threads: on a disk, one waits while others read


class ImageFolder:
    """The images below root/<class>/, decoded when asked for; classes and files are sorted by name.

    All headers are read at once, and `report` says what was found; print it. What cannot be used is left out there
    and then, with a warning that counts it and names the first few: files that are damaged, cut short, empty or no
    images, pictures in formats that are not read, links that lead nowhere or in a circle, classes without images.
    Folders within a class belong to it. Hidden files and files of other kinds are passed over, and counted.

    Attributes:
        classes: the names. labels: (N,). paths: of each image. report: see `tinyres.data.report.Report`.

    Raises:
        FileNotFoundError: if the folder is not there, has no subfolders, or no image that can be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"ImageFolder: {root} is not a folder.")
        self.report = report = Report(self.root)
        files: dict[Path, list[Path]] = {}  # of each class folder
        for entry in entries(self.root, report):
            if entry.is_dir():
                files[entry] = list(pictures(entry, report, (self.root.resolve(),)))
            elif entry.suffix.lower() in SUFFIXES | OTHER_PICTURES:
                report.leave_out(entry, "it lies outside the class folders")
            else:
                report.passed_over[entry.suffix or "without ending"] += 1
        if not files:
            raise FileNotFoundError(f"ImageFolder: {root} has no subfolders; each class should be one.")

        headers = iter(scan([path for paths in files.values() for path in paths]))
        self.paths: list[Path] = []
        self.classes: list[str] = []
        labels: list[int] = []
        for folder, paths in files.items():
            good = [path for path, header in zip(paths, headers, strict=False) if self._accept(path, header)]
            if not good:
                report.leave_out(folder, "this class has no images")
                continue
            labels += [len(self.classes)] * len(good)
            self.classes.append(folder.name)
            self.paths += good
            report.images[folder.name] = len(good)
        if not self.paths:
            raise FileNotFoundError(f"ImageFolder: {report.warning()}; nothing remains.")
        self.labels = np.array(labels, np.int64)
        if report.left_out:
            warnings.warn(f"ImageFolder: {report.warning()}; .report lists all", stacklevel=2)

    def _accept(self, path: Path, header: Header | str) -> bool:
        """Enter a file in the report: what its header says, or why it is not used."""
        if isinstance(header, str):
            self.report.leave_out(path, header)
            return False
        self.report.sizes[header.height, header.width] += 1
        self.report.modes[header.mode] += 1
        return True

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image:
        """Image `index` as `read_image` gives it: uint8 (H, W, 3)."""
        return read_image(self.paths[index])

    def name(self, index: int) -> str:
        """The file of image `index`."""
        return str(self.paths[index])

    def __repr__(self) -> str:
        return f"ImageFolder({len(self)} images, {len(self.classes)} classes)"


def entries(folder: Path, report: Report) -> list[Path]:
    """What lies in a folder, by name; what is hidden is counted only."""
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name)  # paths compare without regard to case on Windows
    except OSError as error:
        report.leave_out(folder, f"this folder cannot be read: {error.strerror}")
        return []
    hidden = [path for path in found if path.name.startswith(".") or path.name.lower() in CLUTTER]
    if hidden:
        report.passed_over["hidden"] += len(hidden)
    return [path for path in found if path not in set(hidden)]


def pictures(folder: Path, report: Report, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files below a folder that should be images, by name; the others are entered in the report.

    above: the folders in which it lies, as they are really called: a link that leads back to one would never end.
    """
    here = folder.resolve()
    if here in above:
        report.leave_out(folder, "this link leads back to a folder in which it lies")
        return
    for path in entries(folder, report):
        kind = path.suffix.lower()
        if path.is_dir():
            yield from pictures(path, report, (*above, here))
        elif not path.is_file():
            report.leave_out(path, "this link leads nowhere" if path.is_symlink() else "this is no file")
        elif kind in SUFFIXES:
            yield path
        elif kind in OTHER_PICTURES:
            report.leave_out(path, f"{kind} is not read: convert it, for instance to .jpg")
        else:
            report.passed_over[kind or "without ending"] += 1


def scan(paths: Sequence[Path]) -> list[Header | str]:
    """Of each file its header, or why it cannot be read."""

    def look(path: Path) -> Header | str:
        try:
            return read_header(path)
        except Unreadable as error:
            return error.why
        except FileNotFoundError:
            return "it is gone"

    with ThreadPoolExecutor(SCANNERS, "tinyres-scan") as pool:
        return list(pool.map(look, paths))
