"""Caches decoded images on disk, from which they are mapped into memory.

The next run loads them faster, and images need no memory of their own: the system keeps those in
use, and may forget them.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from cljax.data import Splits
from cljax.errors import UserError
from cljax.files import open_plain, private_folder, replacing, user_cache_folder, writing

Arrays = dict[str, np.ndarray]


class Blocks(NamedTuple):
    """Images that are read block by block, so that they are never in memory all at once.

    Attributes:
      shape: [N, H, W, C].
      read: gives the blocks uint8 [n, H, W, C] one after another; may be called again.
    """

    shape: tuple[int, ...]
    read: Callable[[], Iterator[np.ndarray]]


_SAMPLED_FILES = 500  # 10 ms where the files are in memory, for small images
_SAMPLED_BYTES = 2**16  # at the start, in the middle and at the end of a file
_PIECE = 2**20  # bytes read at once to check a file
_SMALL = 2**16  # bytes of an array that is not worth a mapping

_log = logging.getLogger("cljax")


def folder_cache_path(source: Path, name: str) -> Path:
    """Returns the cache file inside the folder that the arrays are made from."""
    return source / ".cljax_cache" / f"{name}.npz"


def user_cache_path(source: Path, name: str) -> Path | None:
    """Returns the cache file in the user's cache folder, one for each source; None without home."""
    own = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    try:
        return user_cache_folder() / f"{own}-{name}.npz"
    except UserError:
        return None


