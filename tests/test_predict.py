"""python -m cljax.predict: images of any size and mode, and what it answers to others."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cljax
from cljax import predict
from cljax.data import folder_source, preprocessing
from cljax.data.decode import read_rgb
from cljax.saved import images as images_lib
from cljax.state import Canvases
from tests.helpers import folders, saved


def predicted(capsys, *argv):
    saved.call(predict, *argv, "--json")
    return json.loads(capsys.readouterr().out)


def test_the_runs_own_images(reference, tmp_path, capsys):
    images = saved.digits().test_images[:5]
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number}.png")
    model = cljax.load(reference)
    found = predicted(capsys, reference, tmp_path, "--top_k=3")
    assert [row["image"] for row in found] == [str(tmp_path / f"{n}.png") for n in range(5)]
    shares = model.probabilities(images)
    for row, of_image, label in zip(found, shares, model.rank(images)[:, 0], strict=True):
        first, second, third = row["predictions"]
        assert (first["class"], first["class_id"]) == (model.classes[label], model.class_ids[label])
        assert first["probability"] >= second["probability"] >= third["probability"]
        assert first["probability"] == pytest.approx(of_image[label], abs=1e-6)


def test_lines(reference, tmp_path, capsys):
    Image.new("L", (8, 8), 100).save(path := tmp_path / "a b.png")
    saved.call(predict, reference, path, "--top_k=1", "--task=1")
    model = cljax.load(reference, 1)
    images = np.full((1, 8, 8, 1), 100, np.uint8)
    share = 100 * model.probabilities(images).max()
    line = f"{path}: {model.predict(images)[0]} {share:.1f} %"
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_sizes_and_modes(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 255 * 257, np.uint16))
    else:
        image = Image.new("RGB", (30, 20), "white").convert(mode)
    image.save(path := tmp_path / f"image{suffix}")
    for channels in (1, 3):
        found = images_lib.read_images([path], (6, 6, channels))
        np.testing.assert_array_equal(found, np.full((1, 6, 6, channels), 255, np.uint8))


def test_as_a_folder_is_read(tmp_path):
    """Other sides are cut to the center and resized as `data.name=folder` does."""
    root = folders.make(tmp_path / "images")
    (train, _), _, _ = folder_source.load_folder(str(root), 8)
    noise = np.random.default_rng(0).integers(0, 256, (21, 37, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    files = [*images_lib.list_files([root / "train" / "Bee", root / "train" / "ant"])]
    np.testing.assert_array_equal(images_lib.read_images(files, (8, 8, 3)), train[:2])
    own = folder_source._read_image(tmp_path / "noise.png", 8)
    np.testing.assert_array_equal(
        images_lib.read_images([tmp_path / "noise.png"], (8, 8, 3)), own[None]
    )


def test_as_imagenet_is_read(tmp_path):
    """On canvases, then resized and cut in the same way as test images."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    (tmp_path / "b").mkdir()
    files = [tmp_path / "a.png", tmp_path / "b" / "c.png"]
    for file in files:
        Image.fromarray(noise).save(file)
    found = images_lib.read_images(files, (16, 16, 3), 16)
    canvas = np.zeros((1, 512, 512, 3), np.uint8)
    canvas[0, :50, :40] = np.asarray(read_rgb(files[0], files[0]))
    own = preprocessing.center(Canvases(jnp.asarray(canvas), jnp.array([[50, 40]])), 16)
    np.testing.assert_array_equal(found, np.concatenate([own, own]))


def text(path):
    path.write_text("no image")


def truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)).save(path)
    os.truncate(path, 300)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text, "cannot read it as an image"),
        (truncated, "cannot read it as an image"),
        (os.mkfifo, "not a plain file"),
        (lambda path: None, "No such file"),
        (os.mkdir, "is empty"),
    ],
)
def test_what_is_no_image(reference, tmp_path, capsys, make, words):
    make(path := tmp_path / "image.png")
    with pytest.raises(SystemExit) as ended:
        saved.call(predict, reference, path)
    printed = capsys.readouterr()
    assert ended.value.code == 1 and not printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and str(path) in line and words in line


def test_no_classes(reference, tmp_path, capsys):
    with pytest.raises(SystemExit):
        saved.call(predict, reference, tmp_path, "--top_k=0")
    assert capsys.readouterr().err == "error: --top_k=0: must be 1 or more\n"
