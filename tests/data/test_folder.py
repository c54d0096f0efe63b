"""Folders of images in the formats and the disrepair that people have them in."""

from __future__ import annotations

import os
import re
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyres.data import DataLoader, ImageFolder, Subset
from tinyres.data.transforms import RandomCrop

RED, GREEN = (200, 10, 20), (10, 180, 30)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def two_pixels(mode="RGB"):
    """Two wide, one high: red, then green."""
    return Image.fromarray(np.array([[RED, GREEN]], np.uint8)).convert(mode)


def noise(height=40, width=40):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def loudly(root, sentence="left out"):
    """The folder, which has to warn."""
    with pytest.warns(UserWarning, match=sentence):
        return ImageFolder(root)


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
    assert folder.report.passed_over == {"hidden": 2, ".txt": 1, ".md": 1}
    assert folder.report.left_out == []


def test_folders_within_a_class_belong_to_it(tmp_path):
    for name in ("cat/x.png", "cat/2019/summer/y.png", "cat/2019/.trash/z.png", "dog/y.png"):
        save(two_pixels(), tmp_path / name)
    folder = ImageFolder(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in folder.paths] == [
        str(Path("cat/2019/summer/y.png")),
        str(Path("cat/x.png")),
        str(Path("dog/y.png")),
    ]
    assert folder.labels.tolist() == [0, 0, 1]


def test_clutter_of_three_systems_is_passed_over_and_counted(tmp_path):
    save(two_pixels(), tmp_path / "cat" / "x.png")
    for name in ("cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "cat/._x.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"clutter")
    folder = ImageFolder(tmp_path)
    assert [path.name for path in folder.paths] == ["x.png"]
    assert folder.report.passed_over == {"hidden": 5}


def bomb(path):
    """A PNG of a few bytes that says that it is 100000×100000."""
    save(noise(), path)
    content = bytearray(path.read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(content))


def cut(path):
    save(noise(), path)
    path.write_bytes(path.read_bytes()[:-600])


