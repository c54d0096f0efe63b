"""The loader: the right batches, the same for the same seed, and no thread left behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from tinyres.data import ArrayDataset, DataLoader
from tinyres.data.transforms import Compose, Normalize, RandomCrop, RandomHorizontalFlip, Rescale

AUGMENT = Compose([RandomCrop(6, padding=2), RandomHorizontalFlip()])


@pytest.fixture
def dataset():
    """23 images whose first pixel tells their index."""
    images = np.random.default_rng(0).integers(0, 256, (23, 6, 6, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(23)
    return ArrayDataset(images, np.arange(23) % 4, list("abcd"))


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("tinyres-loader")]


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    assert not loader_threads()
    yield
    assert not loader_threads()


def same(left, right):
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        np.array_equal(a, b) and np.array_equal(c, d) for (a, c), (b, d) in zip(left, right, strict=True)
    )


def test_batches_in_order_without_shuffling(dataset):
    loader = DataLoader(dataset, batch_size=5)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert np.array_equal(images, dataset.images.transpose(0, 3, 1, 2) / np.float32(255))
    assert np.array_equal(labels, np.arange(23) % 4)


def test_images_are_channels_last_in_memory(dataset):
    images, _ = next(DataLoader(dataset, batch_size=4, transform=AUGMENT).batches())
    assert images.shape == (4, 3, 6, 6)
    assert images.transpose(0, 2, 3, 1).flags.c_contiguous


def test_drop_last(dataset):
    loader = DataLoader(dataset, batch_size=5, drop_last=True)
    assert [len(labels) for _, labels in loader] == [5] * 4
    assert len(loader) == 4
    assert len(DataLoader(dataset, batch_size=23, drop_last=True)) == 1
    assert len(DataLoader(dataset, batch_size=100)) == 1


def test_shuffling_draws_every_image_once(dataset):
    seen = [round(i * 255) for images, _ in DataLoader(dataset, 5, shuffle=True) for i in images[:, 0, 0, 0]]
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(23))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_same_seed_gives_the_same_batches(dataset, workers):
    def loader(seed, epoch=0, workers=1):
        made = DataLoader(dataset, 5, AUGMENT, shuffle=True, seed=seed, workers=workers)
        made.set_epoch(epoch)
        return made

    assert same(loader(7), loader(7, workers=workers))
    assert same(loader(7, epoch=3), loader(7, epoch=3, workers=workers))
    assert not same(loader(7), loader(8))
    assert not same(loader(7), loader(7, epoch=1))
    again = loader(7)
    assert same(again, again)  # an iteration leaves no trace


@pytest.mark.parametrize("start", [0, 2, 4, 5])
def test_a_late_start_gives_the_tail(dataset, start):
    loader = DataLoader(dataset, 5, AUGMENT, shuffle=True, seed=1)
    loader.set_epoch(2)
    assert same(loader.batches(start=start), list(loader)[start:])


def test_augmentation_follows_the_image_not_its_place(dataset):
    # One image's augmentation is the same whatever the batch size and the order.
    def transform(image, rng):
        return np.full_like(image, rng.integers(256))

    drawn = [image[0, 0, 0] for images, _ in DataLoader(dataset, 5, transform) for image in images]
    again = [image[0, 0, 0] for images, _ in DataLoader(dataset, 3, transform) for image in images]
    shuffled = DataLoader(dataset, 5, transform, shuffle=True)
    assert drawn == again
    assert len(set(drawn)) > 15  # and another for each image
    assert sorted(drawn) == sorted(image[0, 0, 0] for images, _ in shuffled for image in images)


def test_the_order_does_not_share_the_stream_of_an_image(dataset):
    first_draw = []

    def transform(image, rng):
        first_draw.append(rng.permutation(23).tolist())
        return image

    seen = [round(i * 255) for x, _ in DataLoader(dataset, 5, transform, shuffle=True) for i in x[:, 0, 0, 0]]
    assert seen not in first_draw


def test_set_epoch_does_not_touch_an_iteration_under_way(dataset):
    loader = DataLoader(dataset, 5, AUGMENT, shuffle=True)
    expected = list(loader)
    batches = loader.batches()
    loader.set_epoch(1)
    assert same(batches, expected)


def test_float_images_are_left_as_they_are(dataset):
    transform = Compose([Rescale(), Normalize([0.5] * 3, [0.25] * 3)])
    images, _ = next(DataLoader(dataset, 23, transform).batches())
    expected = (dataset.images.transpose(0, 3, 1, 2) / 255.0 - 0.5) / 0.25
    assert np.allclose(images, expected, atol=1e-6)


def test_leaving_early_ends_the_threads(dataset):
    for _ in DataLoader(dataset, 2, AUGMENT, workers=4):
        break
    assert not loader_threads()
    batches = DataLoader(dataset, 2, AUGMENT, workers=4).batches()
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_without_workers_there_is_no_thread_and_nothing_is_made_ahead(dataset):
    made = []

    def transform(image, rng):
        made.append(threading.current_thread())
        return image

    batches = DataLoader(dataset, 5, transform, shuffle=True, workers=0).batches(start=1)
    assert not made
    next(batches)
    assert made == [threading.main_thread()] * 5
    loader = DataLoader(dataset, 5, AUGMENT, shuffle=True, workers=0)
    batches, expected = loader.batches(), list(loader)
    loader.set_epoch(1)  # for the next iteration
    assert same(batches, expected)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_the_threads():
    code = """
