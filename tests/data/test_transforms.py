"""Transforms against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tinyres.data.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    Rescale,
    Resize,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def numbered(height, width, channels=1, dtype=np.uint8):
    return np.arange(height * width * channels).reshape(height, width, channels).astype(dtype)


def test_center_crop():
    image = numbered(4, 5)
    assert CenterCrop((2, 2))(image, rng())[..., 0].tolist() == [[7, 8], [12, 13]]  # 3 / 2 is rounded to 2, 1 / 2 to 0
    assert CenterCrop(3)(image, rng())[..., 0].tolist() == [[1, 2, 3], [6, 7, 8], [11, 12, 13]]


@pytest.mark.parametrize("channels", [1, 3])
def test_random_crop_visits_every_window_of_the_padded_image(channels):
    image = numbered(2, 3, channels) + np.uint8(1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[t : t + 2, x : x + 3].tobytes() for t in range(3) for x in range(3)}
    crop = RandomCrop((2, 3), padding=1)
    generator = rng()
    crops = [crop(image, generator) for _ in range(200)]
    assert {c.tobytes() for c in crops} == windows
    assert all(c.shape == image.shape and c.dtype == np.uint8 for c in crops)


def test_random_crop_of_the_whole_image_is_the_image():
    assert np.array_equal(RandomCrop((2, 3))(numbered(2, 3), rng()), numbered(2, 3))


def test_random_flip_mirrors_columns_with_its_probability():
    image = numbered(2, 3)
    assert RandomHorizontalFlip(1.0)(image, rng())[..., 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert np.array_equal(RandomHorizontalFlip(0.0)(image, rng()), image)
    generator = rng()
    flips = sum(RandomHorizontalFlip(0.25)(image, generator)[0, 0, 0] == 2 for _ in range(2000))
    assert abs(flips / 2000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)


class Angle:
    """A generator that draws the same angle always."""

    def __init__(self, angle):
        self.angle = angle

    def uniform(self, low, high):
        assert low <= self.angle <= high
        return self.angle


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_by_right_angles(dtype, channels):
    image = numbered(5, 5, channels, dtype)
    for quarters in (-1, 0, 1, 2):
        turned = RandomRotation(180)(image, Angle(90 * quarters))
        assert turned.dtype == dtype
        assert np.array_equal(turned, np.rot90(image, quarters))


def test_rotation_brings_zeros_into_the_corners_and_keeps_the_middle():
    turned = RandomRotation(45)(np.full((9, 9, 3), 100, np.uint8), Angle(45))
    assert turned[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
    assert turned[3:6, 3:6].min() == 100


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resize_to_half_weighs_neighbours_by_a_triangle(channels, dtype):
    # Halving, the triangle reaches two pixels to each side of an output's centre, which lies on the border of
    # two: weights 1/8 3/8 3/8 1/8 inside, and 3/7 3/7 1/7 at the ends, where a pixel is missing.
    row = np.array([70, 140, 0, 210, 56, 28], np.float64)
    a = (3 * row[0] + 3 * row[1] + row[2]) / 7
    b = (row[1] + 3 * row[2] + 3 * row[3] + row[4]) / 8
    c = (row[3] + 3 * row[4] + 3 * row[5]) / 7
    image = np.broadcast_to(row[None, :, None], (4, 6, channels)).astype(dtype)
    resized = Resize((4, 3))(image, rng())
    assert resized.shape == (4, 3, channels)
    assert resized.dtype == dtype
    assert np.abs(resized - np.array([a, b, c])[None, :, None]).max() <= (0.5001 if dtype == np.uint8 else 1e-4)


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        (16, (32, 48), (16, 24)),
        (16, (48, 32), (24, 16)),
        (20, (10, 15), (20, 30)),
        (7, (10, 13), (7, 9)),  # 9.1 is cut to 9
        ((5, 9), (20, 20), (5, 9)),
    ],
)
def test_resize_shapes(size, shape, expected):
    assert Resize(size)(np.zeros((*shape, 3), np.uint8), rng()).shape == (*expected, 3)


def test_rescale():
    rescaled = Rescale()(np.array([[[0, 51, 255]]], np.uint8), rng())
    assert rescaled.dtype == np.float32
    assert rescaled.ravel().tolist() == [0.0, np.float32(0.2), 1.0]


def test_normalize():
    image = np.array([[[0.5, 0.25, 1.0]]], np.float32)
    normalized = Normalize((0.5, 0.5, 0.5), (0.25, 0.125, 2.0))(image, rng())
    assert normalized.dtype == np.float32
    assert normalized.ravel().tolist() == [0.0, -2.0, 0.25]
    assert Normalize([0.5], [0.25])(np.ones((2, 2, 1), np.float32), rng()).ravel().tolist() == [2.0] * 4


def test_compose_applies_in_order_and_shows_its_parts():
    both = Compose([CenterCrop(1), Rescale()])
    assert both(np.full((3, 3, 1), 255, np.uint8), rng()).tolist() == [[[1.0]]]
    assert repr(both) == "Compose(transforms=[CenterCrop(size=1), Rescale()])"
    assert repr(RandomCrop(32, padding=4)) == "RandomCrop(size=32, padding=4)"


@pytest.mark.parametrize(
    "transform",
    [RandomCrop(3, padding=2), RandomHorizontalFlip(), RandomRotation(30), Resize(7), CenterCrop(2)],
)
def test_chance_comes_from_the_generator_alone_and_the_input_is_kept(transform):
    image = numbered(5, 5, 3)
    before = image.copy()
    assert np.array_equal(transform(image, rng(3)), transform(image, rng(3)))
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomCrop(0), ValueError, "RandomCrop: size should be a positive integer"),
        (lambda: CenterCrop((3,)), ValueError, r"CenterCrop: size .* got \(3,\)"),
        (lambda: Resize(2.5), ValueError, r"Resize: size .* got 2\.5"),
        (lambda: Resize("ab"), ValueError, "Resize: size .* got 'ab'"),
        (lambda: RandomCrop(3, padding=-1), ValueError, "padding should be 0 or a positive integer, got -1"),
        (lambda: RandomHorizontalFlip(1.5), ValueError, r"p should be a probability from 0 to 1, got 1\.5"),
        (lambda: RandomRotation(-5), ValueError, "degrees should be from 0 to 180, got -5"),
        (lambda: Normalize((0.5,), (0.5, 0.5)), ValueError, "one number a channel"),
        (lambda: Normalize(0.5, 0.5), ValueError, "one number a channel"),
        (lambda: Normalize((0.5,), (0.0,)), ValueError, "every std should be above 0"),
        (lambda: Compose([Rescale(), "flip"]), TypeError, "item 1 should be a transform, got 'flip'"),
    ],
)
def test_bad_arguments_get_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("transform", "image", "error", "message"),
    [
        (
            RandomCrop(8),
            numbered(4, 9),
            ValueError,
            "RandomCrop: the image is 4x9, smaller than the crop of 8x8",
        ),
        (CenterCrop(8), numbered(9, 4), ValueError, "CenterCrop: the image is 9x4"),
        (Rescale(), numbered(2, 2, dtype=np.float32), TypeError, "is float32 but should be uint8"),
        (Normalize((0.5,), (1.0,)), numbered(2, 2), TypeError, "put Rescale before it"),
        (
            Normalize((0.5,), (1.0,)),
            numbered(2, 2, 3, np.float32),
            ValueError,
            "mean has 1 channels but the image has 3",
        ),
    ],
)
def test_bad_images_get_a_sentence(transform, image, error, message):
    with pytest.raises(error, match=message):
        transform(image, rng())
