"""Finds the images of ImageNet in a set that TensorFlow Datasets has prepared as ArrayRecord."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cljax.data.imagenet_files import TFDS_NAME, Image, Split, check_classes
from cljax.data.tfds_source import importing_nothing, list_files, make_builder, reported
from cljax.errors import UserError, note

_BLOCK = 1000  # records that are read at once
_SHOWN = 100  # blocks between two notes of progress


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Lists encoded images that are records of a prepared set.

    Attributes:
      place: the folder of the set.
      source: the records of a split, each with an encoded image.
      names: bytes [N], CLASS/FILE.
      numbers, lengths: int64 [N], number of the record, and of bytes of its image.
    """

    place: Path
    source: Any
    names: np.ndarray
    numbers: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        """Counts the images."""
        return len(self.names)

    def take(self, rows: np.ndarray) -> "Records":
        """Returns some of the images: int [M]."""
        parts = self.names[rows], self.numbers[rows], self.lengths[rows]
        return Records(self.place, self.source, *parts)

    def name(self, row: int) -> str:
        """Returns the folder of the set and the name of an image, for errors."""
        return f"{self.place}/{os.fsdecode(self.names[row])}"

    def read(self, row: int, limit: int | None = None) -> bytes:
        """Returns an encoded image, or its first `limit` bytes.

        Raises:
          UserError: the record cannot be read.
        """
        with reported(f"cannot read {self.name(row)}"):
            return self.source[int(self.numbers[row])]["image"][:limit]

    def identity(self) -> Iterable[np.ndarray]:
        """Yields names and lengths."""
        return self.names, self.lengths


def find_splits(directory: Path, wanted: Sequence[str]) -> list[Split]:
    """Finds the training and validation images of a prepared set.

    Args:
      directory: TFDS data_dir with the set.
      wanted: WordNet ids of classes.

    Raises:
      UserError: the set is damaged, has other features than expected, or nothing of a class.
    """
    where = f"config.data.dir={directory}: cannot read {TFDS_NAME}"
    with importing_nothing(), reported(where):
        builder = make_builder(TFDS_NAME, str(directory))
        if not builder.is_prepared():
            raise UserError(f"{where}: it is not prepared; prepare it as array_record")
        place, names = Path(builder.data_dir), builder.info.features["label"].names
        decoders = {"image": tfds.decode.SkipDecoding()}
        sources = [builder.as_data_source(x, decoders=decoders) for x in ("train", "validation")]
    return [_make_split(place, source, names, wanted) for source in sources]


def _make_split(place, source, class_names, wanted) -> Split:
    def list_wanted():
        note("listing the images in %s", place)
        found: dict[str, list[Image]] = {name: [] for name in wanted}
        for start in range(0, len(source), _BLOCK):
            if start and start % (_SHOWN * _BLOCK) == 0:
                note("%d of %d images listed", start, len(source))
            block = range(start, min(start + _BLOCK, len(source)))
            with reported(f"cannot read {place}"):
                for number, example in zip(block, source.__getitems__(block), strict=True):
                    name = class_names[example["label"]]
                    if name in found:
                        image = os.fsdecode(example["file_name"]), number, len(example["image"])
                        found[name].append(image)
        found = {name: sorted(images) for name, images in found.items() if images}
        return check_classes(found, wanted, place)

    def open_records(*parts):
        return Records(place, source, *parts)

    return Split(place, [list_files(place), len(source)], list_wanted, open_records)
