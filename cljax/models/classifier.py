"""A classifier: a backbone that gives features, and a head that gives logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.models.resnet import he_normal_fan_in


class Outputs(NamedTuple):
    """logits float [B, K] over all classes of the run; features float [B, D]."""

    logits: jax.Array
    features: jax.Array


def _uniform_bias(key, shape, dtype, features: int):
    bound = features**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class LinearHead(nn.Module):
    """logits = features W + b, with the initial values of the ABD code."""

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """features [B, D] -> logits [B, K]."""
        size = features.shape[-1]
        kernel = self.param("kernel", he_normal_fan_in, (size, self.num_classes))
        bias = self.param("bias", _uniform_bias, (self.num_classes,), jnp.float32, size)
        return features @ kernel + bias


class Classifier(nn.Module):
    """Backbone and linear head; the head has all classes from the start.

    Variables: `params` and `batch_stats`, each with `backbone` and (params) `head`.
    """

    backbone: nn.Module
    num_classes: int

    def setup(self):
        self.head = LinearHead(self.num_classes)

    def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
        """images float [B, H, W, C], normalised -> logits and features."""
        features = self.backbone(images, train)
        return Outputs(self.head(features), features)

    def classify(self, features: jax.Array) -> jax.Array:
        """Logits [B, K] of given features [B, D]."""
        return self.head(features)
