"""Reads datasets that TensorFlow Datasets has prepared as ArrayRecord, without TensorFlow."""

import difflib
import functools
import importlib.util
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cljax.data import Splits, cache
from cljax.errors import UserError
from cljax.files import expand

_ARRAYS = "train_images", "train_labels", "test_images", "test_labels"
_CACHE_FORMAT = 2  # raise it when the same files would give other arrays
_MAX_CACHED = 2**30  # bytes of a dataset's files; its pixels take several times as much
_READ_BATCH = 1000
# At most one dataset, by name and files: the runs of a table read it once.
_last_read: dict[tuple, Splits] = {}


def load_tfds(name: str, directory: str, order_by: str = "") -> Splits:
    """Loads a dataset that TFDS has prepared, or prepares it if TensorFlow is installed.

    Decoded images of a dataset of up to 1 GiB are cached in the user's cache folder, because
    decoding takes more than 0.1 ms per image.

    Args:
      name: TFDS name, with config and version if wanted, such as "imagenet_resized/64x64".
      directory: TFDS data_dir; empty: TFDS's default.
      order_by: text feature by which each split is sorted, because TFDS shuffles it; empty: TFDS's
        order.

    Returns:
      (images, labels) of "train", (images, labels) of "test" or else "validation", class names.
      Images are uint8 [N, H, W, C], labels int32 [N]; all are read-only, because the next call may
      return the same arrays.

    Raises:
      UserError: the dataset is unknown, can be neither read nor prepared, has other features or
        splits than expected, or names a module to import that is not TFDS's own.
    """
    if not directory and not os.environ.get("TFDS_DATA_DIR"):
        expand("~")  # raises where TFDS would make a folder of this name
    with importing_nothing():
        builder = make_builder(name, directory)
        _prepare(builder, name)
        files = list_files(builder.data_dir)
        key = name, os.path.realpath(builder.data_dir), order_by, files
        if not files or key not in _last_read:
            _last_read.clear()  # before reading: two large datasets may not fit in memory
            _last_read[key] = _load(builder, name, order_by, files)
    return _last_read[key]


@contextmanager
def importing_nothing():
    """Keeps TFDS from importing modules that a dataset's features.json names.

    Modules of TFDS, and those that are imported already, for example by the config, may be named.
    """
    connector: Any = tfds.features.FeatureConnector
    find, read = (connector.__dict__[name] for name in ("cls_from_name", "from_config"))
    folder = ""

    def checked_read(cls, root_dir):
        nonlocal folder
        folder = root_dir
        return read.__get__(None, cls)(root_dir)

    def checked_find(cls, python_class_name):
        module = python_class_name.rpartition(".")[0]
        if module.partition(".")[0] != "tensorflow_datasets" and module not in sys.modules:
            raise UserError(
                f"{folder}/features.json: names the module {module!r}, which is not TFDS's own and "
                "is not imported; a config that imports it allows it"
            )
        return find.__get__(None, cls)(python_class_name)

    connector.cls_from_name = classmethod(checked_find)
    connector.from_config = classmethod(checked_read)
    try:
        yield
    finally:
        connector.cls_from_name, connector.from_config = find, read


def _load(builder, name: str, order_by: str, files) -> Splits:
    """Returns the dataset from the cache, or else from TFDS."""
    label_feature = _check_features(builder.info.features, name)
    is_good = functools.partial(_is_set, num_classes=label_feature.num_classes)

    def read() -> cache.Arrays:
        return dict(zip(_ARRAYS, _read(builder, name, label_feature, order_by), strict=True))

    if 0 < sum(size for _, size, _ in files) <= _MAX_CACHED:
        # Other users may share TFDS's folder, so nothing is written there.
        folder = Path(builder.data_dir)
        place = cache.user_cache_path(folder, "images")
        contents = cache.sample([folder / name for name, _, _ in files])
        key = [_CACHE_FORMAT, name, order_by, files, contents]
        arrays = cache.load_cached([place], key, is_good, read)
    else:
        arrays = read()
    for array in arrays.values():
        array.flags.writeable = False
    train, train_labels, test, test_labels = arrays.values()
    return (train, train_labels), (test, test_labels), tuple(label_feature.names)


def _is_set(arrays: cache.Arrays, num_classes: int) -> bool:
    if tuple(arrays) != _ARRAYS:
        return False
    train, train_labels, test, test_labels = arrays.values()
    return train.shape[1:] == test.shape[1:] and all(
        images.dtype == np.uint8
        and images.ndim == 4
        and labels.dtype == np.int32
        and labels.shape == images.shape[:1] != (0,)
        and _are_labels(labels, num_classes)
        for images, labels in ((train, train_labels), (test, test_labels))
    )


