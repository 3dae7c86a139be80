"""Where the tests find the golden numbers and the prepared data sets, and fixtures they share."""

import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDENS = Path(os.environ.get("CLJAX_GOLDENS", SHARED / "goldens"))
TFDS = Path(os.environ.get("CLJAX_TFDS", SHARED / "tfds"))


@pytest.fixture(scope="session")
def goldens():
    """A function from a name to the arrays of `dfcil/NAME.npz`, numbers of the original code."""
    folder = GOLDENS / "dfcil"
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; set CLJAX_GOLDENS to the folder of dfcil/")
    cache = {}

    def load(name):
        if name not in cache:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
                cache[name] = dict(archive)
        return cache[name]

    load.folder = folder
    return load


@pytest.fixture(scope="session")
def tfds_dir():
    """The folder of the prepared TFDS sets `cifar10` and `cifar100`."""
    if not TFDS.is_dir():
        pytest.skip(f"no prepared data sets at {TFDS}; set CLJAX_TFDS to a TFDS data_dir")
    return TFDS
