"""Finds the images of ImageNet (ILSVRC 2012) in class folders or in its authors' archives."""

import functools
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cljax.data import cache
from cljax.data.folder_source import list_images
from cljax.data.image_files import FileParts, Files
from cljax.errors import UserError, note
from cljax.files import reading

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
TFDS_NAME = "imagenet2012"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_IDS = "ILSVRC2012_devkit_t12/data/meta.mat"
_ANSWERS = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_MAX_BYTES = 2**26  # of a file of the development kit
_NAMES_SHOWN = 5

Image = tuple[str, int, int]  # name, first byte (TFDS: number of the record), number of bytes


class Split(NamedTuple):
    """Says where the images of a split are.

    Attributes:
      place: the folder that has class folders, or the archive.
      key: JSON value that changes with the files.
      list: returns the images of each wanted class, those of a class sorted by name.
      open: makes `Files` of names, bytes [N], and of the numbers of `Image`, int64 [N] each.
    """

    place: Path
    key: Any
    list: Callable[[], dict[str, list[Image]]]
    open: Callable[[np.ndarray, np.ndarray, np.ndarray], Files]


def find_split(directory: Path, split: str, wanted: Sequence[str]) -> Split | None:
    """Finds the images of a split, in class folders or else in the official archive.

    Args:
      directory: config.data.dir.
      split: "train" or "val".
      wanted: WordNet ids of classes.

    Raises:
      UserError: a folder or an archive is damaged, or has nothing of a class.
    """
    folder, archive = directory / split, directory / ARCHIVES[split]
    if folder.is_dir():
        return _find_folders(folder, wanted)
    if not archive.exists():
        return None
    files = [archive] if split == "train" else [archive, directory / DEVKIT]
    if not files[-1].exists():
        raise UserError(
            f"{archive}: its classes are in {DEVKIT}, which is not beside it; put it there"
        )

    def list_wanted():
        note("listing the images in %s", archive)
        if split == "train":
            found = _list_train(archive, set(wanted))
        else:
            found = _list_val(archive, _read_devkit(directory / DEVKIT), set(wanted))
        return check_classes(found, wanted, archive)

    open_parts = functools.partial(FileParts, archive, True)
    return Split(archive, cache.fingerprint(files), list_wanted, open_parts)


def list_images_of(split: Split, wanted: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Lists the images of a split, class after class.

    Returns:
      Names, bytes [N], the numbers of `Image`, int64 [N] each, and the position in `wanted` of
      their class, int32 [N].
    """
    images = split.list()
    flat = [(f"{name}/{file}", *part) for name in wanted for file, *part in images[name]]
    names, offsets, lengths = zip(*flat, strict=True)
    counts = [len(images[name]) for name in wanted]
    return (
        np.array([os.fsencode(name) for name in names]),
        np.array(offsets, np.int64),
        np.array(lengths, np.int64),
        np.repeat(np.arange(len(wanted), dtype=np.int32), counts),
    )


def check_classes(found: Any, wanted: Sequence[str], place: Path) -> Any:
    """Returns what is found by class; raises UserError if a wanted class is not there."""
    missing = [name for name in wanted if name not in found]
    if missing:
        more = len(missing) - _NAMES_SHOWN
        named = ", ".join(missing[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise UserError(f"{place}: no images of the class {named}; add them")
    return found


def _find_folders(folder, wanted):
    found, key = {}, hashlib.sha256()
    try:
        present = {entry.name for entry in os.scandir(folder)}
        check_classes(present, wanted, folder)
        for name in wanted:
            files = list_images(folder / name, f"{folder}/{name}")
            key.update(repr((name, files)).encode())
            found[name] = [(file.name, 0, file.size) for file in files]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    open_parts = functools.partial(FileParts, folder, False)
    return Split(folder, key.hexdigest(), lambda: found, open_parts)


def _list_train(path: Path, wanted: set[str]) -> dict[str, list[Image]]:
    """The images of the training archive, which holds an archive for each class."""
    found = {}
    with reading(path, "ImageNet's training images"), tarfile.open(path, "r:") as outer:
        for archive in _files_of(outer):
            name = os.path.basename(archive.name).removesuffix(".tar")
            if name not in wanted:
                continue
            with (
                reading(f"{path}/{archive.name}", "the images of a class"),
                tarfile.open(fileobj=outer.extractfile(archive), mode="r:") as inner,
            ):
                images = [
                    (
                        os.path.basename(image.name),
                        archive.offset_data + image.offset_data,
                        image.size,
                    )
                    for image in _files_of(inner)
                ]
            found[name] = sorted(images)
    return {name: images for name, images in found.items() if images}


def _list_val(path: Path, answers: list[str], wanted: set[str]) -> dict[str, list[Image]]:
    """The images of the validation archive, whose classes are `answers`, by number."""
    found = {}
    with reading(path, "ImageNet's validation images"), tarfile.open(path, "r:") as archive:
        for image in _files_of(archive):
            name = os.path.basename(image.name)
            match = _VAL_IMAGE.fullmatch(name)
            if not match or not 1 <= int(match[1]) <= len(answers):
                raise ValueError(
                    f"it holds {image.name!a}; expected ILSVRC2012_val_NUMBER.JPEG, NUMBER up to "
                    f"{len(answers)}"
                )
            if (label := answers[int(match[1]) - 1]) in wanted:
                found.setdefault(label, []).append((name, image.offset_data, image.size))
    return {name: sorted(images) for name, images in found.items()}


def _files_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yields the plain files of an archive that are not hidden."""
    for member in archive:
        is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if is_plain and not os.path.basename(member.name).startswith("."):
            yield member


def _read_devkit(path: Path) -> list[str]:
    """The WordNet id of each validation image, in the order of their numbers."""
    import scipy.io  # Slow to import, and needed here only.

    form = "ImageNet's development kit"
    with reading(path, form), tarfile.open(path, "r:*") as kit:
        contents = []
        for name in (_IDS, _ANSWERS):
            found = kit.extractfile(name) if name in kit.getnames() else None
            if found is None:
                raise ValueError(f"it does not hold the file {name}")
            contents.append(found.read(_MAX_BYTES))
    try:
        synsets = scipy.io.loadmat(io.BytesIO(contents[0]), squeeze_me=True)["synsets"]
        pairs = zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        names = {int(number): str(name) for number, name in pairs}
        return [names[int(number)] for number in contents[1].split()]
    except Exception as error:  # SciPy's reader shares no error class
        raise UserError(
            f"cannot read {path} as {form}: {type(error).__name__}: {error}; get it again"
        ) from error
