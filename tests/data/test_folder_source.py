"""Folders of images: what becomes of every kind of image, and of every user's mistake."""

import io
import logging
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cljax.data import folder_source, sources
from cljax.data.folder_source import load_folder
from cljax.errors import UserError
from cljax.settings import DataSettings
from tests.helpers import folders
from tests.helpers.folders import SIZE, shades


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """See folders.make."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return folders.make(tmp_path / "photos")


def user_error(path, size=SIZE):
    """The one line that reading a folder gives."""
    with pytest.raises(UserError) as error:
        load_folder(str(path), size)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def read_one(folder, name, image, **options):
    """What is read where a file of class ant is this image."""
    path = folder / "train" / "ant" / name
    image.save(path, **options)
    (train, _), _, _ = load_folder(str(folder), SIZE)
    path.unlink()
    return train[2]  # after Bee's and ant's 0.png


def test_classes_and_files_come_in_sorted_order(folder, monkeypatch):
    listed = os.scandir

    class Backwards(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(
        folder_source.os,
        "scandir",
        lambda path: Backwards(sorted(listed(path), key=lambda e: e.name)[::-1]),
    )
    train, test, names = load_folder(str(folder), SIZE)
    assert names == ("Bee", "ant", "cat")
    assert shades(train) == [40, 30, 10, 20] and train[1].tolist() == [0, 1, 2, 2]
    assert shades(test) == [70, 80, 60, 50] and test[1].tolist() == [0, 0, 1, 2]
    for images, labels in (train, test):
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.shape == (len(labels), SIZE, SIZE, 3)


def test_load_measures_the_moments_and_keeps_the_first_of_a_class(folder):
    config = DataSettings(name="folder", path=str(folder), image_size=SIZE, per_class=1)
    dataset = sources.load(config)
    assert dataset.train_images[:, 0, 0, 0].tolist() == [40, 30, 10]
    assert dataset.num_classes == 3 and dataset.class_names == ("Bee", "ant", "cat")
    values = np.array([40, 30, 10, 20]) / 255
    np.testing.assert_allclose(dataset.mean, [values.mean()] * 3, rtol=1e-12)
    np.testing.assert_allclose(dataset.std, [values.std()] * 3, rtol=1e-12)


def test_hidden_names_are_skipped_everywhere(folder):
    (folder / ".hidden").write_text("x")
    (folder / "train" / ".DS_Store").write_text("x")
    (folder / "train" / ".git").mkdir()
    (folder / "test" / "cat" / "._0.png").write_text("x")
    assert shades(load_folder(str(folder), SIZE)[1]) == [70, 80, 60, 50]


def test_the_centred_square_is_resized_with_antialiasing(folder):
    # 24x16: the square is the middle 16 columns; its checks of 1 pixel become their mean.
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:, 4:20] = np.indices((16, 16)).sum(0) % 2 * 200
    pixels[:, :4], pixels[:, 20:] = 255, 255
    image = read_one(folder, "9.png", Image.fromarray(pixels))
    assert image.shape == (8, 8, 3)
    assert abs(image[1:-1, 1:-1].astype(int) - 100).max() <= 2
    assert image.max() < 150  # nothing of the sides that were cut off
    tall = read_one(folder, "9.png", Image.fromarray(pixels.T))
    # Pillow rounds after resizing the rows, and again after the columns.
    np.testing.assert_allclose(tall.astype(int), image.transpose(1, 0, 2), rtol=0, atol=1)
    exact = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(read_one(folder, "9.png", Image.fromarray(exact)), exact)
    larger = read_one(folder, "9.png", Image.new("RGB", (3, 1), (1, 2, 3)))
    assert (larger == [1, 2, 3]).all()


def test_every_mode_becomes_rgb(folder):
    def plain(mode, colour, name="9.png", **options):
        read = read_one(folder, name, Image.new(mode, (9, 9), colour), **options)
        assert (read == read[0, 0]).all()
        return read[0, 0].tolist()

    assert plain("L", 77) == [77] * 3
    assert plain("1", 1) == [255] * 3
    assert plain("RGB", (1, 2, 3)) == [1, 2, 3]
    assert plain("RGBA", (1, 2, 3, 255)) == [1, 2, 3]
    assert plain("RGBA", (1, 2, 3, 0)) == [255] * 3
    assert plain("LA", (0, 51)) == [204] * 3
    assert plain("I;16", 77 * 256 + 9) == [77] * 3
    assert plain("CMYK", (0, 0, 0, 0), "9.jpg") == [255] * 3
    assert plain("RGB", (9, 9, 9), transparency=(9, 9, 9)) == [255] * 3
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 7, 8, 9])
    assert (read_one(folder, "9.gif", palette) == [7, 8, 9]).all()
    assert (read_one(folder, "9.png", palette, transparency=b"\xff\x00") == 255).all()
    for name in ("9.webp", "9.bmp", "9.tiff", "9.ppm", "no_suffix"):
        options = {"lossless": True} if name == "9.webp" else {}
        if name == "no_suffix":
            options = {"format": "PNG"}
        assert plain("RGB", (1, 2, 3), name, **options) == [1, 2, 3]


def save_tiff(path, mode, value, **tags):
    """Writes a plain image whose header has other values of some tags."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, entry in tags.items():
        directory[getattr(TiffImagePlugin, tag)] = entry
    Image.new(mode, (9, 9), value).save(path, tiffinfo=directory)


