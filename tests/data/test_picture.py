"""Single pictures: every kind of pixel, turned upright, with their first frame."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tinyres.data.picture import FORMATS, MODES, Unreadable, read_header, read_image

RED, GREEN = (200, 10, 20), (10, 180, 30)


def two_pixels(mode="RGB"):
    """Two wide, one high: red, then green."""
    return Image.fromarray(np.array([[RED, GREEN]], np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix", "error"),
    [
        ("RGB", "png", 0),
        ("RGBA", "png", 0),
        ("RGB", "bmp", 0),
        ("RGB", "ppm", 0),
        ("RGB", "tif", 0),
        ("P", "png", 51),  # a web palette has steps of 51
        ("P", "gif", 51),
        ("CMYK", "tif", 2),
        ("CMYK", "jpg", 60),
        ("YCbCr", "tif", 3),
    ],
)
def test_colours_come_out_as_rgb(tmp_path, mode, suffix, error):
    path = tmp_path / f"x.{suffix}"
    two_pixels(mode).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (1, 2, 3)
    assert np.abs(image.astype(int) - [[RED, GREEN]]).max() <= error
    assert read_header(path)[:2] == (1, 2)


@pytest.mark.parametrize("mode", sorted(MODES - {"RGBX", "HSV", "PA", "RGBa"}))  # those that no format here stores
def test_every_mode_that_is_taken_is_read(tmp_path, mode):
    path = tmp_path / "x.tif"
    two_pixels("L").convert(mode).save(path) if mode != "YCbCr" else two_pixels(mode).save(path)
    assert read_image(path).shape == (1, 2, 3)
    assert read_image(path, channels=1).shape == (1, 2, 1)


def test_grey_images_get_three_channels(tmp_path):
    for name, pixels, expected in [
        ("8bit.png", np.array([[0, 77]], np.uint8), [0, 77]),
        ("16bit.png", np.array([[256, 65535]], np.uint16), [1, 255]),
        ("16bit.tif", np.array([[256, 65535]], np.uint16), [1, 255]),
        ("1bit.png", np.array([[False, True]]), [0, 255]),
    ]:
        Image.fromarray(pixels).save(tmp_path / name)
        assert read_image(tmp_path / name).tolist() == [[[value] * 3 for value in expected]], name
    Image.fromarray(np.array([[[77, 0], [50, 255]]], np.uint8), "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[77] * 3, [50] * 3]]


def test_a_palette_with_transparency_is_read(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    image.save(tmp_path / "x.png", transparency=bytes([0, 128]))
    assert read_image(tmp_path / "x.png").tolist() == [[list(RED), list(GREEN)]]


TURNED = {  # EXIF orientation → where the two pixels of a picture two wide and one high are shown
    1: [[RED, GREEN]],
    2: [[GREEN, RED]],
    3: [[GREEN, RED]],
    4: [[RED, GREEN]],
    5: [[RED], [GREEN]],
    6: [[RED], [GREEN]],
    7: [[GREEN], [RED]],
    8: [[GREEN], [RED]],
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    two_pixels().save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png").tolist() == np.array(TURNED[orientation]).tolist()


@pytest.mark.filterwarnings("ignore")  # Pillow says that EXIF is damaged
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_damaged_exif_costs_no_picture(tmp_path, exif):
    Image.new("RGB", (8, 4), RED).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (4, 8, 3)
    assert read_header(tmp_path / "x.jpg") == (4, 8, "RGB")


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN)]
    for name in ("x.gif", "x.tif", "x.webp"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
        )
        assert np.abs(read_image(tmp_path / name)[0, 0].astype(int) - RED).max() <= 2, name


def test_the_content_says_what_a_file_is_not_its_name(tmp_path):
    two_pixels().save(tmp_path / "x.jpg", format="PNG")
    assert read_image(tmp_path / "x.jpg").tolist() == [[list(RED), list(GREEN)]]
    two_pixels().save(tmp_path / "x.png", format="EPS")  # a program, which Pillow would have Ghostscript run
    with pytest.raises(Unreadable, match=f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"):
        read_image(tmp_path / "x.png")


def test_what_a_camera_appends_to_a_jpeg_does_no_harm(tmp_path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (8, 4), RED).save(path)
    for extra in (b"\0" * 100, b"film" * 100_000):  # the second is longer than where the end mark is looked for
        path.write_bytes(path.read_bytes() + extra)
        assert read_header(path) == (4, 8, "RGB")


def test_the_limit_on_pixels_is_pillows(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    for read in (read_image, read_header):
        with pytest.raises(Unreadable, match=r"x\.png cannot be read as an image \(it says that it is larger than PIL"):
            read(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert read_image(tmp_path / "x.png").shape == (100, 100, 3)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no image .*x\.png"):
        read_image(tmp_path / "x.png")
    with pytest.raises(FileNotFoundError, match="there is no image"):
        read_image(tmp_path)
