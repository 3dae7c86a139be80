"""Crops and resizes images of different sizes with pure functions for compiled steps.

What the rest of a canvas holds (see `Canvases`) changes no result.

Resizing reproduces Pillow's bilinear filter bit for bit: a triangle that widens with the reduction,
coefficients of 22 bits, first along rows and then along columns, each rounded to 8 bits. (Pillow
from version 13 begins with columns where that is faster, which changes pixels by one level.) Pillow
computes its coefficients in float64. Integers give the same ones, because no quotient comes close
to a half. They stay below 2**31 for canvases of up to 512 pixels and results of 4 pixels or more.
"""

import math

import jax
import jax.numpy as jnp

_BITS = 22  # of Pillow's coefficients, whose sum is 2**22
_HALF_BITS = 11
_DIGIT_BITS, _DIGITS = 8, 3  # of a coefficient; all numbers that are multiplied have 8 bits
_BLOCK = 16  # images that are converted to float at once
_ATTEMPTS = 10  # of torchvision's RandomResizedCrop
_AREAS = (0.08, 1.0)
_ASPECTS = (3 / 4, 4 / 3)


def draw_boxes(key: jax.Array, sizes: jax.Array) -> jax.Array:
    """Draws a random part of each image, as torchvision's RandomResizedCrop does.

    Of ten attempts with uniform area (0.08 to 1 of the image) and log-uniform aspect ratio (3/4 to
    4/3) the first that fits is taken, at a uniform place. If none fits, the largest central part
    with an aspect ratio in that range is taken.

    Args:
      key: random key of this batch.
      sizes: int32 [B, 2], heights and widths.

    Returns:
      int32 [B, 4]: top, left, height and width of each part.
    """
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    height, width = sizes[:, 0], sizes[:, 1]
    drawn = len(sizes), _ATTEMPTS
    areas = jax.random.uniform(area_key, drawn, jnp.float32, *_AREAS)
    areas = areas * (height * width)[:, None]
    logs = jax.random.uniform(aspect_key, drawn, jnp.float32, *map(math.log, _ASPECTS))
    roots = jnp.exp(logs / 2)  # of width / height
    tries = jnp.stack([jnp.sqrt(areas) / roots, jnp.sqrt(areas) * roots], axis=-1)
    tries = jnp.round(tries).astype(jnp.int32)
    fits = ((tries > 0) & (tries <= sizes[:, None])).all(-1)
    first = jnp.take_along_axis(tries, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    low, high = _ASPECTS
    whole = jnp.stack(
        [
            jnp.minimum(height, jnp.round(width / low).astype(jnp.int32)),
            jnp.minimum(width, jnp.round(height * high).astype(jnp.int32)),
        ],
        axis=-1,
    )
    fits = fits.any(1)[:, None]
    parts = jnp.where(fits, first, whole)
    free = sizes - parts
    places = jax.random.randint(place_key, free.shape, 0, free + 1)
    return jnp.concatenate([jnp.where(fits, places, free // 2), parts], axis=-1)


def resized_crop(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Cuts a part out of each image and resizes it to a square.

    Equals Pillow's `image.crop(box).resize((size, size), BILINEAR)`, rows first.

    Args:
      images: uint8 [B, S, S, C], canvases.
      boxes: int32 [B, 4]: top, left, height and width of the parts, inside of the images.
      size: side of the result in pixels.

    Returns:
      uint8 [B, size, size, C].
    """

    def resize(image, box):
        rows, columns = (
            _coefficients(image.shape[axis], box[axis], box[2 + axis], size) for axis in (0, 1)
        )
        return _apply(rows, _apply(columns, image.swapaxes(0, 1)).swapaxes(0, 1))

    return _map(resize, images, boxes)


def resize_and_centre_crop(images: jax.Array, sizes: jax.Array, short: int, size: int) -> jax.Array:
    """Resizes the short side of each image, keeps its aspect ratio, and cuts out the center.

    Equals torchvision's Resize(short) and CenterCrop(size) on Pillow images: the long side is
    rounded down, and the margin to a half pixel's even neighbor.

    Args:
      images: uint8 [B, S, S, C], canvases.
      sizes: int32 [B, 2], heights and widths.
      short: short side of the resized image in pixels.
      size: side of the result in pixels, at most `short`.

    Returns:
      uint8 [B, size, size, C].
    """

    def resize(image, sides):
        resized = short * sides // sides.min()
        margins = resized - size
        firsts = margins // 2 + (margins % 4 == 3)  # Python's round(margin / 2)
        rows, columns = (
            _coefficients(image.shape[axis], 0, sides[axis], size, resized[axis], firsts[axis])
            for axis in (0, 1)
        )
        return _apply(rows, _apply(columns, image.swapaxes(0, 1)).swapaxes(0, 1))

    return _map(resize, images, sizes)


def _map(resize, images, boxes):
    """Applies `resize` to each image: to a block of them at once, for the sake of memory."""
    number = len(images)
    count = -(-number // _BLOCK)

    def split(values):
        values = jnp.pad(values, [(0, -number % count)] + [(0, 0)] * (values.ndim - 1), "edge")
        # Neighbors are in different blocks, so that all devices that share a batch have a part.
        return values.reshape(-1, count, *values.shape[1:]).swapaxes(0, 1)

    blocks = jax.lax.map(lambda block: jax.vmap(resize)(*block), (split(images), split(boxes)))
    resized = blocks.swapaxes(0, 1).reshape(-1, *blocks.shape[2:])[:number]
    # What comes after is compiled in the same way wherever the images are: on the host or not.
    return jax.lax.optimization_barrier(resized)


def _coefficients(canvas, start, length, count, resized=None, first=0):
    """Pillow's coefficients for resizing a part of an axis.

    Args:
      canvas: length of the axis.
      start, length: int32 [], the part of the axis that is resized.
      count: number of pixels of the result.
      resized: int32 [], pixels that the whole part is resized to, of which only `count` are wanted;
        None: as many.
      first: int32 [], first of them that is wanted.

    Returns:
      int32 [count, canvas], each row of sum 2**22 but for rounding.
    """
    resized = count if resized is None else resized
    # Distances between the centers of pixels, in units of 1 / (2 * resized) pixels.
    centers = (2 * (jnp.arange(count) + first) + 1) * length
    pixels = jnp.arange(canvas) - start
    distances = jnp.abs(centers[:, None] - resized * (2 * pixels + 1))
    weights = jnp.maximum(2 * jnp.maximum(length, resized) - distances, 0)
    weights = jnp.where((pixels >= 0) & (pixels < length), weights, 0)
    total = weights.sum(1, keepdims=True)
    # round(2**22 * weights / total), in two steps that stay below 2**31.
    high, rest = jnp.divmod(weights << _HALF_BITS, total)
    return (high << _HALF_BITS) + ((rest << (_HALF_BITS + 1)) + total) // (2 * total)


def _apply(coefficients, pixels):
    """Weighs the first axis of pixels: int32 [n, S] and uint8 [S, ...] -> uint8 [n, ...].

    A matrix product for each digit of the coefficients: products of 8 bits are exact in whatever
    format a device multiplies matrices, and their sums below 2**24 are in float32.
    """
    places = _DIGIT_BITS * jnp.arange(_DIGITS)
    digits = (coefficients >> places[:, None, None]) & (2**_DIGIT_BITS - 1)
    sums = jnp.einsum(
        "dns,s...->dn...",
        digits.astype(jnp.float32),
        pixels.astype(jnp.float32),
        precision=jax.lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )
    sums = sums.astype(jnp.int32) << places.reshape(-1, *[1] * pixels.ndim)
    total = sums.sum(0) + 2 ** (_BITS - 1)
    return jnp.clip(total >> _BITS, 0, 255).astype(jnp.uint8)
