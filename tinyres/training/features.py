"""Features: what a frozen trunk makes of each image, computed once.

A frozen trunk gives the same numbers for the same image in every epoch. So they are computed in one pass, and the
head is trained on them alone, hundreds of times faster: a data set of vectors is a data set like any other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinyres import __version__, models, nn
from tinyres.autograd import Tensor, no_grad
from tinyres.backend import to_host
from tinyres.data import ArrayDataset, DataLoader, Dataset, ImageFolder, Subset
from tinyres.data.datasets import Labels
from tinyres.data.transforms import Transform
from tinyres.files import atomic_write
from tinyres.models.trunk import pooled, pooled_channels
from tinyres.nn import Module
from tinyres.training.checkpoint import in_c_order
from tinyres.training.loop import to_model

Vectors = npt.NDArray[np.float32]  # (N, C)


class Features:
    """A data set of vectors (N, C) float32, of which a batch is (n, C)."""

    def __init__(self, vectors: Vectors, labels: Labels, classes: list[str]) -> None:
        self.vectors, self.labels, self.classes = vectors, labels, classes

    def __len__(self) -> int:
        return len(self.vectors)

    def image(self, index: int) -> Vectors:
        """Vector `index` (C,)."""
        vector: Vectors = self.vectors[index]
        return vector

    def __repr__(self) -> str:
        return f"Features({len(self)} vectors of {self.vectors.shape[1]}, {len(self.classes)} classes)"


class OnFeatures(Module):
    """A network that is given features in place of images: only its head is run.

    It shares everything with `model`, names included: train it, save it, and `model` is trained, `model` was saved.
    """

    def __init__(self, model: Module) -> None:
        vars(self).update(vars(model))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)  # type: ignore[no-any-return,attr-defined]


def features(
    model: Module,
    dataset: Dataset,
    transform: Transform | None = None,
    *,
    batch_size: int = 64,
    workers: int = 1,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Features:
    """What `model`'s head would be given for each image of `dataset`, in evaluation mode. Augmentation has no place in
    `transform` here: it would be drawn once and for all.

    Args:
        cache: a folder in which to keep the vectors, and to look for them first. The file's name is a digest of the
            trunk and its weights, of the transform and of the images (of an ImageFolder: names, sizes and times of
            its files), so a file made by anything else is never taken.
        progress: a bar on a terminal.

    Raises:
        TypeError: if `cache` is asked for and the data set or the transform cannot say what it consists of.
    """
    path = None if cache is None else Path(cache) / f"features-{key(model, dataset, transform)}.npy"
    vectors = None if path is None else kept(path, (len(dataset), pooled_channels(model)))
    if vectors is None:
        loader = DataLoader(dataset, batch_size, transform, workers=workers)
        fused = nn.fuse(model)
        with no_grad():
            parts = [pooled(fused, to_model(fused, *batch)[0]).data for batch in shown(loader, progress)]
        vectors = np.concatenate([to_host(part).astype(np.float32) for part in parts])
        if path is not None:
            with atomic_write(path, "wb") as file:
                np.save(file, vectors)
    return Features(vectors, dataset.labels, dataset.classes)


def kept(path: Path, shape: tuple[int, int]) -> Vectors | None:
    """The vectors in a file of the cache; None if there is none, or a damaged one."""
    try:
        vectors: Vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.shape == shape and vectors.dtype == np.float32 else None


def key(model: Module, dataset: Dataset, transform: Transform | None) -> str:
    """A digest of everything that features follow from."""
    trunk = models.features(model)
    text = repr(transform)
    if " at 0x" in text:  # an address, not what it does
        raise TypeError(f"features: cache needs transforms that say what they do, as those of tinyres.data, got {text}")
    digest = hashlib.sha256(f"{__version__}\n{trunk!r}\n{text}\n".encode())
    for name, array in trunk.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(in_c_order(array).tobytes())
    for content in contents(dataset):
        digest.update(content)
    return digest.hexdigest()[:32]


def contents(dataset: Dataset) -> Iterator[bytes]:
    """What tells a data set from all others, and from itself once it has changed."""
    if isinstance(dataset, Subset):
        yield from contents(dataset.dataset)
        yield dataset.indices.tobytes()
    elif isinstance(dataset, ImageFolder):
        for path in dataset.paths:
            file = path.stat()
            yield f"{path.relative_to(dataset.root)!s} {file.st_size} {file.st_mtime_ns}\n".encode("utf-8", "replace")
    elif isinstance(dataset, ArrayDataset):
        yield f"{dataset.images.shape}\n".encode()
        yield dataset.images.tobytes()
    else:
        raise TypeError(
            f"features: cache needs an ImageFolder, an ArrayDataset or a Subset of one, got a {type(dataset).__name__}"
        )


def shown(loader: DataLoader, progress: bool) -> Iterator[tuple[npt.NDArray[np.float32], Labels]]:
    """The batches, counted by a bar on a terminal."""
    if not progress:
        yield from loader
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("features of {task.total} batches"), BarColumn(12), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(loader, total=len(loader))
