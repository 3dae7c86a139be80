"""Loads datasets: digits, CIFAR, Tiny-ImageNet, ImageNet, .npz files, folders, TFDS, your own."""

import os
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy

from cljax.data import Images, Splits
from cljax.errors import UserError
from cljax.files import read_array
from cljax.settings import DataSettings

# Mean and standard deviation of pixels scaled to 0..1, as published with the ABD reference code,
# by the TFDS name without config and version. Those of other datasets are measured.
_CIFAR10 = (
    (0.49139967861519607, 0.48215840839460783, 0.44653091444546567),
    (0.2470322324632819, 0.24348512800005573, 0.26158784172796434),
)
_CIFAR100 = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792409, 0.25643846291708816, 0.2761504713256834),
)
_TINY_IMAGENET = ((0.4389, 0.4114, 0.3682), (0.2402, 0.2350, 0.2268))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CHOSEN_CLASSES = ("imagenet50", "imagenet_subset")  # some of ImageNet's
IMAGENET = (*CHOSEN_CLASSES, "imagenet1000")
PUBLISHED_MOMENTS = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "tiny_imagenet": _TINY_IMAGENET,
    "imagenet_resized": _IMAGENET,
    "imagenet2012": _IMAGENET,
    **dict.fromkeys(IMAGENET, _IMAGENET),
}
_DOWNLOADED = ("cifar10", "cifar100", "tiny_imagenet")  # from a mirror, if one is named
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_DIGITS_TEST_PERIOD = 5
_SMALLEST_RESIZED = 8  # pixels


@dataclass(frozen=True, eq=False)
class Dataset:
    """Holds images with class ids, before any class order.

    Attributes:
      name: value of config.data.name.
      train_images, test_images: uint8 [N, H, W, C], C 1 or 3, in file order; `StoredImages`
        have different sizes and are read when they are used.
      train_labels, test_labels: int32 [N], class ids 0..num_classes-1.
      num_classes: K.
      class_names: K names, by class id.
      mean, std: C floats, moments of the training pixels scaled to 0..1.
      input_size: side in pixels of the squares that networks see; 0: they see images as they are.
    """

    name: str
    train_images: Images
    train_labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that networks see."""
        height, width, channels = self.train_images.shape[1:]
        return (self.input_size or height, self.input_size or width, channels)


def load(settings: DataSettings) -> Dataset:
    """Loads a dataset: that of SOURCES, or a TFDS dataset, that has the name `settings.name`.

    Raises:
      UserError: the dataset is unknown, missing, unreadable, or not of one image size.
    """
    _check_mirror(settings)
    train, test, class_names = SOURCES.get(settings.name, _load_tfds)(settings)
    is_array = isinstance(train[0], np.ndarray)
    if is_array:
        _check_image_size(settings, train[0].shape[1:3])
    base_name = settings.name.partition("/")[0].partition(":")[0]
    mean, std = PUBLISHED_MOMENTS.get(base_name) or _pixel_moments(np.asarray(train[0]))
    if settings.per_class:
        kept = np.flatnonzero(_rank_in_class(train[1]) < settings.per_class)
        images = train[0][kept] if is_array else train[0].take(kept)
        train = images, train[1][kept]
    return Dataset(
        settings.name,
        *train,
        *test,
        len(class_names),
        class_names,
        mean,
        std,
        0 if is_array else settings.image_size,
    )


def _check_mirror(settings: DataSettings) -> None:
    if settings.url and settings.name not in _DOWNLOADED:
        raise UserError(
            f"config.data.url={settings.url}: {settings.name} is not downloaded from a mirror, "
            f"only {', '.join(_DOWNLOADED)} are; leave it empty"
        )


def _check_image_size(settings: DataSettings, sides: tuple[int, int]) -> None:
    size = settings.image_size
    if size and sides != (size, size):
        height, width = sides
        raise UserError(
            f"config.data.image_size={size}: the images of {settings.name} are {height}x{width}, "
            "and only those of config.data.name=folder or imagenet... are resized; set it to 0"
        )


def _pixel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population deviation per channel of pixels scaled to 0..1; deviation 0 becomes 1.

    From a histogram of the 256 pixel values, so exact and small in memory whatever the size.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        histogram = np.zeros(256, np.int64)
        for start in range(0, len(images), 4096):
            block = images[start : start + 4096, ..., channel]
            histogram += np.bincount(block.ravel(), minlength=256)
        shares = histogram / histogram.sum()
        mean = float(shares @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(shares @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """How many earlier images share each image's class: int [N] -> int [N]."""
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return ranks


def _load_digits() -> Splits:
    """scikit-learn's 1797 scanned digits of 8x8; every fifth image of each class is for test."""
    from sklearn.datasets import load_digits  # Slow to import, and needed here only.

    digits: Any = load_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    test = _rank_in_class(labels) % _DIGITS_TEST_PERIOD == _DIGITS_TEST_PERIOD - 1
    class_names = tuple(str(digit) for digit in range(10))
    return (images[~test], labels[~test]), (images[test], labels[test]), class_names


def _load_folder(settings: DataSettings) -> Splits:
    from cljax.data.folder_source import load_folder  # A run on arrays does not need Pillow.

    return load_folder(settings.path, settings.image_size)


