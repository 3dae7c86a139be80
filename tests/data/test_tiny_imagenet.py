"""Tiny-ImageNet in both forms: the same images in the same order, and one line for damage."""

import io
import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from cljax.data import sources, tiny_imagenet, tiny_imagenet_files
from cljax.errors import UserError
from cljax.settings import DataSettings
from tests.helpers import cifar_archives
from tests.helpers.cifar_archives import Server
from tests.helpers.tiny_imagenet import ROOT, jpeg, make_files, write_archive, write_folder

FORMS = pytest.mark.parametrize("write", [write_folder, write_archive])


@pytest.fixture(autouse=True)
def fresh_machine(monkeypatch, tmp_path):
    """No images in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(directory="", url=""):
    return sources.load(DataSettings(name="tiny_imagenet", dir=str(directory), url=url))


def pixels(files, names):
    images = [Image.open(io.BytesIO(files[name])).convert("RGB") for name in names]
    return np.stack([np.asarray(image) for image in images])


def assert_holds(dataset, files):
    """The dataset is that of `make_files`, with these files' pixels."""
    classes, numbers = ("n01", "n02", "n03"), (0, 1, 10, 2)
    train = [f"train/{name}/images/{name}_{number}.JPEG" for name in classes for number in numbers]
    test = [f"val/images/val_{number}.JPEG" for number in (10, 11, 12, 13, 8, 9)]
    np.testing.assert_array_equal(dataset.train_images, pixels(files, train))
    np.testing.assert_array_equal(dataset.test_images, pixels(files, test))
    assert dataset.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    for array, dtype in ((dataset.train_images, np.uint8), (dataset.train_labels, np.int32)):
        assert array.dtype == dtype
    assert dataset.class_names == ("goldfish", "Egyptian cat", "reel")
    assert (dataset.mean, dataset.std) == sources.PUBLISHED_MOMENTS["tiny_imagenet"]


@FORMS
def test_both_forms(tmp_path, write):
    files = make_files()
    path = write(tmp_path, files)
    assert_holds(load(tmp_path), files)
    if path.is_dir():  # or the folder itself
        assert_holds(load(path), files)


def test_gray_images_have_three_equal_channels(tmp_path):
    write_archive(tmp_path, make_files())
    images = load(tmp_path).train_images
    gray = (images == images[..., :1]).all((1, 2, 3))
    assert gray.tolist() == [True, False, False, False] * 3


def test_what_else_lies_in_a_folder_is_not_read(tmp_path):
    files = make_files()
    strange = {"train/n01/images/._n01_0.JPEG": b"", "train/n01/images/Thumbs.db": b""}
    write_folder(tmp_path, files | strange)
    assert_holds(load(tmp_path), files)


def test_a_class_without_words_has_its_id_as_name(tmp_path):
    files = make_files()
    files["words.txt"] = b"n01\tgold\x1bfish\nn02\tEgyptian cat"
    write_archive(tmp_path, files)
    assert load(tmp_path).class_names == ("n01", "Egyptian cat", "n03")


@FORMS
def test_images_are_decoded_once_until_they_change(tmp_path, monkeypatch, write):
    reads, read = [], tiny_imagenet_files.read
    monkeypatch.setattr(tiny_imagenet_files, "read", lambda path: reads.append(path) or read(path))
    for seed, count in ((0, 1), (0, 1), (99, 2)):  # the last has the same sizes and times
        image = jpeg(seed).ljust(8000, b"\0")
        files = make_files() | {"train/n01/images/n01_0.JPEG": image}
        path = write(tmp_path, files)
        for inner in (path, *path.rglob("*")):
            os.utime(inner, (1, 1))
        assert_holds(load(tmp_path), files)
        assert len(reads) == count