def sample(files: Sequence[Path]) -> str:
    """Returns a SHA-256 of contents: of up to 500 of the files, evenly spread, and parts of each.

    Names, sizes and times stay the same where a file is replaced by a copy with its time.

    Raises:
      UserError: a file cannot be read.
    """
    found = hashlib.sha256()
    step = max(1, -(-len(files) // _SAMPLED_FILES))
    for path in (*files[::step], *files[-1:]):
        try:
            with open_plain(path) as file:
                end = file.seek(0, os.SEEK_END)
                for start in (0, end // 2, max(0, end - _SAMPLED_BYTES)):
                    file.seek(start)
                    found.update(file.read(_SAMPLED_BYTES))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return found.hexdigest()


def fingerprint(files: Sequence[Path]) -> list[Any]:
    """Returns a JSON value of names, sizes and times of files and a `sample` of their contents.

    Raises:
      UserError: a file is missing or cannot be read.
    """
    try:
        status = [file.stat() for file in files]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    times = [(file.name, s.st_size, s.st_mtime_ns) for file, s in zip(files, status, strict=True)]
    return [times, sample(files)]


def load_splits(source: Path, key: Any, side: int, read: Callable[[], Mapping]) -> Splits:
    """Returns the images that `read()` returns, from the user's cache folder if cached there.

    Args:
      source: what the images are read from; each has its own cache file.
      key: as for `load_cached`.
      side: of the images in pixels.
      read: gives train_images, test_images, uint8 [N, side, side, 3] or `Blocks`; train_labels,
        test_labels, int32 [N]; names, str [K].

    Returns:
      (images, labels) of train, (images, labels) of test, class names; arrays as `load_cached`.
    """

    def is_good(arrays):
        found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        for split in ("train", "test"):
            labels = found.get(f"{split}_labels")
            if labels is None or len(labels[0]) != 1 or labels[1] != np.int32:
                return False
            if found.get(f"{split}_images") != ((*labels[0], side, side, 3), np.uint8):
                return False
        return "names" in found and arrays["names"].ndim == 1

    arrays = load_cached([user_cache_path(source, "images")], key, is_good, read)
    train, test = (
        (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test")
    )
    return train, test, tuple(arrays["names"].tolist())


def load_cached(
    places: Sequence[Path | None],
    key: Any,
    is_good: Callable[[Arrays], bool],
    make: Callable[[], Mapping[str, np.ndarray | Blocks]],
) -> Arrays:
    """Returns what `make()` returns, from the disk if it is cached there under the same key.

    A cache file is used only in a folder that nobody else can change (`files.private_folder`).

    Args:
      places: files that may hold the arrays; new arrays go to the first that can be written. None:
        there is no such place.
      key: JSON value of all that the arrays depend on, such as names, sizes and times of files and
        a `sample` of their contents.
      is_good: tells whether arrays have the right names, shapes and dtypes.
      make: reads the source; its errors are raised here, and then nothing is cached.

    Returns:
      The arrays, read-only and mapped from the cache file; in memory only if no place can be
      written.
    """
    stamp = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    for place in places:
        arrays = _read(place, stamp) if place else None
        if arrays is not None and is_good(arrays):
            return arrays
    made = make()
    failures = []
    for place in places:
        if place is None:
            failures.append("no home directory is known; set XDG_CACHE_HOME or HOME")
            continue
        try:
            _write(place, stamp, made)
        except UserError as error:
            _log.info("%s", error)
            failures.append(str(error))
            continue
        except _SourceError as error:
            with contextlib.suppress(OSError):
                place.parent.rmdir()  # if it was made for this file
            raise error.reason from None
        if (arrays := _read(place, stamp)) is not None:
            return arrays
        failures.append(f"{place} cannot be read after it was written")
    reasons = "; ".join(failures)
    _log.warning("cannot cache the images: %s; the next run decodes all files again", reasons)
    return {name: _in_memory(array) for name, array in made.items()}


class _SourceError(Exception):
    """Carries an error of the source out of the writing of a cache file."""

    def __init__(self, reason: Exception):
        super().__init__(reason)
        self.reason = reason


def _in_memory(array: np.ndarray | Blocks) -> np.ndarray:
    if not isinstance(array, Blocks):
        return array
    result, start = np.empty(array.shape, np.uint8), 0
    for block in array.read():
        result[start : start + len(block)] = block
        start += len(block)
    return result


def _read(place, stamp):
    """The arrays of a file; None unless it is there, the user's, whole, and has the stamp."""
    if not place.parent.exists():  # it is made by `_write` only
        return None
    try:
        place = private_folder(place.parent) / place.name
        with open_plain(place) as file, zipfile.ZipFile(file) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            if str(_map(file, archive, members.pop("stamp"))) != stamp:
                return None
            return {name: _map(file, archive, member) for name, member in members.items()}
    except Exception:  # absent, or whatever a damaged file raises: it is written again
        return None


def _map(file: IO[bytes], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Maps an array of an .npz file into memory, after a look at its checksum."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    with archive.open(member) as content:
        if npy.read_magic(content) != (1, 0):
            raise ValueError("it is of another version than is written here")
        shape, fortran_order, dtype = npy.read_array_header_1_0(content)
        header = content.tell()
        while content.read(_PIECE):  # the last piece raises unless the checksum is right
            pass
    if dtype.hasobject or fortran_order:
        raise ValueError("it is not a plain array")
    file.seek(member.header_offset + 26)  # lengths of two fields that come before the content
    lengths = struct.unpack("<HH", file.read(4))
    start = member.header_offset + 30 + sum(lengths) + header
    mapped = np.memmap(file, dtype, "r", start, shape)
    return np.array(mapped) if mapped.nbytes <= _SMALL else mapped


def _write(place, stamp, arrays):
    place = private_folder(place.parent) / place.name
    with writing(place):
        for unfinished in place.parent.glob(f".{place.name}.*.tmp"):
            unfinished.unlink(missing_ok=True)  # of a run that was killed
        if place.is_dir():  # replacing it would fail after all images are read
            raise IsADirectoryError(errno.EISDIR, "is a directory")
    with replacing(place) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {"stamp": np.array(stamp), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, Blocks):
                    _write_blocks(member, array)
                else:
                    npy.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def _write_blocks(member: IO[bytes], images: Blocks) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
    npy.write_array_header_1_0(member, header)
    blocks = images.read()
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:
            raise _SourceError(error) from error
        if block is None:
            return
        member.write(np.ascontiguousarray(block).data)
