"""Data sets: what is read, and that every unusable input gives one clear line."""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cljax.data import sources
from cljax.data.sources import load
from cljax.errors import UserError
from cljax.settings import DataSettings


def make_config(**changes):
    return DataSettings(**{"name": "digits"} | changes)


def user_error(**changes):
    """The one line that loading such a config gives."""
    with pytest.raises(UserError) as error:
        load(make_config(**changes))
    message = str(error.value)
    assert message and "\n" not in message
    return message


def make_arrays(num_classes=3, size=(4, 5, 3)):
    rng = np.random.default_rng(0)
    return dict(
        x_train=rng.integers(0, 256, (4 * num_classes, *size)).astype(np.uint8),
        y_train=rng.permutation(np.repeat(np.arange(num_classes), 4)),
        x_test=rng.integers(0, 256, (2 * num_classes, *size)).astype(np.uint8),
        y_test=rng.permutation(np.repeat(np.arange(num_classes), 2)),
    )


@pytest.fixture
def npz(tmp_path):
    """A function that writes arrays, some of them replaced, and returns the path."""

    def write(**changes):
        path = tmp_path / "set.npz"
        np.savez(path, **(make_arrays() | changes))
        return str(path)

    return write


def test_digits_are_scikit_learns_with_every_fifth_of_a_class_for_test():
    dataset = load(make_config())
    digits = load_digits()
    train, test = [], []
    for label in range(10):
        for rank, index in enumerate(np.flatnonzero(digits.target == label)):
            (test if rank % 5 == 4 else train).append(index)
    for part, images, labels in (
        (sorted(train), dataset.train_images, dataset.train_labels),
        (sorted(test), dataset.test_images, dataset.test_labels),
    ):
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.shape == (len(part), 8, 8, 1)
        np.testing.assert_array_equal(labels, digits.target[part])
        error = images[..., 0] / 255 - digits.images[part] / 16
        assert abs(error).max() <= 0.5 / 255 + 1e-12
    assert (len(train), len(test)) == (1442, 355)
    assert (dataset.train_images.min(), dataset.train_images.max()) == (0, 255)
    assert (dataset.name, dataset.num_classes) == ("digits", 10)
    assert dataset.class_names == tuple("0123456789")


def test_moments_are_measured_on_all_training_images():
    dataset = load(make_config())
    pixels = dataset.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(dataset.std, [pixels.std()], rtol=1e-12)
    few = load(make_config(per_class=2))
    assert (few.mean, few.std) == (dataset.mean, dataset.std)


def test_per_class_keeps_the_first_training_images_of_every_class():
    full, few = load(make_config()), load(make_config(per_class=3))
    kept = np.sort(np.concatenate([np.flatnonzero(full.train_labels == c)[:3] for c in range(10)]))
    np.testing.assert_array_equal(few.train_labels, full.train_labels[kept])
    np.testing.assert_array_equal(few.train_images, full.train_images[kept])
    np.testing.assert_array_equal(few.test_images, full.test_images)
    np.testing.assert_array_equal(few.test_labels, full.test_labels)
    assert len(load(make_config(per_class=10**6)).train_labels) == len(full.train_labels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("label_type", [np.int64, np.uint8])
def test_npz_comes_back_as_written(npz, channels, label_type):
    arrays = make_arrays(size=(4, 5, channels))
    arrays |= {key: arrays[key].astype(label_type) for key in ("y_train", "y_test")}
    path = npz(**arrays)
    dataset = load(make_config(name="npz", path=path))
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(dataset, f"{split}_images"), arrays[f"x_{split}"])
        np.testing.assert_array_equal(getattr(dataset, f"{split}_labels"), arrays[f"y_{split}"])
        assert getattr(dataset, f"{split}_labels").dtype == np.int32
    pixels = arrays["x_train"].reshape(-1, channels) / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-12)
    assert all(type(value) is float for value in dataset.mean + dataset.std)
    assert dataset.class_names == ("0", "1", "2")


def test_constant_channels_have_deviation_one(npz):
    images = make_arrays()["x_train"]
    images[..., 1] = 77
    dataset = load(make_config(name="npz", path=npz(x_train=images)))
    assert dataset.std[1] == 1.0 and dataset.mean[1] == pytest.approx(77 / 255, abs=1e-15)
    assert 0 < dataset.std[0] < 1


