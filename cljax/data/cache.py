"""Caches decoded images on disk so that the next run loads them faster."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cljax.errors import UserError
from cljax.files import replacing, user_cache_folder, writing

Arrays = dict[str, np.ndarray]

_log = logging.getLogger("cljax")


def folder_cache_path(source: Path, name: str) -> Path:
    """Returns the cache file inside the folder that the arrays are made from."""
    return source / ".cljax_cache" / f"{name}.npz"


def user_cache_path(source: Path, name: str) -> Path:
    """Returns the cache file in the user's cache folder, one for each source."""
    own = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    return user_cache_folder() / f"{own}-{name}.npz"


def load_cached(
    places: Sequence[Path],
    key: Any,
    is_good: Callable[[Arrays], bool],
    make: Callable[[], Arrays],
) -> Arrays:
    """Returns what `make()` returns, from the disk if it is cached there under the same key.

    Args:
      places: files that may hold the arrays; new arrays go to the first that can be written.
      key: JSON value of all that the arrays depend on, such as names, sizes and times of files.
      is_good: tells whether arrays have the right names, shapes and dtypes.
      make: reads the source; its errors are raised here, and then nothing is cached.
    """
    stamp = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    for place in places:
        arrays = _read(place, stamp)
        if arrays is not None and is_good(arrays):
            return arrays
    arrays = make()
    failures = []
    for place in places:
        try:
            _write(place, stamp, arrays)
            return arrays
        except UserError as error:
            _log.info("%s", error)
            failures.append(str(error))
    reasons = "; ".join(failures)
    _log.warning("cannot cache the images: %s; the next run decodes all files again", reasons)
    return arrays


def _read(place, stamp):
    """The arrays of a file, or None unless it is there, whole, and has the stamp."""
    try:
        with np.load(place, allow_pickle=False) as archive:
            if str(archive["stamp"]) != stamp:
                return None
            # The archive has a CRC of each.
            return {name: archive[name] for name in archive.files if name != "stamp"}
    except Exception:  # absent, or whatever a damaged file raises: it is written again
        return None


def _write(place, stamp, arrays):
    with writing(place):
        for unfinished in place.parent.glob(f".{place.name}.*.tmp"):
            unfinished.unlink(missing_ok=True)  # of a run that was killed
    with replacing(place) as file:
        np.savez(file, stamp=stamp, **arrays)
