"""Reads the files of Tiny-ImageNet as its authors distribute them, packed or unpacked."""

import functools
import io
import os
import re
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cljax.data.cache import Blocks
from cljax.data.download import RemoteFile
from cljax.data.folder_source import read_images
from cljax.files import open_plain, reading

# The sums that several public projects record for the authors' archive; its MD5 sum is
# 90528d7ca1a48142e341f4ef8d21d0de.
REMOTE = RemoteFile(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
)
FOLDER = "tiny-imagenet-200"
SIDE = 64
NUM_TRAIN, NUM_TEST = 100_000, 10_000  # of the whole dataset; a part of it is read as well
_CLASSES, _NAMES, _ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"
_IMAGE = re.compile(r"\w+\.JPEG")
_FORM = "Tiny-ImageNet"  # in errors
_MAX_BYTES = 2**24  # of a file; the largest, words.txt, has 2.7 MB


class Listing(NamedTuple):
    """Names the images: files relative to the folder, by class and then by file name.

    Attributes:
      classes: WordNet ids in sorted order.
      train, test: (file, class id) of each image.
    """

    classes: list[str]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


def list_files(folder: Path) -> list[Path]:
    """Returns the paths of all files that are read from an unpacked folder.

    Raises:
      UserError: a file is missing or damaged.
    """
    with reading(folder, _FORM):
        listing = _list(_Folder(folder))
    images = [file for file, _ in listing.train + listing.test]
    return [folder / file for file in (_CLASSES, _NAMES, _ANNOTATIONS, *images)]


def read(path: Path) -> dict[str, np.ndarray | Blocks]:
    """Reads the archive or the unpacked folder; nothing is unpacked to the disk.

    Class ids are the positions of the WordNet ids in sorted order. The test images are those of
    the labelled validation set. Images come by class and then by file name; gray ones become RGB.

    Args:
      path: the archive or the folder.

    Returns:
      Arrays by name. train_images, test_images: uint8 [N, 64, 64, 3], to be read; train_labels,
      test_labels: int32 [N]; names: str [K], the first word for each class.

    Raises:
      UserError: a file is missing, unreadable or damaged; also while images are read.
    """
    with reading(path, _FORM), closing(_open(path)) as source:
        listing = _list(source)
        arrays: dict[str, Any] = {"names": np.array(_class_names(source, listing.classes))}
    for split, images in (("train", listing.train), ("test", listing.test)):
        files = [file for file, _ in images]
        read_split = functools.partial(_read_images, path, files)
        arrays[f"{split}_images"] = Blocks((len(files), SIDE, SIDE, 3), read_split)
        arrays[f"{split}_labels"] = np.array([label for _, label in images], np.int32)
    return arrays


def _read_images(path: Path, files: list[str]) -> Iterator[np.ndarray]:
    with reading(path, _FORM), closing(_open(path)) as source:
        yield from read_images(files, SIDE, functools.partial(_read_image, source))


class _Folder:
    """The unpacked folder."""

    def __init__(self, path: Path):
        self._path = path

    def close(self) -> None:
        pass

    def list(self, folder: str) -> list[str]:
        return os.listdir(self._path / folder)

    def read(self, name: str) -> bytes:
        with open_plain(self._path / name) as file:
            return file.read(_MAX_BYTES)


class _Zip:
    """The archive. Names are looked up in it only, so none leads to a file of the disk."""

    def __init__(self, path: Path):
        self._zip = zipfile.ZipFile(path)
        self._lock = threading.Lock()  # a ZipFile counts its open members without one
        self._names = defaultdict(list)
        for name in self._zip.NameToInfo:
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"it holds the file {name!a}, which lies outside {FOLDER}")
            folder, _, file = name.rpartition("/")
            self._names[folder].append(file)

    def close(self) -> None:
        self._zip.close()

    def list(self, folder: str) -> list[str]:
        return self._names[f"{FOLDER}/{folder}"]

    def read(self, name: str) -> bytes:
        info = self._zip.NameToInfo.get(f"{FOLDER}/{name}")
        if info is None:
            raise ValueError(f"it does not hold {FOLDER}/{name}")
        if info.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Only these two are unpacked piece by piece, so that the size is a bound.
            raise ValueError(f"{name} is neither stored nor deflated")
        if info.file_size > _MAX_BYTES:
            raise ValueError(
                f"{name} unpacks to {info.file_size:,} bytes; expected at most {_MAX_BYTES:,}"
            )
        with self._lock:
            return self._zip.read(info)


def _open(path: Path) -> _Folder | _Zip:
    return _Folder(path) if path.is_dir() else _Zip(path)


def _list(source: _Folder | _Zip) -> Listing:
    classes = sorted({*source.read(_CLASSES).decode().split()})
    if not classes or not all(re.fullmatch(r"n\d+", name) for name in classes):
        raise ValueError(f"{_CLASSES} holds something else than WordNet ids such as n01443537")
    train, test = [], _annotated(source, classes)
    for label, name in enumerate(classes):
        folder = f"train/{name}/images"
        found = sorted(file for file in source.list(folder) if _IMAGE.fullmatch(file))
        train += [(f"{folder}/{file}", label) for file in found]
    for split, images in (("train", train), ("val", test)):
        if absent := {*range(len(classes))} - {label for _, label in images}:
            raise ValueError(f"{split} has no image of {classes[min(absent)]}")
    return Listing(classes, train, test)


def _annotated(source: _Folder | _Zip, classes: list[str]) -> list[tuple[str, int]]:
    """The (file, class id) of each image of the validation set, by class and then by file name."""
    ids = {name: label for label, name in enumerate(classes)}
    found = {}
    for line in source.read(_ANNOTATIONS).decode().splitlines():
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if not _IMAGE.fullmatch(file) or name not in ids:
            raise ValueError(
                f"{_ANNOTATIONS} holds the line {line[:80]!a}; expected an image and its class"
            )
        found[f"val/images/{file}"] = ids[name]
    return sorted(found.items(), key=lambda image: (image[1], image[0]))


def _class_names(source: _Folder | _Zip, classes: list[str]) -> list[str]:
    """The first word for each class, or its id where there is none that can be printed."""
    lines = source.read(_NAMES).decode().splitlines()
    words = {key: text.split(",")[0].strip() for key, _, text in (x.partition("\t") for x in lines)}
    return [word if (word := words.get(key)) and word.isprintable() else key for key in classes]


def _read_image(source: _Folder | _Zip, name: str) -> np.ndarray:
    """uint8 [64, 64, 3] of a file."""
    content = source.read(name)
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.size != (SIDE, SIDE):
                width, height = image.size
                raise ValueError(f"it has {width}x{height} pixels; expected {SIDE}x{SIDE}")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a JPEG image") from error
    except Exception as error:  # Pillow's readers share no error class
        raise ValueError(f"{name}: {error}") from error
