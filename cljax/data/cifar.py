"""Finds CIFAR-10 and CIFAR-100 in any of their forms, or downloads them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cljax.data import Splits, cache, cifar_files
from cljax.data.cifar_files import CIFAR, Cifar, Form
from cljax.data.download import fetch_dataset, folder_of_downloads
from cljax.errors import UserError, note

_CACHE_FORMAT = 1  # raise it when the same files would give other arrays


def load_cifar(name: str, directory: str, url: str) -> Splits:
    """Loads CIFAR-10 or CIFAR-100, and caches the decoded images in the user's cache folder.

    Every source gives the same images in the same order, that of the authors' files: a dataset
    prepared by TFDS; the authors' archives, binary or pickled, packed or unpacked; the download.

    Args:
      name: "cifar10" or "cifar100".
      directory: where to look, and where to download to; empty: TFDS's own directory, then
        `downloads` in the user's cache folder.
      url: mirror of the binary archive, a file or the directory with it; empty: the authors' site.

    Returns:
      (images, labels) of train, (images, labels) of test, class names. Images are uint8
      [N, 32, 32, 3], labels int32 [N].

    Raises:
      UserError: the directory is missing, a file is damaged, or the download fails.
    """
    cifar = CIFAR[name]
    if directory and "://" not in directory and not os.path.isdir(directory):
        raise UserError(f"config.data.dir={directory}: no such directory")
    prepared = directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in directory or _is_prepared(Path(os.path.expanduser(prepared)) / name):
        from cljax.data.tfds_source import load_tfds  # The archives do not need TFDS.

        return load_tfds(name, prepared, order_by="id")
    if directory and (found := _find(cifar, Path(directory))):
        return _load_local(cifar, *found)
    return _load_remote(cifar, folder_of_downloads(directory), url)


def _is_prepared(folder: Path) -> bool:
    """Whether TFDS has prepared the dataset in a form that is read without TensorFlow."""
    for path in folder.glob("3.*/dataset_info.json"):
        try:
            form = json.loads(path.read_text(encoding="utf-8")).get("fileFormat")
        except (OSError, ValueError):
            return True  # TFDS says what is wrong with it
        if form == "array_record":
            return True
    return False


def _find(cifar: Cifar, directory: Path) -> tuple[Form, Path] | None:
    """The first form whose folder or archive lies in a directory, or is that directory."""
    for form in (cifar.binary, cifar.pickled):
        for folder in form.folders:
            if directory.name == folder and (directory / form.test).is_file():
                return form, directory
        for entry in (*form.folders, form.archive):
            if (directory / entry).exists():
                return form, directory / entry
    return None


def _load_local(cifar: Cifar, form: Form, path: Path) -> Splits:
    files = [path / name for name in form.files] if path.is_dir() else [path]
    return _load_cached(cifar, cache.fingerprint(files), path, lambda: _read(cifar, form, path))


def _load_remote(cifar: Cifar, folder: Path, url: str) -> Splits:
    def read():
        return _read(cifar, cifar.binary, fetch_dataset(cifar.remote, url, folder))

    return _load_cached(cifar, cifar.remote.sha256, folder / cifar.binary.archive, read)


def _read(cifar: Cifar, form: Form, path: Path) -> cache.Arrays:
    note("reading the images in %s", path)
    return cifar_files.read(cifar, form, path)


def _load_cached(cifar: Cifar, key: Any, source: Path, read: Callable[[], cache.Arrays]) -> Splits:
    key = [_CACHE_FORMAT, cifar.num_classes, key]
    return cache.load_splits(source, key, cifar_files.SIDE, read)