def test_a_part_is_said_to_be_one(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    path = write_archive(tmp_path, make_files())
    load(tmp_path)
    assert f"{path} holds a part: 12 training and 6 test images" in caplog.text
    caplog.clear()
    monkeypatch.setattr(tiny_imagenet, "NUM_TRAIN", 12)
    monkeypatch.setattr(tiny_imagenet, "NUM_TEST", 6)
    load(tmp_path)
    assert "holds a part" not in caplog.text


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server that has the archive, and its address in the place of the authors' one."""
    (tmp_path / "served").mkdir()
    archive = write_archive(tmp_path / "served", make_files())
    with Server(tmp_path / "served") as server:
        monkeypatch.setattr(tiny_imagenet, "REMOTE", cifar_archives.remote(archive, server.url))
        yield server


def test_download_into_the_users_cache_folder(served, tmp_path):
    assert_holds(load(), make_files())
    downloads = tmp_path / "cache" / "cljax" / "downloads"
    assert [path.name for path in downloads.glob("*.zip")] == [f"{ROOT}.zip"]
    shutil.rmtree(downloads)
    assert_holds(load(), make_files())  # decoded images are there without archive and server
    assert len(served.requests) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_mirror_and_directory_of_the_download(served, tmp_path, monkeypatch, whole):
    content = tmp_path / "served" / f"{ROOT}.zip"
    remote = cifar_archives.remote(content, "http://no-such-host.invalid")
    monkeypatch.setattr(tiny_imagenet, "REMOTE", remote)
    (tmp_path / "here").mkdir()
    url = f"{served.url}/{ROOT}.zip" if whole else f"{served.url}/"
    assert_holds(load(tmp_path / "here", url), make_files())
    assert (tmp_path / "here" / f"{ROOT}.zip").is_file()


def test_a_download_with_another_sum_is_refused(served, tmp_path):
    archive = tmp_path / "served" / f"{ROOT}.zip"
    archive.write_bytes(bytes(archive.stat().st_size))
    with pytest.raises(UserError, match="another SHA-256 sum"):
        load()
    assert not [*(tmp_path / "cache").rglob("*.zip")]


def test_without_network_the_line_says_how_to_bring_the_file(tmp_path):
    with pytest.raises(UserError) as error:
        load(url="http://127.0.0.1:9")
    downloads = tmp_path / "cache" / "cljax" / "downloads"
    for words in (
        "cannot download http://127.0.0.1:9/tiny-imagenet-200.zip: Connection refused",
        f"put tiny-imagenet-200.zip into {downloads} by hand",
        "--config.data.dir",
        "--config.data.url",
    ):
        assert words in str(error.value)


def test_a_missing_directory_is_not_made(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.dir=.*none: no such directory"):
        load(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def fails(directory, path, words):
    """Loading gives one line about a path that has the words, and nothing is cached."""
    with pytest.raises(UserError) as error:
        load(directory)
    message = str(error.value)
    assert message.startswith(f"cannot read {path}") and "\n" not in message, message
    assert words in message, message
    assert not [*directory.rglob("*.npz")]


IMAGE = "train/n02/images/n02_0.JPEG"
ANNOTATIONS = "val/val_annotations.txt"
HARM = {
    "not an image": (IMAGE, b"<html>", f"{IMAGE} is not a JPEG image"),
    "another format": (IMAGE, b"GIF89a" + bytes(50), f"{IMAGE} is not a JPEG image"),
    "cut image": (IMAGE, jpeg(0)[:-300], f"{IMAGE}: image file is truncated"),
    "empty image": (IMAGE, b"", f"{IMAGE} is not a JPEG image"),
    "large image": (IMAGE, jpeg(0, size=(65, 64)), f"{IMAGE}: it has 65x64 pixels; expected 64x64"),
    "no classes": ("wnids.txt", b"", "wnids.txt holds something else than WordNet ids"),
    "path as class": ("wnids.txt", b"../n01", "wnids.txt holds something else than WordNet ids"),
    "no text": ("words.txt", b"n01\t\xff", "can't decode byte 0xff"),
    "no annotations": (ANNOTATIONS, b"", "val has no image of n01"),
    "unknown class": (ANNOTATIONS, b"val_8.JPEG\tn09\t0", r"holds the line 'val_8.JPEG\tn09\t0'"),
    "path as image": (ANNOTATIONS, b"../val_8.JPEG\tn01", "holds the line '../val_8.JPEG"),
    "no class": (ANNOTATIONS, b"val_8.JPEG", "expected an image and its class"),
}


@FORMS
@pytest.mark.parametrize("harm", HARM)
def test_damaged_files(tmp_path, harm, write):
    name, content, words = HARM[harm]
    path = write(tmp_path, make_files() | {name: content})
    fails(tmp_path, path, words)


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", ANNOTATIONS, "val/images/val_9.JPEG"])
def test_missing_files(tmp_path, name):
    files = make_files()
    del files[name]
    folder = write_folder(tmp_path, files)
    fails(tmp_path, folder / name, "No such file or directory")
    shutil.rmtree(folder)
    path = write_archive(tmp_path, files)
    fails(tmp_path, path, f"it does not hold {ROOT}/{name}")


def test_a_class_without_training_images(tmp_path):
    files = {name: content for name, content in make_files().items() if "train/n02" not in name}
    folder = write_folder(tmp_path, files)
    fails(tmp_path, folder / "train/n02/images", "No such file or directory")
    (folder / "train/n02/images").mkdir(parents=True)
    fails(tmp_path, folder, "train has no image of n02")
    shutil.rmtree(folder)
    fails(tmp_path, write_archive(tmp_path, files), "train has no image of n02")


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = write_folder(tmp_path, make_files())
    (folder / "wnids.txt").unlink()
    os.mkfifo(folder / "wnids.txt")
    fails(tmp_path, folder / "wnids.txt", "not a plain file")


def flip(content):
    """Changes a byte of an image's data."""
    place = content.index(b"JFIF") + 300
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "Bad CRC-32 for file"),
        (lambda content: content[:-100], "File is not a zip file"),
        (lambda content: content[1000:], "Invalid argument"),  # seeks before the start
        (lambda content: b"<html>", "File is not a zip file"),
        (lambda content: b"", "File is not a zip file"),
    ],
)
def test_damaged_archives(tmp_path, damage, words):
    path = write_archive(tmp_path, make_files())
    path.write_bytes(damage(path.read_bytes()))
    fails(tmp_path, path, words)


