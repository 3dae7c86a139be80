"""Reads one folder of images per class, resizes the images, and caches them."""

import functools
import itertools
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from cljax.data import Splits, cache
from cljax.data.decode import read_rgb
from cljax.errors import UserError, note

_CACHE_FORMAT = 2  # raise it when the same files would give other pixels
_BLOCK = 10_000  # images between two notes of progress
_BLOCK_BYTES = 2**26  # most bytes of the images that are in memory at one time
_NAMES_SHOWN = 5


class ImageFile(NamedTuple):
    """Identifies an image file: its name, its size in bytes, and the time of its last change."""

    name: str
    size: int
    mtime_ns: int


def load_folder(path: str, size: int) -> Splits:
    """Loads the images DIR/train/CLASS/IMAGE and DIR/test/CLASS/IMAGE.

    A class id is the position of the folder's name in sorted order. Images come by class and then
    by file name. Names that begin with a dot are skipped. An image is turned upright (EXIF), laid
    on white where it is transparent, converted to RGB, cut to its largest centered square, and
    resized bilinearly with antialiasing.

    The pixels are cached in DIR/.cljax_cache, or else in the user's cache folder. The cache is used
    as long as names, sizes and times of all files, and a sample of their contents, are the same.

    Args:
      path: DIR.
      size: side of the resized images in pixels.

    Returns:
      (images, labels) of train, (images, labels) of test, class names. Images are uint8
      [N, size, size, 3], labels int32 [N].

    Raises:
      UserError: a setting is missing, the folders are not as above, the classes of train and test
        differ, or a file is not an image.
    """
    if not path:
        raise UserError(
            "config.data.path is empty; config.data.name=folder needs a folder with "
            "train/CLASS/IMAGE and test/CLASS/IMAGE"
        )
    if size < 1:
        raise UserError(
            f"config.data.image_size={size}: config.data.name=folder needs the side that images "
            "are resized to; use 1 or more, such as 32"
        )
    root = Path(path)
    listing = _list(root, f"config.data.path={path}")
    files = [
        [root / split / name / file.name for name, found in classes.items() for file in found]
        for split, classes in listing.items()
    ]
    images = _load_cached(root, size, listing, files)
    labels = [
        np.repeat(np.arange(len(classes), dtype=np.int32), [len(f) for f in classes.values()])
        for classes in listing.values()
    ]
    return (images["train"], labels[0]), (images["test"], labels[1]), tuple(listing["train"])


def _list(root: Path, where: str) -> dict[str, dict[str, list[ImageFile]]]:
    """The images by split and class, all sorted by name.

    Raises:
      UserError: if a folder is missing or empty, holds something else than it should, or cannot be
        read, or if the classes of the splits differ.
    """
    if not os.path.isdir(root):
        raise UserError(f"{where}: no such folder")
    listing = {}
    for split in ("train", "test"):
        if not os.path.isdir(root / split):
            raise UserError(
                f"{where}: no folder {split} in it; expected train/CLASS/IMAGE and test/CLASS/IMAGE"
            )
        try:
            listing[split] = _list_classes(root / split, f"{where}: {split}")
        except OSError as error:
            raise UserError(f"{where}: cannot read {error.filename}: {error.strerror}") from error
    only = {
        split: listing[split].keys() - listing[other].keys()
        for split, other in (("train", "test"), ("test", "train"))
    }
    if only["train"] or only["test"]:
        named = "; ".join(
            f"only {split} has {_some(names)}" for split, names in only.items() if names
        )
        raise UserError(f"{where}: train and test must have the same classes: {named}")
    return listing


def _list_classes(folder: Path, where: str) -> dict[str, list[ImageFile]]:
    classes = {}
    for entry in _visible(folder):
        if not entry.is_dir():
            raise UserError(f"{where}/{entry.name} is not a folder; use one folder for each class")
        if not entry.name.isprintable():  # it could not be written into results and plots
            raise UserError(f"{where}/{entry.name!a}: the name of a class must be printable")
        classes[entry.name] = list_images(entry.path, f"{where}/{entry.name}")
    if not classes:
        raise UserError(f"{where} is empty; it must have one folder of images for each class")
    return classes


def list_images(folder: str | Path, where: str) -> list[ImageFile]:
    """Lists the files in the folder of a class, sorted by name, without hidden ones.

    Args:
      folder: the folder.
      where: the folder, for errors.

    Raises:
      UserError: the folder is empty, or holds something else than plain files.
      OSError: it cannot be read.
    """
    files = []
    for file in _visible(folder):
        if file.is_dir():
            raise UserError(
                f"{where}/{file.name} is a folder; put images directly into the folder of their "
                "class"
            )
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"{where}/{file.name} is a pipe, a socket or a device; put only images into the "
                "folder of a class"
            )
        files.append(ImageFile(file.name, status.st_size, status.st_mtime_ns))
    if not files:
        raise UserError(f"{where} is empty; each class needs an image")
    return files


def _visible(folder) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        shown = (entry for entry in entries if not entry.name.startswith("."))
        return sorted(shown, key=lambda entry: entry.name)


def _some(names) -> str:
    names = sorted(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _load_cached(root: Path, size: int, listing, files: list[list[Path]]) -> cache.Arrays:
    """The images of "train" and "test", uint8 [N, size, size, 3].

    Raises:
      UserError: a file cannot be read as an image; the cache stays as it was.
    """
    shapes = {s: (len(paths), size, size, 3) for s, paths in zip(listing, files, strict=True)}

    def is_good(images):
        return {s: (x.shape, x.dtype) for s, x in images.items()} == {
            split: (shape, np.uint8) for split, shape in shapes.items()
        }

    def read():
        total = sum(map(len, files))
        note("reading %d images in %s, resized to %dx%d", total, root, size, size)
        read_one = functools.partial(_read_image, size=size)
        return {
            split: cache.Blocks(
                shapes[split], functools.partial(read_images, paths, size, read_one)
            )
            for split, paths in zip(listing, files, strict=True)
        }

    places = [place(root, str(size)) for place in (cache.folder_cache_path, cache.user_cache_path)]
    key = [_CACHE_FORMAT, size, listing, cache.sample(list(itertools.chain(*files)))]
    return cache.load_cached(places, key, is_good, read)


def read_images(
    files: Sequence[Any], size: int, read: Callable[[Any], np.ndarray]
) -> Iterator[np.ndarray]:
    """Reads images in several threads, with a note of progress now and then.

    Args:
      files: one for each image.
      size: side of the images in pixels.
      read: gives a file's image, uint8 [size, size, 3]; its error for the first file that has one
        is raised here.

    Yields:
      uint8 [n, size, size, 3], one after another all images in the order of the files.
    """
    count = max(1, min(_BLOCK, _BLOCK_BYTES // (3 * size**2)))
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of what it reads nevertheless
        for start in range(0, len(files), count):
            if start // _BLOCK > (start - count) // _BLOCK and start:
                note("%d of %d images read", start, len(files))
            yield np.stack([*pool.map(read, files[start : start + count])])


def _read_image(path: Path, size: int) -> np.ndarray:
    return np.asarray(fit(read_rgb(path, path), size, size))


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cuts the largest centered part with the sides' ratio out of an image, and resizes it."""
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
