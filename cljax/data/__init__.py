"""Datasets, task streams and augmentation."""

from typing import Any, Protocol

import numpy as np


class StoredImages(Protocol):
    """Images of different sizes that are read when they are used, `image_files.ImageFiles`.

    Attributes:
      shape: (N, S, S, C); each image is in the top left corner of a square.
      dtype: uint8.
      sizes: int32 [N, 2], heights and widths.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype
    sizes: np.ndarray

    def __len__(self) -> int:
        """Counts them."""
        ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Reads images: int [B] -> uint8 [B, S, S, C]."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all images."""
        ...

    def take(self, indices: np.ndarray) -> Any:
        """Returns some of the images, int [M], without reading them."""
        ...

    def fingerprint(self) -> np.ndarray:
        """Returns bytes that other images would not have, uint8 [M]."""
        ...


Images = np.ndarray | StoredImages
Split = tuple[Images, np.ndarray]  # images and labels, of the shapes that `Dataset` has
Splits = tuple[Split, Split, tuple[str, ...]]  # of train and of test, and the class names
