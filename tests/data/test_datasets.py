"""The embedded digits, data sets in an array, and IDX files written byte by byte."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from tinyres.data import ArrayDataset, digits, mnist_idx


def test_digits_are_split_evenly_and_disjointly():
    train, test = digits(train=True), digits(train=False)
    assert train.images.shape == (4000, 28, 28, 1)
    assert test.images.shape == (1000, 28, 28, 1)
    assert train.images.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.classes == list("0123456789")
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


def test_any_ten_consecutive_digits_hold_each_class():
    assert np.array_equal(digits().labels[:30], np.tile(np.arange(10), 3))


def test_digits_keep_their_labels():
    # Images of one class resemble their mean more than other means: a shuffled pairing would fail this.
    train, test = digits(train=True), digits(train=False)
    means = np.stack([train.images[train.labels == c].mean(axis=0).ravel() for c in range(10)])
    rows = test.images.reshape(1000, -1).astype(np.float64)
    nearest = ((rows[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == test.labels).mean() > 0.75


def test_array_dataset_shows_its_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    dataset = ArrayDataset(images, [0, 1, 1], ["cat", "dog"])
    assert len(dataset) == 3
    assert np.array_equal(dataset.image(2), images[2])
    assert repr(dataset) == "ArrayDataset(3 images of 4x5x3, 2 classes)"


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (np.zeros((2, 4, 4, 1)), [0, 0], TypeError, "dtype float64 but should be uint8"),
        (np.zeros((2, 4, 4), np.uint8), [0, 0], ValueError, r"shape \(2, 4, 4\)"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0], ValueError, "there are 2 images"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0.5, 0], TypeError, "dtype float64 but should be integers"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 2], ValueError, "from 0 to 2 but there are 2 classes"),
        (np.zeros((2, 4, 4, 1), np.uint8), [-1, 0], ValueError, "from -1 to 0"),
    ],
)
def test_array_dataset_refuses_what_does_not_fit(images, labels, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(images, labels, ["a", "b"])


IMAGES = bytes(range(2 * 3 * 4))
IMAGES_IDX = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 3, 4) + IMAGES
LABELS_IDX = struct.pack(">BBBBI", 0, 0, 8, 1, 2) + bytes([7, 0])


@pytest.mark.parametrize(("prefix", "train"), [("train", True), ("t10k", False)])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read(tmp_path, prefix, train, zipped):
    for name, content in (("images-idx3", IMAGES_IDX), ("labels-idx1", LABELS_IDX)):
        path = tmp_path / f"{prefix}-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    dataset = mnist_idx(tmp_path, train=train)
    assert dataset.images.shape == (2, 3, 4, 1)
    assert dataset.images[1, 2].ravel().tolist() == [20, 21, 22, 23]
    assert dataset.labels.tolist() == [7, 0]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"\x00\x00\x09\x03" + IMAGES_IDX[4:], LABELS_IDX, "images-idx3-ubyte begins with"),
        (LABELS_IDX, LABELS_IDX, "images-idx3-ubyte begins with"),
        (IMAGES_IDX[:10], LABELS_IDX, "ends within its header, after 10 of 16 bytes"),
        (IMAGES_IDX[:-5], LABELS_IDX, r"promises \(2, 3, 4\), 24 bytes, but holds 19"),
        (IMAGES_IDX + b"x", LABELS_IDX, "24 bytes, but holds 25"),
        (b"", LABELS_IDX, "begins with b''"),
        (IMAGES_IDX, struct.pack(">BBBBI", 0, 0, 8, 1, 1) + b"\x07", "2 train images but 1 labels"),
    ],
)
def test_broken_idx_files_are_named(tmp_path, images, labels, message):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match=message):
        mnist_idx(tmp_path)


def test_missing_and_cut_idx_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        mnist_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(IMAGES_IDX)[:-9])
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz is damaged or cut short"):
        mnist_idx(tmp_path)
