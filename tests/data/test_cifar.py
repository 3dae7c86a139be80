"""CIFAR in every form: the same images in the same order, and one line for what is damaged."""

import gzip
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cljax.data import cifar, cifar_files, plain_pickle, sources
from cljax.data.cifar_files import CIFAR
from cljax.errors import UserError
from cljax.settings import DataSettings
from tests.helpers import cifar_archives
from tests.helpers.cifar_archives import (
    Server,
    binary_files,
    pickled_files,
    write_archive,
    write_folder,
)

NAMES = "cifar10", "cifar100"


@pytest.fixture(autouse=True)
def fresh_machine(monkeypatch, tmp_path):
    """No images in the user's folders, and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


@pytest.fixture
def small(monkeypatch):
    """Makes a dataset have a few images in each file; (description, arrays)."""

    def make(name):
        made = cifar_archives.small(CIFAR[name])
        monkeypatch.setitem(CIFAR, name, made)
        return made, cifar_archives.random_arrays(made)

    return make


def load(name, directory="", url=""):
    return sources.load(DataSettings(name=name, dir=str(directory), url=url))


def assert_same(dataset, arrays):
    for split in ("train", "test"):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        np.testing.assert_array_equal(images, arrays[f"{split}_images"])
        np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert dataset.class_names == tuple(arrays["names"])
    assert dataset.mean == sources.PUBLISHED_MOMENTS[dataset.name][0]


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("kind", ["binary", "pickled"])
@pytest.mark.parametrize("name", NAMES)
def test_local_forms(small, tmp_path, name, kind, write):
    made, arrays = small(name)
    files = {"binary": binary_files, "pickled": pickled_files}[kind](made, arrays)
    path = write(tmp_path, getattr(made, kind), files)
    assert_same(load(name, tmp_path), arrays)
    if path.is_dir():  # or the folder itself
        assert_same(load(name, path), arrays)


def test_the_name_that_a_folder_may_have_besides(small, tmp_path):
    made, arrays = small("cifar10")
    write_folder(tmp_path, made.binary, binary_files(made, arrays)).rename(
        tmp_path / "cifar-10-binary"
    )
    assert_same(load("cifar10", tmp_path), arrays)


def test_local_files_are_decoded_once_until_they_change(small, tmp_path, monkeypatch):
    made, arrays = small("cifar100")
    folder = write_folder(tmp_path, made.binary, binary_files(made, arrays))
    reads, read = [], cifar_files.read
    monkeypatch.setattr(cifar_files, "read", lambda *args: reads.append(1) or read(*args))
    for _ in range(2):
        assert_same(load("cifar100", tmp_path), arrays)
    assert len(reads) == 1
    other = cifar_archives.random_arrays(made, seed=1)
    for file, content in binary_files(made, other).items():
        (folder / file).write_bytes(content)
    assert_same(load("cifar100", tmp_path), other)


@pytest.mark.parametrize("name", NAMES)
def test_download_into_the_users_cache_folder(small, tmp_path, monkeypatch, name):
    made, arrays = small(name)
    (tmp_path / "served").mkdir()
    archive = write_archive(tmp_path / "served", made.binary, binary_files(made, arrays))
    with Server(tmp_path / "served") as server:
        remote = cifar_archives.remote(archive, server.url)
        monkeypatch.setitem(CIFAR, name, replace(made, remote=remote))
        assert_same(load(name), arrays)
        assert (tmp_path / "cache" / "cljax" / "downloads" / archive.name).is_file()
        assert len(server.requests) == 1
    shutil.rmtree(tmp_path / "cache" / "cljax" / "downloads")
    assert_same(load(name), arrays)  # decoded images are there without archive and server


@pytest.mark.parametrize("whole", [True, False])
def test_mirror_and_directory_of_the_download(small, tmp_path, monkeypatch, whole):
    made, arrays = small("cifar100")
    (tmp_path / "served").mkdir()
    (tmp_path / "here").mkdir()
    archive = write_archive(tmp_path / "served", made.binary, binary_files(made, arrays))
    with Server(tmp_path / "served") as server:
        remote = cifar_archives.remote(archive, "http://no-such-host.invalid")
        monkeypatch.setitem(CIFAR, "cifar100", replace(made, remote=remote))
        url = f"{server.url}/{archive.name}" if whole else f"{server.url}/"
        assert_same(load("cifar100", tmp_path / "here", url), arrays)
    assert (tmp_path / "here" / archive.name).is_file()


def test_without_network_the_line_says_how_to_bring_the_file(tmp_path):
    with pytest.raises(UserError) as error:
        load("cifar100", url="http://127.0.0.1:9")
    downloads = tmp_path / "cache" / "cljax" / "downloads"
    for words in (
        "cannot download http://127.0.0.1:9/cifar-100-binary.tar.gz: Connection refused",
        f"put cifar-100-binary.tar.gz into {downloads} by hand",
        "--config.data.dir",
        "--config.data.url",
    ):
        assert words in str(error.value)


def test_a_missing_directory_is_not_made(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.dir=.*none: no such directory"):
        load("cifar100", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_mirror_of_other_data_is_refused():
    with pytest.raises(UserError, match=r"config\.data\.url=x: .*only cifar10, cifar100"):
        load("digits", url="x")


def cut(content):
    return content[:-1]


def spoil_label(content):
    return bytes([255, 255]) + content[2:]


BINARY_HARM = {
    "short": ("train.bin", cut, "train.bin has 61,479 bytes; expected 61,480"),
    "long": ("test.bin", lambda content: content * 2, "test.bin has 122,960 bytes"),
    "label": ("train.bin", spoil_label, "train.bin holds label 255; expected 0 to 99"),
    "names": ("fine_label_names.txt", lambda _: b"apple", "does not hold 100 class names"),
    "no text": ("fine_label_names.txt", lambda _: b"\xff " * 100, "can't decode byte 0xff"),
}


@pytest.mark.parametrize("write", [write_folder, write_archive])
@pytest.mark.parametrize("harm", BINARY_HARM)
def test_damaged_binary_files(small, tmp_path, harm, write):
    made, arrays = small("cifar100")
    files = binary_files(made, arrays)
    file, damage, words = BINARY_HARM[harm]
    files[file] = damage(files[file])
    path = write(tmp_path, made.binary, files)
    with pytest.raises(UserError, match=f"cannot read {path} as CIFAR: .*{words}"):
        load("cifar100", tmp_path)


def test_missing_files(small, tmp_path):
    made, arrays = small("cifar100")
    files = binary_files(made, arrays)
    del files["test.bin"]
    folder = write_folder(tmp_path, made.binary, files)
    with pytest.raises(UserError, match=f"cannot read {folder}/test.bin: No such file"):
        load("cifar100", tmp_path)
    shutil.rmtree(folder)
    write_archive(tmp_path, made.binary, files)
    with pytest.raises(UserError, match=r"it does not hold cifar-100-binary/test\.bin"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-100], "(ended before|unexpected end)"),
        (lambda content: content[:-8] + bytes(8), "CRC check failed"),
        (lambda content: b"<html>", "Not a gzipped file"),
        (lambda content: gzip.compress(b"x" * 5000), "as CIFAR"),
    ],
)
def test_damaged_archives(small, tmp_path, damage, words):
    made, arrays = small("cifar100")
    path = write_archive(tmp_path, made.binary, binary_files(made, arrays))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"cannot read {path}.*{words}"):
        load("cifar100", tmp_path)


def test_an_archive_that_unpacks_to_too_much(small, tmp_path, monkeypatch):
    made, arrays = small("cifar100")
    write_archive(tmp_path, made.binary, binary_files(made, arrays))
    monkeypatch.setattr(cifar_files, "_MAX_BYTES", 1000)
    with pytest.raises(UserError, match="it unpacks to more bytes than CIFAR has"):
        load("cifar100", tmp_path)


class Trap:
    """Would make a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_nothing_is_run_by_a_pickle(small, tmp_path):
    made, arrays = small("cifar100")
    files = pickled_files(made, arrays)
    files["train"] = pickle.dumps({b"data": Trap(tmp_path / "sprung")})
    write_folder(tmp_path, made.pickled, files)
    with pytest.raises(UserError, match=r"it holds (posix|nt)\.mkdir; expected only arrays"):
        load("cifar100", tmp_path)
    assert not (tmp_path / "sprung").exists()


