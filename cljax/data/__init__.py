"""Datasets, task streams and augmentation."""

import numpy as np

Split = tuple[np.ndarray, np.ndarray]  # images and labels, of the shapes that `Dataset` has
Splits = tuple[Split, Split, tuple[str, ...]]  # of train and of test, and the class names
