"""Canvases become what networks see; images of one size stay as they were."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.data import resample
from cljax.data.augment import Augmentation, augment, draw, normalise
from cljax.data.preprocessing import Preprocessing
from cljax.state import Canvases

MOMENTS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = jnp.array([[40, 60], [64, 33], [28, 28], [64, 64]], jnp.int32)
KEY = jax.random.key(0)
IMAGENET = Augmentation(flip=True, resized_crop=True)


def make_canvases(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 64, 64, 3), np.uint8)
    return Canvases(jnp.asarray(pixels), SIZES)


@functools.partial(jax.jit, static_argnums=0)
def train(augmentation, key, images):
    preprocessing = Preprocessing(augmentation, *MOMENTS, input_size=28)
    sizes = images.sizes if isinstance(images, Canvases) else None
    return preprocessing.train(images, preprocessing.draw(key, 4, sizes))


def test_a_test_image_is_the_centre():
    images = make_canvases()
    found = Preprocessing(Augmentation(), *MOMENTS, input_size=28).test(images)
    centers = resample.resize_and_centre_crop(images.pixels, SIZES, 32, 28)
    assert found.shape == (4, 28, 28, 3) and found.dtype == jnp.float32
    np.testing.assert_array_equal(found, normalise(centers, *MOMENTS))


def test_imagenets_own_sizes_are_256_and_224(monkeypatch):
    called = []
    monkeypatch.setattr(resample, "resize_and_centre_crop", lambda *args: called.append(args[2:]))
    Preprocessing(Augmentation(), *MOMENTS, input_size=224).center(make_canvases())
    assert called == [(256, 224)]


def test_a_training_image_is_a_random_part():
    images = make_canvases()
    plain = Augmentation(resized_crop=True)
    one, other = (train(plain, jax.random.key(seed), images) for seed in (0, 1))
    assert one.shape == (4, 28, 28, 3)
    assert (one != other).any((1, 2, 3)).all()
    np.testing.assert_array_equal(train(plain, KEY, images), one)
    mirrored = train(IMAGENET, KEY, images)
    flips = [(a == b[:, ::-1]).all() for a, b in zip(mirrored, one, strict=True)]
    same = [(a == b).all() for a, b in zip(mirrored, one, strict=True)]
    assert [bool(f) ^ bool(s) for f, s in zip(flips, same, strict=True)] == [True] * 4
    assert any(flips) and any(same)


@pytest.mark.parametrize("augmentation", [IMAGENET, Augmentation(flip=True, crop_padding=4)])
def test_other_changes_come_after_the_part_or_the_centre(augmentation):
    images = make_canvases()
    if augmentation.resized_crop:
        # A key that `augment` uses for nothing else.
        boxes = resample.draw_boxes(jax.random.fold_in(KEY, 5), SIZES)
        parts = resample.resized_crop(images.pixels, boxes, 28)
    else:
        parts = resample.resize_and_centre_crop(images.pixels, SIZES, 32, 28)
    draws = draw(KEY, 4, augmentation)
    expected = normalise(augment(parts, draws, augmentation), *MOMENTS)
    np.testing.assert_allclose(train(augmentation, KEY, images), expected, rtol=0, atol=1e-6)


def test_what_surrounds_an_image_changes_nothing():
    one = make_canvases()
    inside = (jnp.arange(64) < SIZES[:, :1])[:, :, None] & (jnp.arange(64) < SIZES[:, 1:])[:, None]
    other = Canvases(jnp.where(inside[..., None], one.pixels, 0), SIZES)
    np.testing.assert_array_equal(train(IMAGENET, KEY, one), train(IMAGENET, KEY, other))


def test_seeds_are_an_axis():
    images, keys = make_canvases(), jax.random.split(KEY, 3)
    together = jax.vmap(functools.partial(train, IMAGENET), (0, None))(keys, images)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_array_equal(found, train(IMAGENET, key, images))


def test_rows_of_canvases():
    images, rows = make_canvases(), jnp.array([2, 0])
    found = images[rows]
    np.testing.assert_array_equal(found.pixels, images.pixels[rows])
    np.testing.assert_array_equal(found.sizes, SIZES[rows])


def test_images_of_one_size_are_only_changed_and_normalised():
    pixels = make_canvases().pixels
    full = Augmentation(0.3, 0.8, True, 4)
    draws = draw(KEY, 4, full)
    expected = jax.jit(lambda x: normalise(augment(x, draws, full), *MOMENTS))(pixels)
    np.testing.assert_array_equal(train(full, KEY, pixels), expected)
    np.testing.assert_array_equal(Preprocessing(full, *MOMENTS).center(pixels), pixels)