def save_12_bits(path):
    """Writes 16 bits, of which the header says that they are 12."""
    save_tiff(path, "I;16", 200)
    entry = struct.Struct("<HHIHH")
    bits = (entry.pack(TiffImagePlugin.BITSPERSAMPLE, 3, 1, n, 0) for n in (16, 12))
    path.write_bytes(path.read_bytes().replace(*bits))


@pytest.mark.parametrize(
    ("value", "white_is_zero", "transparent", "expected"),
    [
        (77 * 256 + 9, False, None, 77),
        (77 * 256 + 9, True, None, 255 - 77),
        (0, True, None, 255),
        (77 * 256 + 9, False, 77 * 256 + 9, 255),
        (77 * 256 + 9, False, 77 * 256 + 8, 77),
    ],
)
def test_grey_of_16_bits(folder, value, white_is_zero, transparent, expected):
    path = folder / "train" / "ant" / "9"
    if white_is_zero:
        save_tiff(path.with_suffix(".tiff"), "I;16", value, PHOTOMETRIC_INTERPRETATION=0)
    else:
        image, depth = io.BytesIO(), np.full((9, 9), value, np.uint16)
        Image.fromarray(depth).save(image, "PNG")
        content = image.getvalue()
        if transparent is not None:  # Pillow writes this chunk for 8 bits only
            chunk = b"tRNS" + transparent.to_bytes(2, "big")
            chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
            content = content[:33] + chunk + content[33:]  # after the header
        path.with_suffix(".png").write_bytes(content)
    (train, _), _, _ = load_folder(str(folder), SIZE)
    assert (train[2] == expected).all()


