"""Class means of features, and classification by the nearest mean."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.losses import unit_vectors
from cljax.memory import exemplars
from cljax.memory.ranking import class_counts
from cljax.state import Data, LearnerState, Subset

# What class means average over besides the images as they are (uint8 [B, H, W, C] -> the same).
MIRRORS: dict[str, Callable | None] = {
    "none": None,
    "horizontal": lambda images: images[:, :, ::-1],
    # What the LUCIR code's flip does: it reverses the colours.
    "channels": lambda images: images[..., ::-1],
}


def class_means(
    method,
    state: LearnerState,
    data: Data,
    images: Subset,
    labels: jax.Array,
    mirror: str = "none",
) -> jax.Array:
    """Unit vectors along the mean of each class's unit features (iCaRL, section 3; LUCIR's code).

    Args:
      method: gives `features`.
      images: of the classes, such as the exemplars.
      labels: int32 [capacity], of `images`; K for padding.
      mirror: a key of MIRRORS; the mean of mirrored images counts as much as that of the others.

    Returns:
      float32 [D, K]; zeros for classes without images.
    """
    num_classes = method.classifier.num_classes

    def mean(transform):
        found = method.features(state, data, images.indices, images.count, transform)
        sums = jnp.zeros((num_classes, found.shape[-1]))
        sums = sums.at[labels].add(unit_vectors(found), mode="drop")
        counts = class_counts(labels, num_classes)
        return sums / jnp.maximum(counts, 1)[:, None]

    total = mean(None)
    if MIRRORS[mirror] is not None:
        total = (total + mean(MIRRORS[mirror])) / 2
    return unit_vectors(total).T


def exemplar_means(method, state: LearnerState, data: Data, mirror: str = "none") -> jax.Array:
    """`class_means` of the exemplars that the state keeps."""
    images, labels = exemplars.as_subset(state.exemplars), exemplars.labels_of(state.exemplars)
    return class_means(method, state, data, images, labels, mirror)


def similarities(features: jax.Array, means: jax.Array) -> jax.Array:
    """The larger, the nearer: features [B, D] times means [D, K] of unit length -> [B, K].

    |f - u|^2 = |f|^2 + 1 - 2 <f, u>, so this orders classes as the Euclidean distance does.
    """
    return features.astype(jnp.float32) @ means
