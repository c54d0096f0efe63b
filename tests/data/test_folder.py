"""Folders of images in the formats and the disrepair that people have them in."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyres.data import ImageFolder

RED, GREEN = (200, 10, 20), (10, 180, 30)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def two_pixels(mode="RGB"):
    """Two wide, one high: red, then green."""
    return Image.fromarray(np.array([[RED, GREEN]], np.uint8)).convert(mode)


def test_classes_and_files_are_sorted(tmp_path):
    for name in ("zebra/b.png", "zebra/a.png", "ant/c.PNG", "Ärger 猫/é.png"):
        save(two_pixels(), tmp_path / name)
    (tmp_path / "zebra" / "notes.txt").write_text("no image")
    (tmp_path / "zebra" / ".hidden.png").write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.md").write_text("no class")
    folder = ImageFolder(tmp_path)
    assert folder.classes == ["ant", "zebra", "Ärger 猫"]
    assert [p.name for p in folder.paths] == ["c.PNG", "a.png", "b.png", "é.png"]
    assert folder.labels.tolist() == [0, 1, 1, 2]
    assert folder.labels.dtype == np.int64
    assert len(folder) == 4
    assert folder.image(3).tolist() == [[list(RED), list(GREEN)]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_come_out_as_rgb(tmp_path, mode):
    save(two_pixels(mode), tmp_path / "a" / "x.png")
    image = ImageFolder(tmp_path).image(0)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - [[RED, GREEN]]).max() <= (51 if mode == "P" else 0)  # a web palette


def test_a_palette_with_transparency_is_read(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    save(image, tmp_path / "a" / "x.png", transparency=bytes([0, 128]))
    assert ImageFolder(tmp_path).image(0).tolist() == [[list(RED), list(GREEN)]]


def test_grey_images_get_three_channels(tmp_path):
    save(Image.fromarray(np.array([[0, 77]], np.uint8)), tmp_path / "a" / "8bit.png")
    save(Image.fromarray(np.array([[256, 65535]], np.uint16)), tmp_path / "a" / "deep.png")
    folder = ImageFolder(tmp_path)
    deep, plain = (folder.image([p.name for p in folder.paths].index(n)) for n in ("deep.png", "8bit.png"))
    assert plain.tolist() == [[[0] * 3, [77] * 3]]
    assert deep.tolist() == [[[1] * 3, [255] * 3]]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    save(two_pixels(), tmp_path / "a" / "x.png", exif=exif)
    assert ImageFolder(tmp_path).image(0).tolist() == [[list(RED)], [list(GREEN)]]


def test_unreadable_images_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        path = tmp_path / "a" / name
        save(Image.fromarray(noise), path)
        path.write_bytes(path.read_bytes()[:-600])
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "a" / "text.png").write_text("hello")
    folder = ImageFolder(tmp_path)
    for index, path in enumerate(folder.paths):
        with pytest.raises(ValueError, match="cannot be read as an image") as caught:
            folder.image(index)
        assert str(path) in str(caught.value)


def test_folders_without_classes_or_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no subfolders"):
        ImageFolder(tmp_path)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(FileNotFoundError, match="hollow has no images"):
        ImageFolder(tmp_path)


def test_real_photographs(tmp_path):
    archive = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10-jpeg.zip"
    if not archive.exists():
        pytest.skip("the photographs, shared/data/cifar10-jpeg.zip beside the repository, are not there")
    names = [f"cifar10/test/{c}/0000.jpg" for c in ("cat", "airplane")]
    with zipfile.ZipFile(archive) as photographs:
        for name in names:
            photographs.extract(name, tmp_path)
    folder = ImageFolder(tmp_path / "cifar10" / "test")
    assert folder.classes == ["airplane", "cat"]
    for index in range(2):
        image = folder.image(index)
        assert image.shape == (32, 32, 3)
        assert image.std() > 10  # a picture, not a plain field
