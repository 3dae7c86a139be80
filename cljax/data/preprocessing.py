"""Converts stored images to the inputs of a network."""

import dataclasses

import jax
import jax.numpy as jnp

from cljax.data.augment import Augmentation, crop, draw, jitter, normalise


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Transforms training and test images of a dataset; static in compiled functions.

    Attributes:
      augmentation: random changes of training images.
      mean, std: one float per channel, moments of pixels scaled to 0..1.
      dtype: floating type of the result.
    """

    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: jnp.dtype = jnp.float32

    def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Augments and normalizes uint8 [B, H, W, C] -> `dtype` [B, H, W, C]; consumes the key."""
        draws = draw(key, len(images), self.augmentation)
        images = jitter(images, draws)
        if self.augmentation.crop_fill == "mean":
            return crop(self.test(images), draws, self.augmentation)
        return self.test(crop(images, draws, self.augmentation))

    def test(self, images: jax.Array) -> jax.Array:
        """Normalizes uint8 [B, H, W, C] -> `dtype` [B, H, W, C]."""
        return normalise(images, self.mean, self.std, self.dtype)

    def to_pixels(self, images: jax.Array) -> jax.Array:
        """Inverts `test`: float [B, H, W, C] -> uint8 pixels, clipped to 0..255."""
        pixels = (images * jnp.array(self.std) + jnp.array(self.mean)) * 255
        return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