ARRAY = cifar_archives.python2_pickle(
    {b"data": cifar_archives._Python2Array(np.arange(6, dtype=np.uint8))}
)
PICKLES = {
    "empty": (b"", "damaged"),
    "cut": (ARRAY[:-20], "damaged|truncated"),
    "not one": (b"hello", "Memo value not found"),
    "object": (pickle.dumps(np.random.RandomState), "it holds numpy.random"),
    "built-in": (b"cbuiltins\neval\n(S'1'\ntR.", "it holds builtins.eval"),
    "persistent": (b"Pid\n.", "refers to another file"),
    "called dtype": (b"cnumpy\nndarray\n(tR.", "damaged: TypeError"),
    "floats": (ARRAY.replace(b"u1", b"f4"), "an array is not of bytes"),
    "shape": (ARRAY.replace(b"K\x06\x85", b"K\x07\x85"), "shape and content do not agree"),
    "no state": (b"}S'data'\ncnumpy.core.multiarray\n_reconstruct\n)Rs.", "without its content"),
    "deep": (b"]" * 200_000 + b"a" * 199_999 + b".", None),
}


@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles(tmp_path, name):
    content, words = PICKLES[name]
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        if words is None:  # only lists: harmless
            assert isinstance(plain_pickle.load(file), list)
            return
        with pytest.raises(ValueError, match=words):
            plain_pickle.load(file)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_a_pickle(tmp_path, order):
    # As Python 3 writes them, with the two ways to name NumPy's module.
    array = np.asarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), order=order)
    written = pickle.dumps({b"data": array, b"labels": [1, 2], b"name": b"x"}, protocol=4)
    for content in (written, written.replace(b"numpy._core", b"numpy.core ")):
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as file:
            try:
                found = plain_pickle.load(file)
            except ValueError as error:
                assert "numpy.core " in str(error)
                continue
        np.testing.assert_array_equal(found[b"data"], array)
        assert found[b"labels"] == [1, 2] and found[b"name"] == b"x"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
