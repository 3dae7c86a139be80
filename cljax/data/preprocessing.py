"""Turns stored images into the inputs of a network."""

import dataclasses

import jax
import jax.numpy as jnp

from cljax.data.augment import Augmentation, augment, normalise


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The training and the test transform of a data set; static in compiled functions.

    Attributes:
      augmentation: random changes of training images.
      mean, std: per channel, of pixels scaled to 0..1.
      dtype: of the result.
    """

    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: jnp.dtype = jnp.float32

    def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """uint8 [B, H, W, C] -> augmented, normalised [B, H, W, C]. The key is consumed."""
        return self.test(augment(key, images, self.augmentation))

    def test(self, images: jax.Array) -> jax.Array:
        """uint8 [B, H, W, C] -> normalised [B, H, W, C]."""
        return normalise(images, self.mean, self.std, self.dtype)

    def to_pixels(self, images: jax.Array) -> jax.Array:
        """Normalised [B, H, W, C] -> uint8 pixels, clipped to 0..255; the inverse of `test`."""
        pixels = (images * jnp.array(self.std) + jnp.array(self.mean)) * 255
        return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