def flipped(path):
    """One bit of the picture's data is wrong."""
    save(noise(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


AWKWARD = {  # a file's name: how it is made, and what the report has to say of it
    "text.jpg": (lambda path: path.write_text("a recipe for soup"), r"it is no BMP, .* or WEBP file"),
    "empty.png": (lambda path: path.touch(), "it is empty"),
    "cut.jpg": (cut, "truncated"),
    "cut.png": (cut, "(?i)truncated|broken"),
    "cut.gif": (cut, "."),
    "cut.bmp": (cut, "truncated"),
    "cut.tif": (cut, "."),
    "cut.webp": (cut, "."),
    "flipped.png": (flipped, "broken|checksum|CRC"),
    "bomb.png": (bomb, "larger than PIL.Image.MAX_IMAGE_PIXELS"),
    "float.tif": (
        lambda path: save(Image.fromarray(np.ones((2, 2), np.float32)), path),
        "of mode 'F', for which black and white are not known: save it with 8 bits a channel",
    ),
    "whole.tif": (lambda path: save(Image.fromarray(np.ones((2, 2), np.int32)), path), "of mode 'I'"),
    "phone.heic": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), ".heic is not read: convert it"),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_what_cannot_be_used_is_left_out_by_name(tmp_path, name):
    make, sentence = AWKWARD[name]
    save(two_pixels(), tmp_path / "cat" / "good.png")
    make(tmp_path / "cat" / name)
    folder = loudly(tmp_path, f"1 left out of the images in .*{name}: ")
    assert [path.name for path in folder.paths] == ["good.png"]
    ((path, why),) = folder.report.left_out
    assert path == str(Path("cat") / name)
    assert re.search(sentence, why), why


def test_a_bomb_takes_no_memory(tmp_path):
    save(two_pixels(), tmp_path / "cat" / "good.png")
    bomb(tmp_path / "cat" / "bomb.png")
    loudly(tmp_path)  # once, so that Pillow's decoders are loaded
    tracemalloc.start()
    loudly(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_nothing_is_left_out_without_a_word(tmp_path):
    """All at once: every file is either used, in the report with a reason, or counted as no image."""
    save(two_pixels(), tmp_path / "cat" / "good.png")
    for name, (make, _) in AWKWARD.items():
        (tmp_path / "dog").mkdir(exist_ok=True)
        make(tmp_path / "dog" / name)
    save(two_pixels(), tmp_path / "stray.jpg")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    folder = loudly(tmp_path, rf"{len(AWKWARD) + 3} left out .* and {len(AWKWARD)} more\)")
    reasons = dict(folder.report.left_out)
    assert folder.classes == ["cat"]
    assert reasons["hollow"] == reasons["dog"] == "this class has no images"
    assert reasons["stray.jpg"] == "it lies outside the class folders"
    files = sum(path.is_file() for path in tmp_path.rglob("*"))
    told = sum(1 for path in reasons if (tmp_path / path).is_file())
    assert files == len(folder) + told + sum(folder.report.passed_over.values())
    printed = str(folder.report)
    assert "1 images in 1 classes" in printed
    assert f"left out: {len(AWKWARD) + 3}\n" in printed
    assert "and 6 more, in .left_out" in printed
    assert "passed over: 1 .txt" in printed
    list(DataLoader(folder, 1))  # and what is left can be read


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a right to make links")
def test_links(tmp_path):
    save(two_pixels(), tmp_path / "elsewhere" / "x.png")
    save(two_pixels(), tmp_path / "root" / "cat" / "real.png")
    cat = tmp_path / "root" / "cat"
    (cat / "linked").symlink_to(tmp_path / "elsewhere")
    (cat / "round").symlink_to(cat)
    (cat / "up").symlink_to(tmp_path / "root")
    (cat / "self.png").symlink_to(cat / "self.png")
    (cat / "gone.png").symlink_to(tmp_path / "nothing.png")
    folder = loudly(tmp_path / "root")
    assert [path.name for path in folder.paths] == ["x.png", "real.png"]
    reasons = dict(folder.report.left_out)
    assert reasons[str(Path("cat/gone.png"))] == reasons[str(Path("cat/self.png"))] == "this link leads nowhere"
    for name in ("round", "up"):
        assert reasons[str(Path("cat") / name)] == "this link leads back to a folder in which it lies"
    assert len(reasons) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow text only")
def test_names_that_are_no_text(tmp_path):
    (tmp_path / "cat").mkdir()
    two_pixels().save(tmp_path / "good.png")
    os.rename(tmp_path / "good.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    with open(os.fsencode(tmp_path / "cat") + b"/bad\xe9.png", "wb"):
        pass
    folder = loudly(tmp_path, r"bad\?\.png")
    assert folder.image(0).shape == (1, 2, 3)
    str(folder.report).encode("utf-8")  # it can be printed


def test_the_report_counts_what_is_there(tmp_path):
    for i, (height, width, mode) in enumerate([(10, 20, "RGB"), (10, 20, "L"), (30, 5, "RGB"), (60, 60, "P")]):
        save(noise(height, width).convert(mode), tmp_path / ("cat" if i else "dog") / f"{i}.png")
    report = ImageFolder(tmp_path).report
    assert report.images == {"cat": 3, "dog": 1}
    assert report.sizes == {(10, 20): 2, (30, 5): 1, (60, 60): 1}
    assert report.modes == {"RGB": 2, "L": 1, "P": 1}
    printed = str(report)
    assert "4 images in 2 classes" in printed
    assert "sizes (height×width): 3, 30×5 to 60×60; most often 10×20 (2)" in printed
    assert "modes: 2 RGB, 1 L, 1 P" in printed
    assert "left out" not in printed


def test_a_file_that_breaks_later_is_named(tmp_path):
    save(noise(), tmp_path / "a" / "x.png")
    folder = ImageFolder(tmp_path)
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.png cannot be read as an image \(it is empty\)"):
        list(DataLoader(folder, 1))
    (tmp_path / "a" / "x.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no image .*x\.png"):
        list(DataLoader(folder, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_transform_names_the_file(tmp_path, workers):
    for size in (20, 9):
        save(noise(size, size), tmp_path / "a" / f"{size}.png")
    folder = ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="RandomCrop: the image is 9x9") as caught:
        list(DataLoader(Subset(folder, [0, 1]), 1, RandomCrop(10), workers=workers))
    assert caught.value.__notes__ == [f"while making image {tmp_path / 'a' / '9.png'}"]
    with pytest.raises(ValueError, match=r"images .*20\.png and .*9\.png differ in size"):
        list(DataLoader(folder, 2, workers=workers))


def test_folders_without_classes_or_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no subfolders"):
        ImageFolder(tmp_path)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(FileNotFoundError, match=r"hollow: this class has no images.*nothing remains"):
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
