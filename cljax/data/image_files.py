"""Images of different sizes in files, or in a tar archive, which are decoded when they are used."""

import dataclasses
import hashlib
import io
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from cljax.data.decode import read_rgb, read_size
from cljax.errors import UserError, note
from cljax.files import open_plain

CANVAS = 512  # side in pixels; images are reduced to it, and `cljax.data.resample` allows no more
_HEADER_BYTES = 2**16  # in which nearly all files tell their size
_BLOCK = 50_000  # files between two notes of progress


class Files(Protocol):
    """Encoded images, by their number from 0."""

    def __len__(self) -> int:
        """Counts them."""
        ...

    def name(self, row: int) -> str:
        """Returns the name of an image, for errors."""
        ...

    def read(self, row: int, limit: int | None = None) -> bytes:
        """Reads an encoded image, or its first `limit` bytes.

        Raises:
          UserError: it cannot be read.
        """
        ...

    def take(self, rows: np.ndarray) -> "Files":
        """Returns some of the images: int [M]."""
        ...

    def identity(self) -> Iterable[np.ndarray]:
        """Yields arrays that other images would not have, wherever they are kept."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class FileParts:
    """Lists encoded images that are whole files, or parts of one archive that is not compressed.

    Attributes:
      place: the folder of the files, or the archive.
      is_archive: whether it is an archive.
      names: bytes [N], paths of the files in the folder, or names of the members of the archive.
      offsets, lengths: int64 [N], bytes.
    """

    place: Path
    is_archive: bool
    names: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        """Counts the images."""
        return len(self.names)

    def take(self, rows: np.ndarray) -> "FileParts":
        """Returns some of the images: int [M]."""
        parts = self.names[rows], self.offsets[rows], self.lengths[rows]
        return FileParts(self.place, self.is_archive, *parts)

    def name(self, row: int) -> str:
        """Returns the path of an image, also within an archive."""
        return f"{self.place}/{os.fsdecode(self.names[row])}"

    def read(self, row: int, limit: int | None = None) -> bytes:
        """Reads an encoded image, or its first `limit` bytes.

        Raises:
          UserError: the file cannot be read, or is shorter than when it was listed.
        """
        path = self.place if self.is_archive else Path(self.name(row))
        length = int(self.lengths[row])
        length = length if limit is None else min(limit, length)
        try:
            with open_plain(path) as file:
                file.seek(self.offsets[row])
                content = file.read(length)
        except OSError as error:
            raise UserError(f"cannot read {self.name(row)}: {error.strerror or error}") from error
        if len(content) != length:
            raise UserError(f"{self.name(row)}: shorter than it was; the file has changed")
        return content

    def identity(self) -> Iterable[np.ndarray]:
        """Yields names and lengths."""
        return self.names, self.lengths


def read_sizes(files: Files) -> np.ndarray:
    """Reads height and width of all images, int32 [N, 2], with a note of progress now and then.

    Raises:
      UserError: one cannot be read as an image, or has no pixels.
    """

    def read(row):
        content = files.read(row, _HEADER_BYTES)
        try:
            size = read_size(io.BytesIO(content), files.name(row))
        except UserError:
            if len(content) < _HEADER_BYTES:
                raise
            size = read_size(io.BytesIO(files.read(row)), files.name(row))
        if 0 in size:
            raise UserError(f"{files.name(row)}: it has {size[1]}x{size[0]} pixels")
        return size

    sizes = np.empty((len(files), 2), np.int32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), _BLOCK):
            if start:
                note("sizes of %d of %d images read", start, len(files))
            block = range(start, min(start + _BLOCK, len(files)))
            for row, size in zip(block, pool.map(read, block), strict=True):
                sizes[row] = size
    return sizes


class ImageFiles:
    """Images that are decoded when they are used, each in the top left corner of a canvas.

    An image that is larger than the canvas is reduced so that its longer side fits, bilinearly with
    antialiasing. The rest of a canvas is 0.

    Attributes:
      shape: (N, S, S, 3).
      dtype: uint8.
      sizes: int32 [N, 2], heights and widths on the canvas.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Files, full_sizes: np.ndarray, side: int = CANVAS):
        """Takes the encoded images and their sizes.

        Args:
          files: the encoded images.
          full_sizes: int32 [N, 2], heights and widths of the images in the files.
          side: S.
        """
        self._files = files
        self._full_sizes = full_sizes
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self.shape: tuple[Any, ...] = (len(files), side, side, 3)
        longer = full_sizes.astype(np.int64).max(1, keepdims=True, initial=1)
        reduced = np.maximum((2 * full_sizes * side + longer) // (2 * longer), 1)
        self.sizes = np.where(longer > side, reduced, full_sizes).astype(np.int32)

    def __len__(self) -> int:
        """Counts the images."""
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Decodes images in several threads: int [B] -> uint8 [B, S, S, 3].

        Raises:
          UserError: one cannot be read as an image; the first one is named.
        """
        canvases = np.zeros((len(rows), *self.shape[1:]), np.uint8)
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(os.cpu_count())
        for _ in self._pool.map(self._decode, rows, canvases):
            pass
        return canvases

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Decodes all images."""
        if copy is False:
            raise ValueError("images in files cannot be an array without a copy")
        note("decoding %d images", len(self))
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def take(self, indices: np.ndarray) -> "ImageFiles":
        """Returns some of the images: int [M]."""
        return ImageFiles(self._files.take(indices), self._full_sizes[indices], self.shape[1])

    def fingerprint(self) -> np.ndarray:
        """Returns a SHA-256 of names within the folder, lengths and sizes of files, uint8 [32].

        The same files have the same one in a folder and in an archive, and wherever it is.
        """
        found = hashlib.sha256()
        for array in self._files.identity():
            found.update(array.tobytes())
        found.update(self._full_sizes.tobytes())
        return np.frombuffer(found.digest(), np.uint8)

    def _decode(self, row, canvas):
        name = self._files.name(row)
        image = read_rgb(io.BytesIO(self._files.read(row)), name)
        if (image.height, image.width) != tuple(self._full_sizes[row]):
            raise UserError(f"{name}: the file has changed since it was read first; start again")
        height, width = map(int, self.sizes[row])
        # A pass for each axis: for both at once the order depends on Pillow's version.
        for size in ((width, image.height), (width, height)):
            image = image.resize(size, Image.Resampling.BILINEAR)
        canvas[:height, :width] = image
