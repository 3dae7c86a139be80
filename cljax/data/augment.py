"""Augments and normalizes uint8 images with pure functions for compiled steps.

The transforms, their order and their arithmetic are those of the ABD reference code, which applies
torchvision's to 8-bit Pillow images. The jitter reproduces Pillow bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from cljax.data import resample
from cljax.errors import UserError

_BRIGHTNESS, _CONTRAST, _ORDER, _FLIP, _CROP, _RESIZED_CROP = range(6)  # each has its own key
Moments = ArrayLike | Sequence[float]
_GREY_WEIGHTS = (19595, 38470, 7471)  # of R, G, B in 1/65536, as Pillow converts to grey


@dataclass(frozen=True)
class Augmentation:
    """Describes the random changes of training images; hashable, a static argument of a step.

    Attributes:
      brightness: spread of the brightness factors, which are uniform in
        [max(0, 1 - brightness), 1 + brightness]; 0 (default): off.
      contrast: spread of the contrast factors, in the same way; 0 (default): off.
      flip: whether images are mirrored left to right with probability 1/2.
      crop_padding: pixels of border on each side before a random crop; 0 (default): off.
      crop_fill: color of this border: "black", or "mean", which is 0 after normalization.
      resized_crop: whether a random part of an image with a size of its own is resized, before all
        else, as `resample.draw_boxes` draws it; False (default): its center is, as for test images.

    Raises:
      UserError: a number is negative.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    flip: bool = False
    crop_padding: int = 0
    crop_fill: Literal["black", "mean"] = "black"
    resized_crop: bool = False

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "crop_padding"):
            value = getattr(self, name)
            if not value >= 0:
                raise UserError(f"config.data.augmentation.{name}={value}: must be 0 (off) or more")


class Draws(NamedTuple):
    """Holds the random choices of one batch; None where the transform is off.

    Attributes:
      brightness, contrast: float32 [B], factors.
      brightness_first: bool [B], whether brightness is adjusted before contrast.
      mirrored: bool [B].
      offsets: int32 [B, 2], first row and column of the crop in the padded image.
      boxes: int32 [B, 4], as `resample.draw_boxes` draws them.
    """

    brightness: jax.Array | None
    contrast: jax.Array | None
    brightness_first: jax.Array | None
    mirrored: jax.Array | None
    offsets: jax.Array | None
    boxes: jax.Array | None


def _per_image(values):
    return values[:, None, None, None]


def _blend(images, degenerate, factors):
    """uint8 trunc(clip(d + a (p - d), 0, 255)) in float32, for integer d: Pillow's Image.blend.

    Clipping a (p - d) to [-d, 255 - d] before the sum gives the same numbers, and keeps compilers
    from fusing product and sum, which would skip the product's rounding.
    """
    change = factors * (images.astype(jnp.float32) - degenerate)
    return (degenerate + jnp.clip(change, -degenerate, 255 - degenerate)).astype(jnp.uint8)


def adjust_brightness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Scales pixels as Pillow does: uint8 [B, H, W, C] and float32 [B] -> uint8 [B, H, W, C]."""
    factors = factors.astype(jnp.float32)
    return _blend(images, jnp.zeros((), jnp.float32), _per_image(factors))


def adjust_contrast(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Scales distances from the rounded mean of the gray image, as Pillow does.

    Args:
      images: uint8 [B, H, W, C]; three channels are RGB, one channel is gray already.
      factors: float32 [B].

    Returns:
      uint8 [B, H, W, C].
    """
    _, height, width, channels = images.shape
    grey = images.astype(jnp.int32)
    if channels == 3:
        red, green, blue = (weight * grey[..., c] for c, weight in enumerate(_GREY_WEIGHTS))
        grey = (red + green + blue + 2**15) >> 16
    total, count = grey.reshape(len(images), -1).sum(-1), height * width
    mean = (2 * total + count) // (2 * count)  # floor(total / count + 1/2), in integers
    factors = factors.astype(jnp.float32)
    return _blend(images, _per_image(mean.astype(jnp.float32)), _per_image(factors))


