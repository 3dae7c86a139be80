"""The form in which images lie on a device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cljax.compute import device
from cljax.data import residence
from cljax.state import LANES, RowImages
from tests.helpers import tiny_runs


def dataset(height, width, channels):
    """Random images, each with its number as label."""
    empty = tiny_runs.empty_dataset(height, width, channels)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, height, width, channels), np.uint8)
    labels = np.arange(6, dtype=np.int32)
    train, test = (
        {f"{split}_images": images[::step], f"{split}_labels": labels[::step]}
        for split, step in (("train", 1), ("test", -1))
    )
    return dataclasses.replace(empty, **train, **test)


def test_a_tpu_has_rows_of_images():
    """Taken by index, they are the images. Others have them as they are."""
    found = dataset(8, 16, 3)
    with device.programs_for("tpu"):
        data, _ = residence.place(found, "device", False, None)
        odd, _ = residence.place(dataset(5, 5, 3), "device", False, None)
    usual, _ = residence.place(found, "device", False, None)
    assert isinstance(data.train_images, RowImages) and isinstance(odd.train_images, jax.Array)
    assert isinstance(usual.train_images, jax.Array)
    assert data.train_images.rows.shape == (6, 3, LANES)
    rows = jnp.array([4, 0, 4])
    for split in ("train_images", "eval_images"):
        one, other = getattr(data, split), getattr(usual, split)
        np.testing.assert_array_equal(jax.jit(lambda x: x[rows])(one), other[rows])