HOSTILE = {
    "outside": ({"root": "../tiny-imagenet-200"}, "which lies outside tiny-imagenet-200"),
    "back out": ({"root": "tiny-imagenet-200/.."}, "which lies outside tiny-imagenet-200"),
    "absolute": ({"root": "/tiny-imagenet-200"}, "which lies outside tiny-imagenet-200"),
    "encrypted": ({"flag_bits": 1}, "wnids.txt is encrypted"),
    "bomb": ({"file_size": 2**40}, "wnids.txt unpacks to 1,099,511,627,776 bytes"),
    "hidden bomb": ({"file_size": 4}, "Bad CRC-32 for file"),
    "compression": ({"compress_type": zipfile.ZIP_LZMA}, "is neither stored nor deflated"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives(tmp_path, kind):
    details, words = HOSTILE[kind]
    path = write_archive(tmp_path, make_files(), **details)
    fails(tmp_path, path, words)
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "cache"}


@pytest.mark.slow
@pytest.mark.real_data
def test_real_images(tiny_imagenet_dir, tmp_path):
    """The archive and the folder that unzip makes of it hold the same."""
    packed = load(tiny_imagenet_dir)
    assert packed.train_images.shape[1:] == packed.test_images.shape[1:] == (64, 64, 3)
    for labels in (packed.train_labels, packed.test_labels):
        assert len({*np.bincount(labels).tolist()}) == 1 and labels.max() == 199
    assert packed.class_names[:2] == ("goldfish", "European fire salamander")
    assert len({*packed.class_names}) == 200
    # Moments of all training images, of which these may be a part, from the code of R-DFCIL. The
    # constants of the ABD code, which a run uses, are not those of these pixels.
    mean, std = sources._pixel_moments(packed.train_images)
    np.testing.assert_allclose(mean, (0.4803, 0.4481, 0.3976), atol=5e-3)
    np.testing.assert_allclose(std, (0.2764, 0.2688, 0.2816), atol=5e-3)

    with zipfile.ZipFile(tiny_imagenet_dir / f"{ROOT}.zip") as archive:
        archive.extractall(tmp_path)
    unpacked = load(tmp_path)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(unpacked, name), getattr(packed, name))
    assert unpacked.class_names == packed.class_names
