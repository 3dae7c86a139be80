"""Decides whether images stay on the host or on the device, and puts them there."""

import math
from typing import Literal

import numpy as np
from jax.sharding import Mesh

from cljax.compute import device, mesh
from cljax.compute.host_images import HostImages
from cljax.data.sources import Dataset
from cljax.state import LANES, Canvases, Data, RowImages

_SHARE = 0.5  # of the device's memory for images; the rest is for networks and activations


def place(
    dataset: Dataset,
    residence: Literal["auto", "device", "stream"],
    validation: bool,
    devices: Mesh | None,
) -> tuple[Data, str]:
    """Puts a dataset where compiled functions take it from.

    Args:
      dataset: dataset on the host.
      residence: where images stay, as config.data.residence has it; labels are on the device.
      validation: whether the training images are the evaluation images too.
      devices: mesh, each of whose devices gets all; None: a single device.

    Returns:
      The data, and a line that says where images are, and why.
    """
    splits = ["train"] if validation else ["train", "test"]
    images = [getattr(dataset, f"{split}_images") for split in splits]
    fits, reason = _compare(images)
    on_host = residence == "stream" or (residence == "auto" and not fits)
    if on_host:
        placed = [HostImages(of_split) for of_split in images]
    else:
        placed = mesh.replicate(devices, [_to_device(np.asarray(of_split)) for of_split in images])
    placed = [
        pixels
        if isinstance(of_split, np.ndarray)
        else Canvases(pixels, mesh.replicate(devices, of_split.sizes))
        for pixels, of_split in zip(placed, images, strict=True)
    ]
    labels = mesh.replicate(devices, [getattr(dataset, f"{split}_labels") for split in splits])
    where = "host" if on_host else "device"
    line = f"config.data.residence={residence}: images stay on the {where}; {reason}"
    return Data(placed[0], labels[0], placed[-1], labels[-1]), line


def _to_device(images):
    """The form of images on the device."""
    size = math.prod(images.shape[1:])
    if device.platform() != "tpu" or size % LANES:
        return images
    return RowImages(images.reshape(len(images), -1, LANES), images.shape[1:])


def _compare(images) -> tuple[bool, str]:
    """Whether images fit the device, and the numbers."""
    needed = sum(math.prod(of_split.shape) for of_split in images)
    limit = device.memory()
    if limit is None:
        return True, f"they need {needed / 1e9:.3f} GB; the device does not tell its memory"
    numbers = f"they need {needed / 1e9:.3f} of {limit / 1e9:.1f} GB of the device's memory"
    return needed <= _SHARE * limit, numbers