IMAGES = make_arrays()["x_train"]
LABELS = make_arrays()["y_train"]
BAD_ARRAYS = {
    "float images": (dict(x_train=IMAGES / 255), "x_train is float64 [12, 4, 5, 3]"),
    "signed images": (dict(x_test=IMAGES[:6].astype(np.int8)), "x_test is int8"),
    "flat images": (dict(x_train=IMAGES.reshape(12, -1)), "x_train is uint8 [12, 60]"),
    "channels first": (dict(x_train=IMAGES.transpose(0, 3, 1, 2)), "x_train is uint8 [12, 3, 4"),
    "two channels": (dict(x_train=IMAGES[..., :2]), "with C 1 or 3"),
    "other size in test": (dict(x_test=IMAGES[:6, :3]), "[4, 5, 3] in x_train and [3, 5, 3]"),
    "grey test images": (dict(x_test=IMAGES[:6, ..., :1]), "[4, 5, 1] in x_test"),
    "no training images": (dict(x_train=IMAGES[:0], y_train=LABELS[:0]), "at least one image"),
    "no test images": (dict(x_test=IMAGES[:0], y_test=LABELS[:0]), "x_test is uint8 [0, 4, 5, 3]"),
    "no pixels": (dict(x_train=IMAGES[:, :0]), "x_train is uint8 [12, 0, 5, 3]"),
    "float labels": (dict(y_train=LABELS / 1), "y_train is float64 [12]"),
    "boolean labels": (dict(y_train=LABELS > 1), "y_train is bool [12]"),
    "text labels": (dict(y_train=LABELS.astype(str)), "y_train is <U"),
    "column labels": (dict(y_train=LABELS[:, None]), "y_train is int64 [12, 1]"),
    "too few labels": (dict(y_train=LABELS[:-1]), "y_train is int64 [11]"),
    "too many test labels": (dict(y_test=LABELS), "y_test is int64 [12]"),
    "negative label": (dict(y_train=LABELS - 1), "y_train holds label -1"),
    "labels from one": (dict(y_train=LABELS + 1), "y_train has no image of class 0"),
    "gap in labels": (dict(y_train=LABELS * 2), "y_train has no image of class 1; expected every"),
    "huge label": (dict(y_train=LABELS * 10**12), "y_train has no image of class 1"),
    "test label too large": (dict(y_test=np.array([0, 1, 2, 3, 0, 1])), "y_test holds label 3"),
    "negative test label": (dict(y_test=np.array([0, 1, 2, -1, 0, 1])), "y_test holds label -1"),
    "class not in test": (dict(y_test=np.array([0, 2, 2, 0, 0, 2])), "y_test has no image of cl"),
    "last class not in test": (dict(y_test=np.array([0, 1] * 3)), "no image of class 2"),
    "pickled labels": (dict(y_train=LABELS.astype(object)), "cannot read y_train"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_npz_arrays_are_the_users_mistakes(npz, case):
    changes, complaint = BAD_ARRAYS[case]
    path = npz(**changes)
    message = user_error(name="npz", path=path)
    assert complaint in message and path in message


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_npz_keys_are_named(tmp_path, key):
    arrays = make_arrays()
    del arrays[key]
    np.savez(tmp_path / "set.npz", **arrays)
    message = user_error(name="npz", path=str(tmp_path / "set.npz"))
    assert f"no {key};" in message and f"found {', '.join(arrays)}" in message


def test_bad_npz_files_are_the_users_mistakes(npz, tmp_path):
    path = npz()
    assert "config.data.path is empty" in user_error(name="npz")
    assert "no such file" in user_error(name="npz", path=path + "x")
    assert "no such file" in user_error(name="npz", path=str(tmp_path))
    (tmp_path / "text.npz").write_text("not a zip")
    np.save(tmp_path / "array.npy", IMAGES)
    for name in ("text.npz", "array.npy"):
        assert "not an .npz archive" in user_error(name="npz", path=str(tmp_path / name))
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "damaged.npz").write_bytes(content)
    assert "cannot read x_train" in user_error(name="npz", path=str(tmp_path / "damaged.npz"))
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    assert "not an .npz archive" in user_error(name="npz", path=str(tmp_path / "cut.npz"))


def test_zip_members_that_are_no_arrays_are_the_users_mistake(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(key, b"plain bytes")
    assert "x_train is not an array" in user_error(name="npz", path=str(tmp_path / "set.npz"))


def header(shape, dtype="|u1"):
    """A member of an archive that claims such an array and holds 64 bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return file.getvalue() + bytes(64)


def set_in_zip_headers(path, offset_in_directory, offset_in_member, value):
    """Sets a field of every member of an archive: in its directory and before the member."""
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\1\2", offset_in_directory), (b"PK\3\4", offset_in_member)):
        place = content.find(mark)
        while place >= 0:
            content[place + offset] = value
            place = content.find(mark, place + 4)
    path.write_bytes(content)


HOSTILE = {
    "encrypted": (lambda p: set_in_zip_headers(p, 8, 6, 1), "'x_train.npy' is encrypted"),
    "compression": (lambda p: set_in_zip_headers(p, 10, 8, 99), "compression method is not"),
    "terabytes": (header((10**12,)), "it has 64 of the 1000000000000 bytes of uint8"),
    "more than all": (header((10**30,)), "it has 64 of the 1000000000000000000000000000000"),
    "negative": (header((-1, 4)), "cannot read x_train"),
    "boolean": (header((True, 64)), "cannot read x_train"),
    "wide": (header((64,), "|V1000000000"), "it has 64 of the 64000000000 bytes"),
    "objects": (header((8,), "|O"), "it holds objects"),
    "version": (b"\x93NUMPY\x09\x00\x04\x00[1]\n", "version (9, 0)"),
    "nested": (b"\x93NUMPY\x01\x00\x28\x23" + b"(" * 9000, "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_the_users_mistake_and_take_no_memory(npz, tmp_path, case):
    change, words = HOSTILE[case]
    path = Path(npz())
    if callable(change):
        change(path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for key in ("x_train", "y_train", "x_test", "y_test"):
                archive.writestr(f"{key}.npy", change)
    message = user_error(name="npz", path=str(path))
    assert f"{path}: cannot read x_train" in message and words in message


@pytest.mark.parametrize("kind", ["pipe", "device", "too long", "NUL"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "set.npz"
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "device":
        path.symlink_to("/dev/zero")
    path = {"too long": "x" * 5000, "NUL": "a\0b"}.get(kind, str(path))
    assert "no such file" in user_error(name="npz", path=path)


def test_unknown_names_are_the_users_mistake(tmp_path):
    message = user_error(name="cifar_100", dir=str(tmp_path))
    assert "config.data.name=cifar_100" in message and "did you mean cifar100?" in message
    message = user_error(name="quite_another_thing", dir=str(tmp_path))
    assert "config.data.name=quite_another_thing: unknown" in message
    assert "../x" in user_error(name="../x", dir=str(tmp_path))
    assert "cifar10:1.0.0" in user_error(name="cifar10:1.0.0", dir=str(tmp_path))


def test_unprepared_sets_name_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = user_error(name="imagenet_resized/64x64", dir=str(tmp_path / "absent"))
    assert str(tmp_path / "absent") in message
    assert "--config.data.dir" in message and "imagenet_resized/64x64/0.1.0" in message
    assert "pip install tensorflow" in message


class FakeBuilder:
    """A TFDS builder of a few examples, which becomes readable by preparing it."""

    def __init__(self, examples, prepared=True, failure=None):
        import tensorflow_datasets as tfds

        features = dict(
            image=tfds.features.Image(shape=(None, None, 3)),
            label=tfds.features.ClassLabel(names=["cat", "dog"]),
        )
        self.info = SimpleNamespace(features=features, splits=examples, full_name="pets/1.0.0")
        self.examples, self.prepared, self.failure = examples, prepared, failure
        self.data_dir = "/data/pets/1.0.0"

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self, *, file_format):
        assert file_format == "array_record"
        if self.failure:
            raise self.failure
        self.prepared = True

    def as_data_source(self, split):
        assert self.prepared
        examples = self.examples[split]

        class Source(list):
            def __getitems__(self, keys):
                return [self[key] for key in keys]

        return Source(examples)


def make_examples(labels, size=(4, 4, 3)):
    return [dict(image=np.full(size, 10 * i, np.uint8), label=c) for i, c in enumerate(labels)]


@pytest.fixture
def fake_tfds(monkeypatch):
    """A function that makes TFDS find such a fake builder under every name."""

    def install(*args, **kwargs):
        import tensorflow_datasets as tfds

        builder = FakeBuilder(*args, **kwargs)
        monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
        return builder

    return install


def test_validation_stands_in_for_a_missing_test_split(fake_tfds):
    fake_tfds(dict(train=make_examples([1, 0, 1]), validation=make_examples([0, 1])))
    dataset = load(make_config(name="pets"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train_labels.tolist() == [1, 0, 1] and dataset.test_labels.tolist() == [0, 1]
    assert dataset.train_images[:, 0, 0, 0].tolist() == [0, 10, 20]
    fake_tfds(
        dict(train=make_examples([1, 0]), validation=make_examples([0]), test=make_examples([1, 0]))
    )
    assert load(make_config(name="pets")).test_labels.tolist() == [1, 0]


def test_sets_are_prepared_if_tensorflow_is_there(fake_tfds, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorflow")
    examples = dict(train=make_examples([0, 1]), test=make_examples([0, 1]))
    builder = fake_tfds(examples, prepared=False)
    assert load(make_config(name="pets")).num_classes == 2
    assert builder.prepared
    fake_tfds(examples, prepared=False, failure=ConnectionError("no route\nto host"))
    message = user_error(name="pets")
    assert "cannot prepare it under /data/" in message and "no route" in message


@pytest.mark.parametrize(
    "examples, complaint",
    [
        (dict(train=make_examples([0, 1])), "has the splits train; use a dataset with train and"),
        (dict(test=make_examples([0, 1])), "has the splits test;"),
        (
            dict(train=make_examples([0]) + make_examples([1], (5, 4, 3)), test=[]),
            "images have the shapes [4, 4, 3] and [5, 4, 3]",
        ),
        (
            dict(train=make_examples([0, 1]), test=make_examples([0, 1], (8, 8, 3))),
            "images have the shapes [4, 4, 3] and [8, 8, 3]",
        ),
        (
            dict(train=make_examples([0, 1]), test=make_examples([-1, -1])),
            "labels are -1 to -1; they must be 0 to 1",
        ),
        (dict(train=make_examples([0, 1]), test=[]), "it is empty"),
    ],
)
def test_unusable_tfds_sets_are_the_users_mistake(fake_tfds, examples, complaint):
    fake_tfds(examples)
    assert complaint in user_error(name="pets")


def test_tfds_sets_need_image_and_label(fake_tfds):
    builder = fake_tfds(dict(train=[], test=[]))
    builder.info.features["picture"] = builder.info.features.pop("image")
    message = user_error(name="pets")
    assert "has the features label (ClassLabel), picture (Image)" in message


def copy_of_cifar10(tfds_dir, folder):
    shutil.copytree(tfds_dir / "cifar10", folder / "cifar10", copy_function=shutil.copyfile)
    for path in (folder / "cifar10").rglob("*"):
        path.chmod(0o755)
    return next((folder / "cifar10").iterdir())


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar10(tfds_dir):
    dataset = load(make_config(name="cifar10", dir=str(tfds_dir), per_class=100))
    assert dataset.train_images.shape == (1000, 32, 32, 3)
    assert dataset.test_images.shape == (10000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [100] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    assert dataset.mean[0] == 0.49139967861519607


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar100_without_tensorflow(tfds_dir):
    """In a process of its own, whose modules nobody else has imported."""
    program = f"""
import sys
import zipfile
from cljax.data.sources import _pixel_moments, load
from cljax.settings import DataSettings
data = load(DataSettings(name="cifar100", dir={str(tfds_dir)!r}))
assert "tensorflow" not in sys.modules and "sklearn" not in sys.modules
assert data.train_images.shape == (50000, 32, 32, 3), data.train_images.shape
assert data.test_images.shape == (10000, 32, 32, 3), data.test_images.shape
import numpy as np
assert (np.bincount(data.train_labels) == 500).all() and data.num_classes == 100
assert (np.bincount(data.test_labels) == 100).all()
assert data.class_names[:2] == ("apple", "aquarium_fish") and len(data.class_names) == 100
# The published constants describe these very pixels: reading and decoding are right.
mean, std = _pixel_moments(data.train_images)
np.testing.assert_allclose(data.mean, mean, atol=1e-9)
np.testing.assert_allclose(data.std, std, atol=1e-9)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_digits_import_no_tfds():
    program = """
import sys
import zipfile
from cljax.data.sources import load
from cljax.settings import DataSettings
assert "sklearn" not in sys.modules
load(DataSettings(name="digits", per_class=1))
assert not {"tensorflow_datasets", "tensorflow", "jax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.real_data
def test_unreadable_prepared_sets_are_the_users_mistake(tfds_dir, tmp_path):
    folder = copy_of_cifar10(tfds_dir, tmp_path)
    info = folder / "dataset_info.json"
    text = info.read_text()
    info.write_text(text.replace('"array_record"', '"tfrecord"'))
    message = user_error(name="cifar10:3.0.2", dir=str(tmp_path))
    assert "is in tfrecord form" in message and "array_record" in message
    info.write_text(text[:300])
    assert "cannot open it" in user_error(name="cifar10", dir=str(tmp_path))
    info.write_text(text)
    (shard,) = folder.glob("*train.array_record*")
    with shard.open("r+b") as file:
        file.truncate(4_000_000)
    assert "cannot read train" in user_error(name="cifar10", dir=str(tmp_path))
    shard.unlink()
    assert "cannot read train" in user_error(name="cifar10", dir=str(tmp_path))


def test_published_moments_are_used_whatever_config_or_version(fake_tfds):
    fake_tfds(dict(train=make_examples([0, 1]), test=make_examples([0, 1])))
    for name in ("imagenet_resized/64x64", "imagenet_resized:0.1.0"):
        dataset = load(make_config(name=name))
        assert (dataset.mean, dataset.std) == sources.PUBLISHED_MOMENTS["imagenet_resized"]
