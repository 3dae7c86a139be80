"""Computes class means of features, and classifies by the nearest mean."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from cljax.losses import unit_vectors
from cljax.memory import exemplars
from cljax.memory.ranking import class_counts
from cljax.models import Classifier
from cljax.state import Data, LearnerState, Subset

Transform = Callable[[jax.Array], jax.Array]

# Mirrored copies (uint8 [B, H, W, C] -> the same shape) that class means also average over.
MIRRORS: dict[str, Transform | None] = {
    "none": None,
    "horizontal": lambda images: images[:, :, ::-1],
    # The flip of the LUCIR reference code reverses the colors.
    "channels": lambda images: images[..., ::-1],
}


class HasFeatures(Protocol):
    """A method, as far as class means need it (see `methods.base.Finetune`)."""

    @property
    def classifier(self) -> Classifier:
        """Backbone and head."""
        ...

    def features(
        self,
        state: LearnerState,
        data: Data,
        indices: jax.Array,
        count: jax.Array,
        transform: Transform | None = None,
    ) -> jax.Array:
        """Computes the features float [N, D] of training images int32 [N]."""
        ...


def class_means(
    method: HasFeatures,
    state: LearnerState,
    data: Data,
    images: Subset,
    labels: jax.Array,
    mirror: str = "none",
) -> jax.Array:
    """Computes the mean of each class's unit features, scaled to norm 1 (iCaRL, section 3; LUCIR).

    Args:
      method: the method, whose `features` are averaged.
      state: learner state.
      data: dataset on the device.
      images: images of the classes, such as the exemplars.
      labels: int32 [capacity], of `images`; K for padding.
      mirror: a key of MIRRORS; the mean of mirrored images weighs the same as that of the others.

    Returns:
      float32 [D, K]; zeros for classes without images.
    """
    num_classes = method.classifier.num_classes

    def mean(transform: Transform | None) -> jax.Array:
        found = method.features(state, data, images.indices, images.count, transform)
        sums = jnp.zeros((num_classes, found.shape[-1]))
        sums = sums.at[labels].add(unit_vectors(found), mode="drop")
        counts = class_counts(labels, num_classes)
        return sums / jnp.maximum(counts, 1)[:, None]

    total = mean(None)
    if MIRRORS[mirror] is not None:
        total = (total + mean(MIRRORS[mirror])) / 2
    return unit_vectors(total).T


def exemplar_means(
    method: HasFeatures, state: LearnerState, data: Data, mirror: str = "none"
) -> jax.Array:
    """Computes `class_means` of the exemplars in the learner state."""
    assert state.exemplars is not None  # build checks that a method has what its read-outs need
    images, labels = exemplars.as_subset(state.exemplars), exemplars.labels_of(state.exemplars)
    return class_means(method, state, data, images, labels, mirror)


def similarities(features: jax.Array, means: jax.Array) -> jax.Array:
    """Scores how near features are to class means; a larger score is nearer.

    |f - u|^2 = |f|^2 + 1 - 2 <f, u>, so <f, u> orders classes as the Euclidean distance does.

    Args:
      features: float [B, D].
      means: float32 [D, K], of norm 1.

    Returns:
      float32 [B, K].
    """
    return features.astype(jnp.float32) @ means
