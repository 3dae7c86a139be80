"""Converts stored images to the inputs of a network."""

import dataclasses

import jax
import jax.numpy as jnp

from cljax.data import resample
from cljax.data.augment import Augmentation, Draws, augment, crop, draw, jitter, normalise
from cljax.state import Canvases


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Transforms training and test images of a dataset; static in compiled functions.

    Attributes:
      augmentation: random changes of training images.
      mean, std: one float per channel, moments of pixels scaled to 0..1.
      dtype: floating type of the result.
      input_size: side in pixels of the squares that canvases become; 0: there are no canvases.
    """

    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: jnp.dtype = jnp.float32
    input_size: int = 0

    def draw(self, key: jax.Array, count: int, sizes: jax.Array | None = None) -> Draws:
        """Draws the random choices of `count` images; see `augment.draw`."""
        return draw(key, count, self.augmentation, sizes)

    def train(self, images: jax.Array | Canvases, draws: Draws) -> jax.Array:
        """Augments and normalizes images.

        Args:
          images: uint8 [B, H, W, C], or canvases.
          draws: of these images.

        Returns:
          `dtype` [B, H, W, C]; of canvases [B, input_size, input_size, C].
        """
        if isinstance(images, Canvases) and draws.boxes is not None:
            images = resample.resized_crop(images.pixels, draws.boxes, self.input_size)
        images = self.center(images)
        if self.augmentation.crop_fill == "black":
            return self.test(augment(images, draws, self.augmentation))
        return crop(self.test(jitter(images, draws)), draws, self.augmentation)

    def test(self, images: jax.Array | Canvases) -> jax.Array:
        """Normalizes images, or the centers of canvases; argument and result as in `train`."""
        return normalise(self.center(images), self.mean, self.std, self.dtype)

    def center(self, images: jax.Array | Canvases) -> jax.Array:
        """Cuts the center out of canvases: with `input_size` 224 after a resize to 256 pixels.

        Args:
          images: uint8 [B, H, W, C], which are returned as they are, or canvases.

        Returns:
          uint8 [B, H, W, C]; of canvases [B, input_size, input_size, C].
        """
        return center(images, self.input_size)

    def to_pixels(self, images: jax.Array) -> jax.Array:
        """Inverts `test`: float [B, H, W, C] -> uint8 pixels, clipped to 0..255."""
        pixels = (images * jnp.array(self.std) + jnp.array(self.mean)) * 255
        return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def center(images: jax.Array | Canvases, input_size: int) -> jax.Array:
    """Cuts squares of `input_size` pixels out of the centers of canvases; see `Preprocessing`."""
    if not isinstance(images, Canvases):
        return images
    short = input_size * 8 // 7
    return resample.resize_and_centre_crop(images.pixels, images.sizes, short, input_size)