def test_photographs_are_turned_upright(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[0] = 255  # the first row, which becomes the last column
    image = read_one(folder, "9.png", Image.fromarray(pixels), exif=exif)
    assert (image[:, -1] == 255).all() and (image[:, :-1] == 0).all()


def test_progress_is_told(folder, monkeypatch):
    told = []
    monkeypatch.setattr(folder_source, "_BLOCK", 3)
    monkeypatch.setattr(
        logging.getLogger("cljax"), "log", lambda level, text, *args: told.append(text % args)
    )
    train, test, _ = load_folder(str(folder), SIZE)
    assert shades(train) == [40, 30, 10, 20] and shades(test) == [70, 80, 60, 50]
    assert told == [f"reading 8 images in {folder}, resized to 8x8"] + ["3 of 4 images read"] * 2
    load_folder(str(folder), SIZE)
    assert len(told) == 3


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


MISTAKES = {
    "no folder": (shutil.rmtree, "photos: no such folder"),
    "empty folder": (empty, "no folder train in it; expected train/CLASS/IMAGE"),
    "no train": (lambda f: shutil.rmtree(f / "train"), "no folder train in it"),
    "no test": (lambda f: shutil.rmtree(f / "test"), "no folder test in it"),
    "empty train": (lambda f: empty(f / "train"), "train is empty; it must have one folder"),
    "empty class": (
        lambda f: empty(f / "test" / "cat"),
        "test/cat is empty; each class needs an image",
    ),
    "hidden images only": (
        lambda f: (f / "train/ant/0.png").rename(f / "train/ant/.0.png"),
        "train/ant is empty; each class needs an image",
    ),
    "file among classes": (
        lambda f: (f / "train" / "labels.txt").write_text("x"),
        "train/labels.txt is not a folder; use one folder for each class",
    ),
    "nested folder": (
        lambda f: (f / "train" / "ant" / "more").mkdir(),
        "train/ant/more is a folder; put images directly into",
    ),
    "control character": (lambda f: (f / "train" / "a\nb").mkdir(), r"'a\nb': the name of a class"),
    "class only in train": (
        lambda f: shutil.rmtree(f / "test" / "ant"),
        "train and test must have the same classes: only train has ant",
    ),
    "classes differ": (
        lambda f: (f / "test" / "ant").rename(f / "test" / "Ant"),
        "only train has ant; only test has Ant",
    ),
    "many differ": (
        lambda f: [shutil.copytree(f / "test/ant", f / "test" / f"x{i}") for i in range(7)],
        "only test has x0, x1, x2, x3, x4 and 2 more",
    ),
    "broken link": (
        lambda f: (f / "train" / "ant" / "link.png").symlink_to(f / "none"),
        "cannot read",
    ),
    "text": (
        lambda f: (f / "train" / "ant" / "notes.txt").write_text("x"),
        "train/ant/notes.txt: cannot read it as an image: its format is not one of PNG, JPEG",
    ),
    "cut image": (
        lambda f: (f / "test/cat/0.png").write_bytes((f / "test/cat/0.png").read_bytes()[:45]),
        "test/cat/0.png: cannot read it as an image",
    ),
    "empty image": (
        lambda f: (f / "test" / "cat" / "0.png").write_bytes(b""),
        "test/cat/0.png: cannot read it as an image",
    ),
    "unknown scale": (
        lambda f: Image.new("F", (9, 9), 0.5).save(f / "train" / "cat" / "f.tiff"),
        "train/cat/f.tiff: cannot read it as an image: its pixels are floating-point numbers",
    ),
    "32 bits": (
        lambda f: Image.new("I", (9, 9), 2**20).save(f / "train" / "cat" / "i.tiff"),
        "train/cat/i.tiff: cannot read it as an image: its pixels have 32 bits",
    ),
    "32 bits, all of them dark": (
        lambda f: Image.new("I", (9, 9), 200).save(f / "train" / "cat" / "i.tiff"),
        "train/cat/i.tiff: cannot read it as an image: its pixels have 32 bits",
    ),
    "12 bits": (
        lambda f: save_12_bits(f / "train/cat/i.tiff"),
        "train/cat/i.tiff: cannot read it as an image: its pixels have 12 bits",
    ),
    "signed": (
        lambda f: save_tiff(f / "train/cat/i.tiff", "L", 200, SAMPLEFORMAT=2),
        "train/cat/i.tiff: cannot read it as an image: its pixels are signed numbers",
    ),
    "transparent color of 16 bits": (
        lambda f: Image.new("RGB", (9, 9)).save(f / "train/cat/i.png", transparency=(256, 0, 0)),
        "train/cat/i.png: cannot read it as an image: it has a transparent color of 16 bits",
    ),
    "pipe": (lambda f: os.mkfifo(f / "train/cat/i.png"), "train/cat/i.png is a pipe, a socket or"),
    "device": (
        lambda f: (f / "train/cat/i.png").symlink_to("/dev/zero"),
        "train/cat/i.png is a pipe, a socket or a device",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_wrong_folders_are_the_users_mistake_and_nothing_is_written(folder, name):
    spoil, words = MISTAKES[name]
    spoil(folder)
    before = sorted(folder.parent.rglob("*"))
    assert words in user_error(folder)
    assert sorted(folder.parent.rglob("*")) == before


def test_settings_that_are_missing(folder):
    assert "config.data.path is empty" in user_error("")
    for size in (0, -1):
        message = user_error(folder, size)
        assert f"config.data.image_size={size}:" in message and "such as 32" in message


def test_other_sources_do_not_resize():
    with pytest.raises(UserError, match=r"image_size=16: the images of digits are 8x8"):
        sources.load(DataSettings(name="digits", image_size=16))
    assert sources.load(DataSettings(name="digits", image_size=8)).num_classes == 10
