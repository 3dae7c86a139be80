"""Reads image files of any size and mode as the images that a saved model takes."""

import io
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cljax.data import folder_source
from cljax.data.decode import read_rgb
from cljax.data.image_files import FileParts, ImageFiles, read_sizes
from cljax.data.preprocessing import center
from cljax.errors import UserError
from cljax.files import open_plain
from cljax.saved.models import Model
from cljax.state import Canvases

_BLOCK = 256  # images in memory at one time


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Lists the files: those that are named, and those in directories, sorted by name.

    Raises:
      UserError: a path is absent, or a directory is empty or holds something else than files.
    """
    files = []
    for path in paths:
        try:
            if path.is_dir():
                found = folder_source.list_images(path, str(path))
                files += [path / file.name for file in found]
            else:
                path.stat()
                files.append(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
    return files


def read_images(
    files: Sequence[Path], image_shape: tuple[int, int, int], input_size: int = 0
) -> np.ndarray:
    """Reads images: upright (EXIF), on white where transparent, cut to the center and resized.

    They are resized as those of `data.name=folder` are, or with `input_size` as ImageNet's.

    Args:
      files: the files; one or more.
      image_shape: (H, W, C) of the result, see `Model`.
      input_size: see `Model`.

    Returns:
      uint8 [B, H, W, C].

    Raises:
      UserError: a file cannot be read as an image; the first one is named.
    """
    if input_size:
        groups = [list(group) for _, group in groupby(files, lambda file: file.parent)]
        return np.concatenate([_cut_out(group, input_size) for group in groups])
    return np.stack([_fit(file, image_shape) for file in files])


def read_blocks(files: Sequence[Path], model: Model) -> Iterator[tuple[Sequence[Path], np.ndarray]]:
    """Yields files and images uint8 [n, H, W, C], block after block; errors as of `read_images`."""
    for start in range(0, len(files), _BLOCK):
        block = files[start : start + _BLOCK]
        yield block, read_images(block, model.image_shape, model.input_size)


def _fit(file: Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    try:
        with open_plain(file) as opened:  # a named pipe is never waited for
            image = read_rgb(io.BytesIO(opened.read()), file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    height, width, channels = image_shape
    image = folder_source.fit(image, height, width)
    return np.asarray(image.convert("L"))[..., None] if channels == 1 else np.asarray(image)


def _cut_out(files: list[Path], input_size: int) -> np.ndarray:
    names = np.array([os.fsencode(file.name) for file in files])
    try:
        lengths = np.array([file.stat().st_size for file in files])
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    parts = FileParts(files[0].parent, False, names, np.zeros(len(files), np.int64), lengths)
    images = ImageFiles(parts, read_sizes(parts))
    canvases = Canvases(images[np.arange(len(files))], jnp.asarray(images.sizes))
    return np.asarray(center(canvases, input_size))
