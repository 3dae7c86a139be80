"""Finds CIFAR-10 and CIFAR-100 in any of their forms, or downloads them."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cljax import files as files_lib
from cljax.data import Splits, cache, cifar_files
from cljax.data.cifar_files import CIFAR, Cifar, Form
from cljax.data.download import fetch
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
    try:
        folder = Path(directory) if directory else files_lib.user_cache_folder() / "downloads"
    except UserError as error:
        raise UserError(f"config.data.dir is empty, and {error}") from error
    return _load_remote(cifar, folder, url)


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
    try:
        status = [file.stat() for file in files]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    times = [(file.name, s.st_size, s.st_mtime_ns) for file, s in zip(files, status, strict=True)]
    key = [times, cache.sample(files)]
    return _load_cached(cifar, key, path, lambda: _read(cifar, form, path))


def _load_remote(cifar: Cifar, folder: Path, url: str) -> Splits:
    remote = cifar.remote
    if url:
        url = url if url.endswith(".tar.gz") else f"{url.rstrip('/')}/{remote.name}"
        remote = dataclasses.replace(remote, url=url)

    def read():
        try:
            path = fetch(remote, folder)
        except UserError as error:
            raise UserError(
                f"{error}; put {cifar.remote.name} into {folder} by hand, or set "
                "--config.data.dir to a directory that has it, or --config.data.url to a mirror"
            ) from error
        return _read(cifar, cifar.binary, path)

    return _load_cached(cifar, remote.sha256, folder / cifar.binary.archive, read)


def _read(cifar: Cifar, form: Form, path: Path) -> cache.Arrays:
    note("reading the images in %s", path)
    return cifar_files.read(cifar, form, path)


def _load_cached(cifar: Cifar, key: Any, source: Path, read: Callable[[], cache.Arrays]) -> Splits:
    """Returns what `read()` returns, from the user's cache folder if it is cached there."""

    def is_good(arrays):
        found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        side = cifar_files.SIDE
        for split, count in (("train", cifar.num_train), ("test", cifar.num_test)):
            if found.get(f"{split}_images") != ((count, side, side, 3), np.uint8):
                return False
            if found.get(f"{split}_labels") != ((count,), np.int32):
                return False
        return "names" in found and found["names"][0] == (cifar.num_classes,)

    place = cache.user_cache_path(source, "images")
    arrays = cache.load_cached([place], [_CACHE_FORMAT, cifar.num_classes, key], is_good, read)
    train, test = (
        (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test")
    )
    return train, test, tuple(arrays["names"].tolist())