def test_tfds_and_archives_hold_the_same_images_in_the_same_order(tfds_dir, tmp_path, name):
    """TFDS shuffles the images and keeps each one's place in the archive as its id."""
    prepared = load(name, tfds_dir)
    arrays = {"names": np.array(prepared.class_names)}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = getattr(prepared, f"{split}_images")
        arrays[f"{split}_labels"] = getattr(prepared, f"{split}_labels")
        arrays[f"{split}_coarse"] = np.zeros(len(arrays[f"{split}_labels"]), np.int32)
    write_folder(tmp_path, CIFAR[name].binary, binary_files(CIFAR[name], arrays))
    assert_same(load(name, tmp_path), arrays)

    import tensorflow_datasets as tfds

    source = tfds.builder(name, data_dir=str(tfds_dir)).as_data_source(split="test")
    for example in source.__getitems__([0, 17, 4711, 9999]):
        place = int(example["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(prepared.test_images[place], example["image"])
        assert prepared.test_labels[place] == example["label"]


def test_what_needs_tensorflow_to_be_read_is_not_taken(small, tmp_path):
    made, arrays = small("cifar10")
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    about = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
    about.write_text('{"fileFormat": "tfrecord"}')
    write_folder(tmp_path, made.binary, binary_files(made, arrays))
    assert_same(load("cifar10", tmp_path), arrays)


@pytest.mark.slow
@pytest.mark.real_data
def test_what_tfds_has_prepared_is_not_downloaded(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    assert cifar.load_cifar("cifar10", "", "http://127.0.0.1:9")[0][0].shape == (50_000, 32, 32, 3)
