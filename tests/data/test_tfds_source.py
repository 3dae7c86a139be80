"""A TFDS set is read once: kept in memory for the next run of a table, on disk for others."""

import json
import os

import numpy as np
import pytest

from cljax.data import tfds_source
from cljax.data.tfds_source import load_tfds
from cljax.errors import UserError
from tests.data.test_sources import FakeBuilder, make_examples


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """Makes TFDS find two sets, each with a file on the disk; the names of the splits it reads."""
    import tensorflow_datasets as tfds

    reads = []

    def make(name, data_dir):
        builder = FakeBuilder(dict(train=make_examples([0, 1, 1]), test=make_examples([1, 0])))
        builder.data_dir = tmp_path / name
        if not builder.data_dir.exists():
            builder.data_dir.mkdir()
            (builder.data_dir / "shard").touch()
        source = builder.as_data_source
        builder.as_data_source = lambda split: reads.append(split) or source(split)
        return builder

    monkeypatch.setattr(tfds, "builder", make)
    monkeypatch.setattr(tfds_source, "_last_read", {})
    return reads


def test_a_set_is_read_once(prepared):
    first, second = load_tfds("pets", ""), load_tfds("pets", "")
    assert prepared == ["train", "test"]
    for one, other in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert one is other
        with pytest.raises(ValueError, match="read-only"):
            one[0] = 0
    np.testing.assert_array_equal(first[0][1], [0, 1, 1])


def test_only_the_last_set_is_kept(prepared):
    for name in ("pets", "birds", "pets"):
        load_tfds(name, "")
    assert prepared == ["train", "test"] * 3
    assert len(tfds_source._last_read) == 1


def test_a_set_that_has_changed_is_read_again(prepared, tmp_path):
    load_tfds("pets", "")
    os.utime(tmp_path / "pets" / "shard", ns=(1, 1))
    load_tfds("pets", "")
    (tmp_path / "pets" / "shard-2").touch()
    load_tfds("pets", "")
    assert prepared == ["train", "test"] * 3


def test_sets_elsewhere_are_read_anew(prepared, monkeypatch):
    # As in a bucket: whether such files have changed cannot be seen.
    monkeypatch.setattr(tfds_source, "list_files", lambda folder: ())
    load_tfds("pets", "")
    load_tfds("pets", "")
    assert prepared == ["train", "test"] * 2


@pytest.fixture
def start_anew(prepared, tmp_path, monkeypatch):
    """load_tfds as a process does that has just started; the set's file is not empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_tfds("pets", "")
    (tmp_path / "pets" / "shard").write_text("images")
    prepared.clear()

    def start():
        tfds_source._last_read.clear()
        return load_tfds("pets", "")

    return start


def kept_files(tmp_path):
    return list((tmp_path / "cache" / "cljax").iterdir())


def test_a_set_is_read_once_for_all_starts(prepared, start_anew, tmp_path):
    first, second = start_anew(), start_anew()
    assert prepared == ["train", "test"]
    for one, other in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype and not other.flags.writeable
    assert first[2] == second[2] == ("cat", "dog")
    assert len(kept_files(tmp_path)) == 1
    assert [path.name for path in (tmp_path / "pets").iterdir()] == ["shard"]
    (tmp_path / "pets" / "shard").write_text("other images")
    start_anew()
    assert prepared == ["train", "test"] * 2


def test_large_sets_are_not_kept(prepared, start_anew, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_source, "_MAX_CACHED", 5)
    start_anew()
    start_anew()
    assert prepared == ["train", "test"] * 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept | {"train_images": kept["train_images"].astype(np.int16)},
        lambda kept: kept | {"train_labels": kept["train_labels"][:-1]},
        lambda kept: kept | {"train_labels": kept["train_labels"] + 2},
        lambda kept: kept | {"test_images": kept["test_images"][:, :2]},
        lambda kept: kept | {name: kept[name][:0] for name in ("test_images", "test_labels")},
        lambda kept: {name: kept[name] for name in kept if name != "test_labels"},
        lambda kept: kept | {"stamp": np.array("another")},
    ],
)
def test_wrong_arrays_are_read_anew(prepared, start_anew, tmp_path, change):
    right = start_anew()
    (file,) = kept_files(tmp_path)
    with np.load(file) as archive:
        kept = dict(archive)
    np.savez(file, **change(kept))
    found = start_anew()
    assert prepared == ["train", "test"] * 2
    np.testing.assert_array_equal(found[0][0], right[0][0])


@pytest.mark.slow
@pytest.mark.real_data
def test_a_table_reads_cifar10_once(tfds_dir):
    first = load_tfds("cifar10", str(tfds_dir))
    assert load_tfds("cifar10", str(tfds_dir)) is first
    assert not first[0][0].flags.writeable


OWN = "tensorflow_datasets.core.features"
LABEL = {
    "pythonClassName": f"{OWN}.class_label_feature.ClassLabel",
    "classLabel": {"numClasses": "2"},
}
CUSTOM = "custom_features.Label"
LEGACY = {"type": CUSTOM, "content": {}}


def features(label, **others):
    """The content of a features.json with a label."""
    name = {"pythonClassName": f"{OWN}.features_dict.FeaturesDict"}
    return name | {"featuresDict": {"features": {"label": label}}} | others


FORGED = {
    "top": features(LABEL, pythonClassName=CUSTOM),
    "nested": features(LABEL | {"pythonClassName": CUSTOM}),
    "another spelling": {"python_class_name": CUSTOM, "featuresDict": {"features": {}}},
    "older form": LEGACY,
    "text in text": {
        "pythonClassName": f"{OWN}.features_dict.FeaturesDict",
        "jsonFeature": {"json": json.dumps({"label": LEGACY})},
    },
}


@pytest.mark.parametrize("form", FORGED)
def test_no_module_that_a_set_names_is_imported(tmp_path, monkeypatch, form):
    marker = tmp_path / "imported"
    (tmp_path / "custom_features.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "pets" / "1.0.0"
    folder.mkdir(parents=True)
    info = {"name": "pets", "version": "1.0.0", "fileFormat": "array_record"}
    info["moduleName"] = "custom_features"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(FORGED[form]))
    with pytest.raises(UserError) as error:
        load_tfds("pets", str(tmp_path))
    assert f"{folder}/features.json: names the module 'custom_features'" in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()