def crop(images: jax.Array, draws: Draws, augmentation: Augmentation) -> jax.Array:
    """Flips, pads with zeros and crops: [B, H, W, C] -> the same shape and dtype."""
    mirrored, offsets, padding = draws.mirrored, draws.offsets, augmentation.crop_padding
    if mirrored is not None:
        images = jnp.where(_per_image(mirrored), images[:, :, ::-1], images)
    if offsets is None:
        return images
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def part(image, offset):
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

    return jax.vmap(part)(padded, offsets)


def draw(
    key: jax.Array, batch: int, augmentation: Augmentation, sizes: jax.Array | None = None
) -> Draws:
    """Draws the random choices of a batch; switching one transform off does not change the others.

    Args:
      key: random key of this batch.
      batch: B.
      augmentation: static.
      sizes: int32 [B, 2], heights and widths of images of different sizes; None: all are equal.
    """

    def factors(purpose, spread):
        low, high = max(0.0, 1 - spread), 1 + spread
        return jax.random.uniform(
            jax.random.fold_in(key, purpose), (batch,), jnp.float32, low, high
        )

    def coin(purpose):
        return jax.random.bernoulli(jax.random.fold_in(key, purpose), 0.5, (batch,))

    brightness, contrast = augmentation.brightness, augmentation.contrast
    padding = augmentation.crop_padding
    crop_key = jax.random.fold_in(key, _CROP)
    boxes = None
    if sizes is not None and augmentation.resized_crop:
        boxes = resample.draw_boxes(jax.random.fold_in(key, _RESIZED_CROP), sizes)
    return Draws(
        brightness=factors(_BRIGHTNESS, brightness) if brightness else None,
        contrast=factors(_CONTRAST, contrast) if contrast else None,
        brightness_first=coin(_ORDER) if brightness and contrast else None,
        mirrored=coin(_FLIP) if augmentation.flip else None,
        offsets=jax.random.randint(crop_key, (batch, 2), 0, 2 * padding + 1) if padding else None,
        boxes=boxes,
    )


def augment(images: jax.Array, draws: Draws, augmentation: Augmentation) -> jax.Array:
    """Jitters, flips and crops a batch, each image with its own random choices.

    Does what the training transform of the ABD reference code does: brightness and contrast in
    random order, then the flip, then padding with black and a random crop back to the image size.

    Args:
      images: uint8 [B, H, W, C], C 1 or 3.
      draws: of this batch.
      augmentation: static.

    Returns:
      uint8 [B, H, W, C].
    """
    return crop(jitter(images, draws), draws, augmentation)


def jitter(images: jax.Array, draws: Draws) -> jax.Array:
    """Changes brightness and contrast: uint8 [B, H, W, C], C 1 or 3 -> the same."""
    if draws.brightness_first is not None:
        assert draws.brightness is not None and draws.contrast is not None
        # A factor of 1 changes no pixel, so brightness can run before or after contrast.
        images = adjust_brightness(images, jnp.where(draws.brightness_first, draws.brightness, 1))
        images = adjust_contrast(images, draws.contrast)
        return adjust_brightness(images, jnp.where(draws.brightness_first, 1, draws.brightness))
    if draws.brightness is not None:
        return adjust_brightness(images, draws.brightness)
    if draws.contrast is not None:
        return adjust_contrast(images, draws.contrast)
    return images


def normalise(
    images: jax.Array, mean: Moments, std: Moments, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Computes (pixel / 255 - mean) / std per channel, in float32 or `dtype` if that is wider.

    Args:
      images: uint8 [B, H, W, C].
      mean, std: float [C], moments of pixels scaled to 0..1.
      dtype: floating type of the result.

    Returns:
      `dtype` [B, H, W, C].
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    pixels = images.astype(wide) / 255
    return ((pixels - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)).astype(dtype)
