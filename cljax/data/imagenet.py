"""Loads ImageNet, or the classes of it that published experiments choose."""

import functools
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cljax.data import Splits, cache, imagenet_files
from cljax.data.image_files import ImageFiles, read_sizes
from cljax.errors import UserError, note

_CACHE_FORMAT = 1  # raise it when the same files would give other arrays
_SEED = 1993  # of NumPy's legacy generator, with which both papers choose classes
_SPLITS = ("train", "val")
_ARRAYS = ("names", "offsets", "lengths", "sizes", "labels")  # of a split, in the cache
_CLASSES_FILE = Path(__file__).with_name("imagenet_classes.txt")


class Choice(NamedTuple):
    """Names the classes of a dataset.

    Attributes:
      names: WordNet ids by class id, in sorted order; the head has a column for each.
      used: those that have images, in sorted order.
    """

    names: tuple[str, ...]
    used: tuple[str, ...]


@functools.cache
def all_classes() -> tuple[str, ...]:
    """Returns the WordNet ids of the 1000 classes of ILSVRC 2012, in sorted order."""
    return tuple(_CLASSES_FILE.read_text(encoding="ascii").split())


def choose(name: str) -> Choice:
    """Chooses classes out of 1000.

    Args:
      name: "imagenet1000": all. "imagenet50": head of 1000 classes; images of the first 50 in the
        order of seed 1993, as in the ABD reference code's script. "imagenet_subset": the 100
        classes that LUCIR's authors drew with seed 1993.
    """
    names = all_classes()
    # `numpy.random.choice(names, n, replace=False)` takes the first n of this order as well.
    order = np.random.RandomState(_SEED).permutation(len(names))
    count = {"imagenet1000": 1000, "imagenet50": 50, "imagenet_subset": 100}[name]
    used = tuple(sorted(names[label] for label in order[:count]))
    return Choice(used if name == "imagenet_subset" else names, used)


def load_imagenet(name: str, directory: str) -> Splits:
    """Loads ImageNet from class folders, from its archives, or as TFDS has prepared it.

    Nothing is unpacked or decoded in advance. Sizes of images, and where they are in archives, are
    cached in the user's cache folder. The labelled validation set is the test set. Images come by
    class and then by file name; class ids are positions of the WordNet ids in sorted order.

    Args:
      name: "imagenet1000", "imagenet50" or "imagenet_subset"; see `choose`.
      directory: has `train/CLASS/IMAGE` or ILSVRC2012_img_train.tar, and `val/CLASS/IMAGE` or
        ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz; or `imagenet2012` of TFDS.

    Returns:
      (images, labels) of train, (images, labels) of test, class names. Images are `ImageFiles`,
      labels int32 [N]; names are WordNet ids.

    Raises:
      UserError: there are no such files, a class has no image, or a file is not an image.
    """
    if not directory:
        raise _not_found(f"config.data.dir is empty, and {name}")
    root, where = Path(directory), f"config.data.dir={directory}"
    if not root.is_dir():
        raise UserError(f"{where}: no such directory")
    choice = choose(name)
    if (root / imagenet_files.TFDS_NAME).is_dir():
        from cljax.data.imagenet_tfds import find_splits  # Only prepared sets need TFDS.

        found = find_splits(root, choice.used)
    else:
        found = [imagenet_files.find_split(root, split, choice.used) for split in _SPLITS]
    for split, files in zip(_SPLITS, found, strict=True):
        if files is None:
            raise _not_found(f"{where}: it has no folder {split}, and {name}")
    # Pillow warns of what it reads nevertheless; it is called while the run shows its progress.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    train, test = _index(root, found, choice, name)
    return train, test, choice.names


def _index(root: Path, found, choice: Choice, name: str):
    """Yields images, their sizes and class ids of each split, from the cache if they are there."""
    label_of = {wordnet_id: label for label, wordnet_id in enumerate(choice.names)}
    ids = np.array([label_of[wordnet_id] for wordnet_id in choice.used], np.int32)

    def read():
        arrays = {}
        for split, source in zip(_SPLITS, found, strict=True):
            *parts, places = imagenet_files.list_images_of(source, choice.used)
            note("reading the sizes of %d images in %s", len(places), source.place)
            values = *parts, read_sizes(source.open(*parts)), ids[places]
            arrays |= {f"{split}_{key}": value for key, value in zip(_ARRAYS, values, strict=True)}
        return arrays

    key = [_CACHE_FORMAT, name, *(split.key for split in found)]
    places = [cache.user_cache_path(root, name)]
    arrays = cache.load_cached(places, key, _is_index, read)
    for split, source in zip(_SPLITS, found, strict=True):
        *parts, sizes, labels = (arrays[f"{split}_{key}"] for key in _ARRAYS)
        yield ImageFiles(source.open(*parts), sizes), labels


def _is_index(arrays: cache.Arrays) -> bool:
    """Whether arrays are those that `_index` keeps."""
    for split in _SPLITS:
        if not all(f"{split}_{key}" in arrays for key in _ARRAYS):
            return False
        found = [arrays[f"{split}_{key}"] for key in _ARRAYS]
        kinds = [f"{array.dtype.kind}{array.ndim}" for array in found]
        if kinds != ["S1", "i1", "i1", "i2", "i1"] or len({*map(len, found)}) > 1:
            return False
    return True


def _not_found(what: str) -> UserError:
    train, val = imagenet_files.ARCHIVES.values()
    return UserError(
        f"{what} needs a directory with train/CLASS/IMAGE and val/CLASS/IMAGE, CLASS such as "
        f"{all_classes()[0]}, or with {train}, {val} and {imagenet_files.DEVKIT}, or with "
        f"{imagenet_files.TFDS_NAME} of TFDS"
    )
