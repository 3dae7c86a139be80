"""Disk cache for decoded images."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cljax.files import user_cache_folder

Arrays = dict[str, np.ndarray]

_log = logging.getLogger("cljax")


def folder_cache_path(source: Path, name: str) -> Path:
    """Where arrays made from a folder are kept in it."""
    return source / ".cljax_cache" / f"{name}.npz"


def user_cache_path(source: Path, name: str) -> Path:
    """Where they are kept in the user's cache folder."""
    own = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    return user_cache_folder() / f"{own}-{name}.npz"


def load_cached(
    places: list[Path],
    key: Any,
    is_good: Callable[[Arrays], bool],
    make: Callable[[], Arrays],
) -> Arrays:
    """What `make()` gives, from the disk if it was kept there under the same key.

    Args:
      places: files that may hold the arrays; they are written to the first that can be written.
      key: JSON of all that the arrays depend on, such as names, sizes and times of files.
      is_good: whether arrays have the right names, shapes and dtypes.
      make: reads the source; what it raises is raised here, and nothing is kept.
    """
    stamp = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    for place in places:
        arrays = _read(place, stamp)
        if arrays is not None and is_good(arrays):
            return arrays
    arrays = make()
    for place in places:
        try:
            _write(place, stamp, arrays)
            return arrays
        except OSError as error:
            _log.info("cannot keep the images in %s: %s", place, error.strerror or error)
    _log.warning("the images can be kept nowhere; the next run reads all files again")
    return arrays


def _read(place, stamp):
    """The arrays of a file, or None unless it is there, whole, and has the stamp."""
    try:
        with np.load(place, allow_pickle=False) as archive:
            if str(archive["stamp"]) != stamp:
                return None
            # The archive has a CRC of each.
            return {name: archive[name] for name in archive.files if name != "stamp"}
    except Exception:  # absent, or whatever a damaged file raises: it is written anew
        return None


def _write(place, stamp, arrays):
    """Replaces a file as a whole; raises OSError, and leaves nothing behind, if it cannot."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    place.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in place.parent.glob(f".{place.name}.*.tmp"):
        unfinished.unlink(missing_ok=True)  # of a run that was killed
    try:
        with temporary.open("wb") as file:
            np.savez(file, stamp=stamp, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)
