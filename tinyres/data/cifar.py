"""CIFAR-10 and CIFAR-100 from the official archives: fetched once, verified, read without trusting a byte."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyres.data.datasets import ArrayDataset
from tinyres.download import download_with_progress
from tinyres.files import atomic_write


class _Release(NamedTuple):
    """Where an archive is published, and what lies where in it."""

    name: str
    url: str
    md5: str
    train: tuple[str, ...]  # members that hold images, each a pickled dictionary
    test: tuple[str, ...]
    meta: str  # the member that holds the class names
    label_key: bytes
    classes_key: bytes


_CIFAR10 = _Release(
    name="cifar10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    train=tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
    test=("cifar-10-batches-py/test_batch",),
    meta="cifar-10-batches-py/batches.meta",
    label_key=b"labels",
    classes_key=b"label_names",
)

_CIFAR100 = _Release(
    name="cifar100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    train=("cifar-100-python/train",),
    test=("cifar-100-python/test",),
    meta="cifar-100-python/meta",
    label_key=b"fine_labels",
    classes_key=b"fine_label_names",
)


def cifar10(root: str | os.PathLike[str] | None = None, train: bool = True) -> ArrayDataset:
    """CIFAR-10: 50,000 training or 10,000 test images (32, 32, 3) in 10 classes (Krizhevsky, 2009).

    The archive (170 MB) is fetched into the folder `root` (by default the user's cache) unless it lies
    there already; the decoded arrays are kept beside it as cifar10.npz.
    Raises ConnectionError where it cannot be fetched, ValueError where a file is damaged.
    """
    return _load(_CIFAR10, root, train)


def cifar100(root: str | os.PathLike[str] | None = None, train: bool = True) -> ArrayDataset:
    """CIFAR-100 with its 100 fine labels, otherwise as `cifar10`."""
    return _load(_CIFAR100, root, train)


def _load(release: _Release, root: str | os.PathLike[str] | None, train: bool) -> ArrayDataset:
    if root is None:
        import pooch

        root = pooch.os_cache("tinyres")
    cache = Path(root) / f"{release.name}.npz"
    if not cache.exists():
        arrays = _decode(release, _archive(release, Path(root)))
        with atomic_write(cache, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    split = "train" if train else "test"
    try:
        with cache.open("rb") as file, np.load(file) as arrays:
            return ArrayDataset(arrays[f"{split}_images"], arrays[f"{split}_labels"], arrays["classes"].tolist())
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{release.name}: {cache} is damaged; delete it, and it is made afresh.") from error


# ---------------------------------------------------------------------------------------- fetching


def _archive(release: _Release, root: Path) -> Path:
    """The path of the verified archive, fetched if it is not there yet."""
    path = root / release.url.rsplit("/", 1)[-1]
    if not path.exists():
        _download(release, path)
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if md5 != release.md5:
        raise ValueError(
            f"{release.name}: {path} is cut short or damaged (md5 {md5}, expected {release.md5}); "
            "delete it, and it is downloaded afresh."
        )
    return path


def _download(release: _Release, path: Path) -> None:
    """Fetch the archive, trying three times; pooch verifies it before it gets its name."""
    import pooch

    store = pooch.create(
        path=path.parent,
        base_url="",
        registry={path.name: f"md5:{release.md5}"},
        urls={path.name: release.url},
        retry_if_failed=2,
    )
    try:
        store.fetch(path.name, downloader=download_with_progress)
    except OSError as error:
        raise ConnectionError(
            f"{release.name}: could not download {release.url} ({type(error).__name__}); "
            f"fetch it by other means and save it as {path}."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{release.name}: what {release.url} sent is not the archive with md5 {release.md5}; "
            f"nothing was kept, so try again later or save the archive as {path}."
        ) from error


# ----------------------------------------------------------------------------------------- reading


def _decode(release: _Release, path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an archive, read straight from the tar: nothing is ever unpacked to the disk."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    member = ""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for split, members in (("train", release.train), ("test", release.test)):
                images, labels = [], []
                for member in members:
                    batch = _read_member(archive, member)
                    # Each row is one image, channel by channel: 1024 red values, then green, then blue.
                    images.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                    labels.append(np.asarray(batch[release.label_key], np.int64))
                arrays[f"{split}_images"] = np.ascontiguousarray(np.concatenate(images))  # (N, 32, 32, 3)
                arrays[f"{split}_labels"] = np.concatenate(labels)  # (N,)
            member = release.meta
            names = _read_member(archive, member)[release.classes_key]
            arrays["classes"] = np.array([name.decode() for name in names])
    except Exception as error:  # a hostile or broken file may fail in any way at all
        raise ValueError(f"{release.name}: {member or 'the archive'} in {path} cannot be read ({error}).") from error
    return arrays


def _read_member(archive: tarfile.TarFile, name: str) -> dict[bytes, Any]:
    member = archive.getmember(name)
    if not member.isreg():
        raise ValueError("it is a link or a device, not a file")
    content = archive.extractfile(member)
    assert content is not None  # as it is for every regular file
    batch = _BatchUnpickler(io.BytesIO(content.read()), encoding="bytes").load()
    if not isinstance(batch, dict):
        raise TypeError("it is not a dictionary")
    return batch


def _empty_array(*_: object) -> npt.NDArray[np.uint8]:
    return np.empty(0, np.uint8)  # the pickle then sets its shape and content


def _byte_dtype(name: bytes, *_: object) -> np.dtype[np.uint8]:
    if name != b"u1":
        raise pickle.UnpicklingError(f"an array of {name!r} is not allowed")
    return np.dtype(np.uint8)


class _BatchUnpickler(pickle.Unpickler):
    """Reads numbers, bytes, containers and uint8 arrays; a pickle that asks for anything else is refused.

    The batches are Python 2 pickles, so they name NumPy's modules as of old and text arrives as bytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy.core.multiarray", "_reconstruct":
                return _empty_array
            case "numpy", "dtype":
                return _byte_dtype
            case "numpy", "ndarray":
                return None  # only ever an argument of _reconstruct, which ignores it
        raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}, which is not allowed")