def _load_cifar(settings: DataSettings) -> Splits:
    from cljax.data.cifar import load_cifar  # A run on arrays does not need to download.

    return load_cifar(settings.name, settings.dir, settings.url)


def _load_tiny_imagenet(settings: DataSettings) -> Splits:
    from cljax.data.tiny_imagenet import load_tiny_imagenet  # Imports Pillow and the download.

    return load_tiny_imagenet(settings.dir, settings.url)


def _load_imagenet(settings: DataSettings) -> Splits:
    from cljax.data.imagenet import load_imagenet  # A run on arrays does not need Pillow.

    if settings.image_size < _SMALLEST_RESIZED:
        raise UserError(
            f"config.data.image_size={settings.image_size}: the images of {settings.name} have "
            f"different sizes and are resized; use 224, or {_SMALLEST_RESIZED} or more"
        )
    return load_imagenet(settings.name, settings.dir)


def _load_tfds(settings: DataSettings) -> Splits:
    from cljax.data.tfds_source import load_tfds  # A run on arrays does not need TFDS.

    return load_tfds(settings.name, settings.dir)


def _load_npz(path: str) -> Splits:
    where = f"config.data.path={path}"
    arrays = _read_npz(path, where)
    for split in ("train", "test"):
        _check_split(arrays[f"x_{split}"], arrays[f"y_{split}"], split, where)
    train_size, test_size = (arrays[key].shape[1:] for key in ("x_train", "x_test"))
    if train_size != test_size:
        raise UserError(
            f"{where}: images are {list(train_size)} in x_train and {list(test_size)} in x_test; "
            "all images must have the same height, width and number of channels"
        )
    num_classes = int(arrays["y_train"].max()) + 1
    for key in ("y_train", "y_test"):
        _check_classes(arrays[key], num_classes, key, where)
    train, test = (
        (arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int32)) for split in ("train", "test")
    )
    return train, test, tuple(str(label) for label in range(num_classes))


def _read_npz(path: str, where: str) -> dict[str, np.ndarray]:
    if not path:
        raise UserError("config.data.path is empty; config.data.name=npz needs an .npz file")
    if not os.path.isfile(path):
        raise UserError(f"{where}: no such file")
    key = "the archive"
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{where}: not an .npz archive; write it with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            members = {found.filename.removesuffix(".npy"): found for found in archive.infolist()}
            _check_keys(members, where)
            arrays = {}
            for key in _NPZ_KEYS:
                with archive.open(members[key].filename) as file:
                    is_array = file.read(6) == npy.MAGIC_PREFIX
                    file.seek(0)
                    if not is_array:
                        raise UserError(
                            f"{where}: {key} is not an array; write the file with numpy.savez"
                        )
                    arrays[key] = read_array(file, members[key].file_size)
    except UserError:
        raise
    except Exception as error:  # the decoders of zip files share no error class
        reason = (str(error) or type(error).__name__).split("\n")[0]
        raise UserError(f"{where}: cannot read {key} as a plain array: {reason}") from error
    return arrays


def _check_keys(members: Collection[str], where: str) -> None:
    missing = [key for key in _NPZ_KEYS if key not in members]
    if missing:
        found = ", ".join(members) or "nothing"
        raise UserError(
            f"{where}: no {' and no '.join(missing)}; found {found}, expected "
            + ", ".join(_NPZ_KEYS)
        )


def _check_split(images: np.ndarray, labels: np.ndarray, split: str, where: str) -> None:
    """Raises UserError unless images are uint8 [N, H, W, C] and labels integers [N]."""
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape:
        raise UserError(
            f"{where}: x_{split} is {images.dtype} {list(shape)}; expected uint8 [N, H, W, C] "
            "with C 1 or 3 and at least one image"
        )
    if labels.dtype.kind not in "iu" or labels.shape != shape[:1]:
        raise UserError(
            f"{where}: y_{split} is {labels.dtype} {list(labels.shape)}; expected an integer label "
            f"for each image, [{shape[0]}]"
        )


def _check_classes(labels: np.ndarray, num_classes: int, key: str, where: str) -> None:
    """Raises UserError unless exactly the classes 0..num_classes-1 occur."""
    present = np.unique(labels)
    wrong = present[(present < 0) | (present >= num_classes)]
    if wrong.size:
        raise UserError(
            f"{where}: {key} holds label {wrong[0]}; expected 0..{num_classes - 1}, the labels of "
            "y_train counted from 0"
        )
    if len(present) < num_classes:
        absent = np.setdiff1d(np.arange(len(present) + 1), present)[0]
        raise UserError(
            f"{where}: {key} has no image of class {absent}; expected every class of "
            f"0..{num_classes - 1}"
        )


# Functions of the data settings; any other name is a TFDS dataset.
SOURCES: dict[str, Callable[[DataSettings], Splits]] = {
    "digits": lambda settings: _load_digits(),
    "npz": lambda settings: _load_npz(settings.path),
    "folder": _load_folder,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "tiny_imagenet": _load_tiny_imagenet,
    **dict.fromkeys(IMAGENET, _load_imagenet),
}
