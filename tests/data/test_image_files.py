"""Images in files: what becomes of every kind of image, and of files that are damaged or gone."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cljax.data import image_files
from cljax.data.image_files import FileParts, ImageFiles, read_sizes
from cljax.errors import UserError

SIDE = 32


def parts_of(folder):
    """All files of a folder, by name."""
    names = sorted(os.listdir(os.fsencode(folder)))
    lengths = np.array([os.stat(os.path.join(os.fsencode(folder), name)).st_size for name in names])
    return FileParts(folder, False, np.array(names), np.zeros(len(names), np.int64), lengths)


def read(folder, side=SIDE):
    parts = parts_of(folder)
    return ImageFiles(parts, read_sizes(parts), side)


def read_one(folder, image, name="one.png", **options):
    """The pixels of one file, after a look at what surrounds them."""
    image.save(folder / name, **options)
    images = read(folder)
    (height, width), canvas = images.sizes[0], images[np.array([0])][0]
    assert canvas.shape == (SIDE, SIDE, 3) and canvas.dtype == np.uint8
    assert not canvas[height:].any() and not canvas[:, width:].any()
    return canvas[:height, :width]


def noise(height, width):
    return Image.fromarray(
        np.random.default_rng(height).integers(1, 256, (height, width, 3), np.uint8)
    )


def test_images_keep_their_size_and_come_in_any_order(tmp_path):
    saved = {f"{i}.png": noise(*size) for i, size in enumerate([(5, 9), (32, 32), (7, 31)])}
    for name, image in saved.items():
        image.save(tmp_path / name)
    images = read(tmp_path)
    assert images.shape == (3, SIDE, SIDE, 3) and images.dtype == np.uint8 and len(images) == 3
    assert images.sizes.tolist() == [[5, 9], [32, 32], [7, 31]] and images.sizes.dtype == np.int32
    rows = np.array([2, 0, 2, 1])
    for row, canvas in zip(rows, images[rows], strict=True):
        height, width = images.sizes[row]
        np.testing.assert_array_equal(canvas[:height, :width], saved[f"{row}.png"])
    np.testing.assert_array_equal(np.asarray(images), images[np.arange(3)])
    np.testing.assert_array_equal(np.asarray(images.take(rows)), images[rows])
    assert images[np.array([], int)].shape == (0, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((64, 48), (32, 24)), ((33, 32), (32, 31)), ((40, 400), (3, 32)), ((1000, 1), (32, 1))],
)
def test_a_large_image_is_reduced_with_antialiasing(tmp_path, size, reduced):
    image = noise(*size)
    height, width = reduced
    narrowed = image.resize((width, size[0]), Image.Resampling.BILINEAR)
    expected = narrowed.resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read_one(tmp_path, image), expected)
    assert read(tmp_path).sizes.tolist() == [list(reduced)]


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 77, "one.png", 77),
        ("RGBA", (1, 2, 3, 0), "one.png", 255),
        ("LA", (0, 51), "one.png", 204),
        ("I;16", 77 * 256 + 9, "one.png", 77),
        ("CMYK", (0, 0, 0, 0), "one.jpg", 255),
        ("CMYK", (0, 0, 0, 255), "one.jpg", 0),
        ("RGB", (5, 5, 5), "a PNG.JPEG", 5),  # ImageNet has one
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, name, expected):
    options = {"format": "PNG"} if name == "a PNG.JPEG" else {}
    assert (read_one(tmp_path, Image.new(mode, (9, 7), colour), name, **options) == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["one.jpg", "one.png"])
def test_photographs_are_turned_upright(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :8] = 200  # one end is bright
    found = read_one(tmp_path, Image.fromarray(pixels), name, exif=exif)
    assert found.shape[:2] == ((8, 24) if orientation < 5 else (24, 8))
    bright = found[:4, :4].mean() > 150
    assert bright == (orientation in (1, 4, 5, 6))


def test_a_size_behind_a_long_header_is_found(tmp_path):
    profile = bytes(2 * image_files._HEADER_BYTES)
    assert read_one(tmp_path, noise(5, 7), "one.jpg", icc_profile=profile).shape == (5, 7, 3)


def truncated(folder):
    noise(30, 30).save(folder / "bad.JPEG")
    content = (folder / "bad.JPEG").read_bytes()
    (folder / "bad.JPEG").write_bytes(content[: len(content) // 2])


def without_pixels(folder):
    noise(4, 4).save(folder / "bad.JPEG", format="PNG")
    content = bytearray((folder / "bad.JPEG").read_bytes())
    content[16:24] = bytes(8)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "bad.JPEG").write_bytes(content)


BAD = {
    "truncated": (truncated, "cannot read it as an image: "),
    "text": (lambda folder: (folder / "bad.JPEG").write_text("a cat"), "format is not one of PNG"),
    "empty": (lambda folder: (folder / "bad.JPEG").touch(), "format is not one of PNG"),
    "0x0": (without_pixels, ""),
    "float": (
        lambda folder: Image.new("F", (4, 4)).save(folder / "bad.JPEG", format="TIFF"),
        "floating-point",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named_in_one_line(tmp_path, kind):
    noise(5, 5).save(tmp_path / "a.png")
    noise(5, 5).save(tmp_path / "c.png")
    make, reason = BAD[kind]
    make(tmp_path)
    with pytest.raises(UserError) as error:
        read(tmp_path)[np.arange(3)]
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/bad.JPEG: ") and reason in message
    assert "\n" not in message


def test_a_name_that_is_not_utf_8(tmp_path):
    noise(5, 6).save(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), format="PNG")
    images = read(tmp_path)
    assert images.sizes.tolist() == [[5, 6]] and images[np.array([0])].any()
    os.truncate(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), 60)
    with pytest.raises(UserError, match=r"caf\\udce9.png: shorter than it was"):
        images[np.array([0])]


@pytest.mark.parametrize("change", ["gone", "other", "pipe"])
def test_a_file_that_changes_during_the_run(tmp_path, change):
    noise(5, 6).save(tmp_path / "one.bmp")
    images = read(tmp_path)
    (tmp_path / "one.bmp").unlink()
    if change == "other":
        noise(7, 6).save(tmp_path / "one.bmp")
    elif change == "pipe":
        os.mkfifo(tmp_path / "one.bmp")
    with pytest.raises(UserError) as error:
        images[np.array([0])]
    assert f"{tmp_path}/one.bmp" in str(error.value) and "\n" not in str(error.value)


def test_the_fingerprint_is_that_of_names_and_sizes(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    noise(5, 6).save(tmp_path / "a" / "one.bmp")
    noise(5, 6).save(tmp_path / "b" / "one.bmp")
    one, other = read(tmp_path / "a").fingerprint(), read(tmp_path / "b").fingerprint()
    assert one.dtype == np.uint8 and one.tolist() == other.tolist()
    noise(6, 5).save(tmp_path / "b" / "one.bmp")
    assert read(tmp_path / "b").fingerprint().tolist() != one.tolist()
    os.rename(tmp_path / "a" / "one.bmp", tmp_path / "a" / "two.bmp")
    assert read(tmp_path / "a").fingerprint().tolist() != one.tolist()