def list_files(folder) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a dataset's files; empty where they are unknown (gs://...)."""
    try:
        with os.scandir(folder) as entries:
            found = [(e.name, e.stat()) for e in entries if not e.name.startswith(".")]
    except OSError:
        return ()
    return tuple(sorted((name, status.st_size, status.st_mtime_ns) for name, status in found))


def _read(builder, name: str, label_feature, order_by: str):
    """Images and labels of the training split, then of the evaluation split."""
    splits = builder.info.splits
    evaluation = "test" if "test" in splits else "validation"
    for split in ("train", evaluation):
        if split not in splits:
            raise UserError(
                f"config.data.name={name}: has the splits {', '.join(splits)}; use a dataset with "
                "train and test or validation"
            )
    train, test = (
        _read_split(builder, split, label_feature.num_classes, name, order_by)
        for split in ("train", evaluation)
    )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise _sizes_differ(name, train[0].shape[1:], test[0].shape[1:])
    return *train, *test


@contextmanager
def reported(what: str):
    """Turns whatever TFDS and its readers raise into one line: they share no error class."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().split("\n")[0]
        raise UserError(f"{what}: {reason}") from error


def make_builder(name: str, directory: str) -> Any:
    """Returns TFDS's builder of a dataset.

    Raises:
      UserError: the dataset is unknown or cannot be opened.
    """
    with reported(f"config.data.name={name}: TFDS cannot open it"):
        try:
            return tfds.builder(name, data_dir=directory or None)
        except tfds.core.DatasetNotFoundError as error:
            known = ["digits", "npz", "folder", "tiny_imagenet"]
            known += tfds.list_builders(with_community_datasets=False)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(
                f"config.data.name={name}: unknown; use digits, npz, folder or a TFDS name{hint}"
            ) from error


def _prepare(builder, name: str) -> None:
    """Downloads and prepares the dataset if it is not there; only this step needs TensorFlow."""
    if builder.is_prepared():
        return
    parent = builder.data_dir.removesuffix(builder.info.full_name)
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"config.data.name={name}: not prepared under {parent}; set --config.data.dir to a "
            f"directory that holds {builder.info.full_name} in ArrayRecord form, or pip install "
            "tensorflow and run once to prepare it"
        )
    with reported(f"config.data.name={name}: TFDS cannot prepare it under {parent}"):
        builder.download_and_prepare(file_format="array_record")


def _check_features(features: Any, name: str) -> Any:
    """Returns the label feature, if there are uint8 images and class labels."""
    features = dict(features.items())
    image, label = features.get("image"), features.get("label")
    if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
        shape: Any = image.shape
        if image.np_dtype == np.uint8 and shape[-1] in (1, 3):
            return label
    found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    raise UserError(
        f"config.data.name={name}: has the features {found}; use a dataset with image (Image, "
        "uint8, 1 or 3 channels) and label (ClassLabel)"
    )


def _read_split(builder, split: str, num_classes: int, name: str, order_by: str):
    """uint8 images [N, H, W, C] and int32 labels [N] of a split, sorted by a text feature."""
    where = f"config.data.name={name}: cannot read {split} in {builder.data_dir}"
    with reported(where):
        try:
            source = builder.as_data_source(split=split)
        except NotImplementedError as error:
            raise UserError(
                f"{where}: it is in {builder.info.file_format.value} form, which has no random "
                "access; prepare it as array_record in another --config.data.dir"
            ) from error
        images, labels, names = None, np.empty(len(source), np.int32), []
        for start in range(0, len(source), _READ_BATCH):
            stop = min(start + _READ_BATCH, len(source))
            for row, example in enumerate(source.__getitems__(range(start, stop)), start):
                image, labels[row] = example["image"], example["label"]
                if order_by:
                    names.append(example[order_by])
                if images is None:
                    images = np.empty((len(source), *image.shape), np.uint8)
                elif image.shape != images.shape[1:]:
                    raise _sizes_differ(name, images.shape[1:], image.shape)
                images[row] = image
    if images is None:
        raise UserError(f"{where}: it is empty")
    if not _are_labels(labels, num_classes):
        raise UserError(
            f"{where}: labels are {labels.min()} to {labels.max()}; they must be 0 to "
            f"{num_classes - 1} (a split without labels cannot be used)"
        )
    if order_by:
        order = np.argsort(np.array(names), kind="stable")
        images, labels = images[order], labels[order]
    return images, labels


def _are_labels(labels, num_classes):
    return labels.min() >= 0 and labels.max() < num_classes


def _sizes_differ(name: str, one, other) -> UserError:
    return UserError(
        f"config.data.name={name}: images have the shapes {list(one)} and {list(other)}; use a "
        "dataset with one size, such as imagenet_resized/64x64"
    )
