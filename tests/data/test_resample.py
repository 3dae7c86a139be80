"""Crops and resizes: bit for bit as Pillow, on real images and on noise; boxes as torchvision's."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cljax.data import resample

SIDE = 96  # of canvases of noise
EXTREMES = [(1, 1), (1, 96), (96, 1), (96, 96), (95, 7), (32, 32), (36, 50), (50, 36), (37, 36)]
resized_crop = jax.jit(resample.resized_crop, static_argnums=2)
resize_and_centre_crop = jax.jit(resample.resize_and_centre_crop, static_argnums=(2, 3))
draw_boxes = jax.jit(resample.draw_boxes)


def noise(sizes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def canvases(images, side, seed=9):
    """The images on canvases, whose rest is noise that may not get into a result."""
    placed = np.stack(noise([(side, side)] * len(images), seed))
    for canvas, image in zip(placed, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    return placed, np.array([image.shape[:2] for image in images], np.int32)


def by_pillow(image, width, height):
    """Pillow's pixels, rows first; a call for both would begin with columns in some versions."""
    narrowed = image.resize((width, image.height), Image.Resampling.BILINEAR)
    return narrowed.resize((width, height), Image.Resampling.BILINEAR)


def crop_by_pillow(image, box, size):
    top, left, height, width = map(int, box)
    part = Image.fromarray(image).crop((left, top, left + width, top + height))
    return np.asarray(by_pillow(part, size, size))


def centre_by_torchvision(image, short, size):
    """Resize(short) and CenterCrop(size) of torchvision, whose arithmetic this is."""
    height, width = image.shape[:2]
    if width <= height:
        new_width, new_height = short, int(short * height / width)
    else:
        new_width, new_height = int(short * width / height), short
    resized = by_pillow(Image.fromarray(image), new_width, new_height)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


@functools.cache
def real_images(folder):
    images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*/*"))]
    for image in images:
        image.thumbnail((512, 512))
    return [np.asarray(image) for image in images]


@pytest.mark.parametrize("size", [8, 32, 64])
def test_a_resized_part_is_pillows(size):
    generator = np.random.default_rng(1)
    images = noise([*EXTREMES, *generator.integers(1, SIDE + 1, (31, 2))])
    placed, sizes = canvases(images, SIDE)
    parts = generator.integers(1, sizes + 1)
    parts[:9] = sizes[:9]
    boxes = np.hstack([generator.integers(0, sizes - parts + 1), parts])
    found = resized_crop(placed, boxes, size)
    expected = [crop_by_pillow(*pair, size) for pair in zip(images, boxes, strict=True)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("short", "size"), [(36, 32), (24, 24), (13, 8)])
def test_a_centre_is_torchvisions(short, size):
    images = noise([*EXTREMES, *np.random.default_rng(2).integers(1, SIDE + 1, (31, 2))])
    placed, sizes = canvases(images, SIDE)
    found = resize_and_centre_crop(placed, sizes, short, size)
    expected = [centre_by_torchvision(image, short, size) for image in images]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_resized_part_of_a_real_image_is_pillows(imagenet_samples):
    images = real_images(imagenet_samples)
    placed, sizes = canvases(images, 512)
    boxes = draw_boxes(jax.random.key(0), jnp.array(sizes))
    found = resized_crop(placed, boxes, 224)
    expected = [crop_by_pillow(*pair, 224) for pair in zip(images, boxes, strict=True)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_the_centre_of_a_real_image_is_torchvisions(imagenet_samples):
    images = real_images(imagenet_samples)
    placed, sizes = canvases(images, 512)
    found = resize_and_centre_crop(placed, sizes, 256, 224)
    expected = [centre_by_torchvision(image, 256, 224) for image in images]
    np.testing.assert_array_equal(found, expected)


def test_the_narrowest_image_of_a_large_canvas():
    """The largest numbers that its coefficients need."""
    images = noise([(512, 1), (1, 512), (1, 1)])
    found = resize_and_centre_crop(*canvases(images, 512), 256, 224)
    np.testing.assert_array_equal(found, [centre_by_torchvision(x, 256, 224) for x in images])


def test_what_surrounds_an_image_changes_nothing():
    images = noise([(40, 60), (SIDE, 20), (7, 7)])
    boxes = np.array([[0, 0, 40, 60], [10, 0, 86, 20], [0, 0, 7, 7]])
    (one, sizes), (other, _) = (canvases(images, SIDE, seed=seed) for seed in (9, 10))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(resized_crop(one, boxes, 32), resized_crop(other, boxes, 32))
    np.testing.assert_array_equal(
        resize_and_centre_crop(one, sizes, 36, 32), resize_and_centre_crop(other, sizes, 36, 32)
    )


def draw_many(height, width, number=20_000):
    sizes = jnp.tile(jnp.array([[height, width]], jnp.int32), (number, 1))
    return np.asarray(draw_boxes(jax.random.key(3), sizes))


def by_torchvision(height, width, number):
    """Boxes of RandomResizedCrop, one at a time, with NumPy's numbers in place of torch's."""
    generator = np.random.default_rng(4)
    boxes = []
    for _ in range(number):
        for _ in range(10):
            area = height * width * generator.uniform(0.08, 1)
            aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = generator.integers(0, [height - h + 1, width - w + 1])
                break
        else:
            ratio = width / height
            w, h = width, height
            if ratio < 3 / 4:
                h = round(width / (3 / 4))
            elif ratio > 4 / 3:
                w = round(height * (4 / 3))
            top, left = (height - h) // 2, (width - w) // 2
        boxes.append((top, left, h, w))
    return np.array(boxes)


@pytest.mark.parametrize("sides", [(375, 500), (500, 333), (64, 64), (500, 188)])
def test_boxes_have_the_distribution_of_torchvisions(sides):
    """Deciles of each number and of the aspect ratio; 20,000 draws have 0.4 % of error."""
    drawn, expected = draw_many(*sides), by_torchvision(*sides, 20_000)
    assert (drawn >= [0, 0, 1, 1]).all() and (drawn[:, :2] + drawn[:, 2:] <= sides).all()
    for column in ("top", "left", "height", "width", "aspect", "area"):
        one, other = (
            dict(
                zip(("top", "left", "height", "width"), boxes.T, strict=True),
                aspect=boxes[:, 3] / boxes[:, 2],
                area=boxes[:, 3] * boxes[:, 2],
            )[column]
            for boxes in (drawn, expected)
        )
        for decile in np.quantile(other, np.arange(0.1, 1, 0.1)):
            assert abs((one <= decile).mean() - (other <= decile).mean()) < 0.02, column


@pytest.mark.parametrize(
    ("sides", "box"), [((10, 300), (0, 143, 10, 13)), ((300, 10), (143, 0, 13, 10))]
)
def test_an_image_too_narrow_for_any_draw_gives_its_centre(sides, box):
    """Only a part of less than 8 % of it would fit."""
    assert np.unique(draw_many(*sides, 100), axis=0).tolist() == [list(box)]


def test_every_key_and_image_has_its_own_box():
    boxes = draw_many(300, 300, 50)
    assert len(np.unique(boxes, axis=0)) == 50
    sizes = jnp.full((50, 2), 300, jnp.int32)
    assert not np.array_equal(draw_boxes(jax.random.key(5), sizes), boxes)
