"""Finds Tiny-ImageNet in either of its forms, or downloads it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cljax.data import Splits, cache, tiny_imagenet_files
from cljax.data.download import fetch_dataset, folder_of_downloads
from cljax.data.tiny_imagenet_files import FOLDER, NUM_TEST, NUM_TRAIN, REMOTE, SIDE
from cljax.errors import UserError, note

_CACHE_FORMAT = 1  # raise it when the same files would give other arrays


def load_tiny_imagenet(directory: str, url: str) -> Splits:
    """Loads Tiny-ImageNet, and caches the decoded images in the user's cache folder.

    The archive and the folder give the same images in the same order. The labelled validation set
    is the test set; the authors' test set, which has no labels, is not read. A part of the dataset
    is accepted, with a note.

    Args:
      directory: where to look for the unpacked folder or the archive, and where to download to;
        empty: `downloads` in the user's cache folder.
      url: mirror of the archive, a file or the directory with it; empty: the authors' site.

    Returns:
      (images, labels) of train, (images, labels) of test, class names. Images are uint8
      [N, 64, 64, 3], labels int32 [N].

    Raises:
      UserError: the directory is missing, a file is damaged, or the download fails.
    """
    if directory and not os.path.isdir(directory):
        raise UserError(f"config.data.dir={directory}: no such directory")
    if directory and (path := _find(Path(directory))):
        return _load_local(path)
    folder = folder_of_downloads(directory)
    return _load_cached(
        REMOTE.sha256, folder / REMOTE.name, lambda: fetch_dataset(REMOTE, url, folder)
    )


def _find(directory: Path) -> Path | None:
    """The unpacked folder or the archive in a directory, which may be that folder itself."""
    if directory.name == FOLDER and (directory / "train").is_dir():
        return directory
    for name in (FOLDER, REMOTE.name):
        if (directory / name).exists():
            return directory / name
    return None


def _load_local(path: Path) -> Splits:
    files = tiny_imagenet_files.list_files(path) if path.is_dir() else [path]
    train, test, names = _load_cached(cache.fingerprint(files), path, lambda: path)
    counts = len(train[1]), len(test[1])
    if counts != (NUM_TRAIN, NUM_TEST):
        note("%s holds a part: %d training and %d test images", path, *counts)
    return train, test, names


def _load_cached(key: Any, source: Path, get: Callable[[], Path]) -> Splits:
    """The images of the path that `get()` returns, from the user's cache folder if cached there."""

    def read() -> dict[str, Any]:
        path = get()
        note("reading the images in %s", path)
        return tiny_imagenet_files.read(path)

    return cache.load_splits(source, [_CACHE_FORMAT, key], SIDE, read)