import os, signal, threading, time
import numpy as np
from tinyres.data import ArrayDataset, DataLoader
dataset = ArrayDataset(np.zeros((1000, 4, 4, 3), np.uint8), np.zeros(1000, int), ["a"])
def slow(image, rng):
    time.sleep(0.002)
    return image
try:
    for number, _ in enumerate(DataLoader(dataset, 10, slow, workers=4)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print(number, [t.name for t in threading.enumerate() if t.name.startswith("tinyres-loader")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.endswith(" []\n")
    assert done.stdout.split()[0] in "23"
    assert done.stderr == ""


def test_of_vectors_a_batch_is_a_matrix():
    class Vectors:
        classes, labels = ["a", "b"], np.array([0, 1, 1])

        def __len__(self):
            return 3

        def image(self, index):
            return np.arange(4, dtype=np.float32) + index

    (first, labels), (second, _) = DataLoader(Vectors(), 2)
    assert first.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert second.tolist() == [[2, 3, 4, 5]]
    assert labels.tolist() == [0, 1]


def test_few_batches_are_made_ahead(dataset):
    made = []

    def transform(image, rng):
        made.append(image)
        return image

    batches = DataLoader(dataset, 1, transform, workers=2).batches()
    next(batches)
    batches.close()
    assert len(made) <= 3  # the batch in hand and one a worker


def test_an_error_in_a_worker_reaches_the_consumer(dataset):
    def fail(image, rng):
        if image[0, 0, 0] == 12:
            raise RuntimeError("image 12 is cursed")
        return image

    batches = DataLoader(dataset, 5, fail, workers=2).batches()
    next(batches)
    next(batches)
    with pytest.raises(RuntimeError, match="image 12 is cursed"):
        next(batches)
    assert not loader_threads()


class Uneven:
    """Three images, the last one higher than the others."""

    def __init__(self):
        self.classes = ["only"]
        self.labels = np.zeros(3, np.int64)

    def __len__(self):
        return 3

    def image(self, index):
        return np.zeros((4 + index // 2, 5, 3), np.uint8)


def test_images_of_different_sizes_get_a_sentence():
    with pytest.raises(ValueError) as caught:
        list(DataLoader(Uneven(), 3))
    message = str(caught.value)
    assert "images 0 and 2 differ in size, (4, 5, 3) and (5, 5, 3)" in message
    assert "Resize" in message
    assert "CenterCrop" in message


def test_images_without_channels_get_a_sentence(dataset):
    with pytest.raises(ValueError, match=r"image 0 has shape \(6, 6\) but should be \(H, W, C\)"):
        list(DataLoader(dataset, 3, lambda image, rng: image[..., 0]))


def test_bad_arguments_get_a_sentence(dataset):
    empty = ArrayDataset(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int64), [])
    with pytest.raises(ValueError, match="the data set is empty"):
        DataLoader(empty, 4)
    with pytest.raises(ValueError, match="batch_size should be at least 1, got 0"):
        DataLoader(dataset, 0)
    with pytest.raises(ValueError, match="workers should be 0 or positive, got -1"):
        DataLoader(dataset, 4, workers=-1)
    with pytest.raises(ValueError, match="seed should be 0 or positive, got -1"):
        DataLoader(dataset, 4, seed=-1)
    with pytest.raises(ValueError, match="drop_last leaves no batch of 24 from 23 images"):
        DataLoader(dataset, 24, drop_last=True)
    with pytest.raises(ValueError, match="epoch should be 0 or positive"):
        DataLoader(dataset, 4).set_epoch(-1)
    with pytest.raises(ValueError, match="start should be from 0 to 6 batches, got 7"):
        DataLoader(dataset, 4).batches(start=7)
