"""Augmentation: bit for bit as Pillow, and as a plain loop over images that makes no shortcuts."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cljax.data.augment import (
    Augmentation,
    adjust_brightness,
    adjust_contrast,
    augment,
    draw,
    normalise,
)
from cljax.data.preprocessing import Preprocessing
from cljax.errors import UserError

FULL = Augmentation(brightness=63 / 255, contrast=0.8, flip=True, crop_padding=4)
CROP = Augmentation(crop_padding=4)
SETTINGS = {
    "full": FULL,
    "nothing": Augmentation(),
    "brightness": Augmentation(brightness=0.5),
    "contrast": Augmentation(contrast=0.8),
    "jitter": Augmentation(brightness=1.5, contrast=2.0),
    "flip": Augmentation(flip=True),
    "crop": CROP,
    "flip and crop": Augmentation(flip=True, crop_padding=2),
}


def augment_by_key(key, images, augmentation):
    """Augments images as the draws of a key say."""
    return augment(images, draw(key, len(images), augmentation), augmentation)


jitted_augment = jax.jit(augment_by_key, static_argnums=2)


def random_images(shape, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


def blend(image, degenerate, factor):
    """trunc(clip(d + a (p - d), 0, 255)), rounded to float32 after every operation."""
    degenerate = np.float32(degenerate)
    product = np.float32(factor) * (image.astype(np.float32) - degenerate)
    return np.clip(degenerate + product, np.float32(0), np.float32(255)).astype(np.uint8)


def contrast_by_hand(image, factor):
    grey = image[..., 0].astype(np.int64)
    if image.shape[-1] == 3:
        red, green, blue = np.moveaxis(image.astype(np.int64), -1, 0)
        grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return blend(image, np.floor(grey.mean() + 0.5), factor)


def augment_by_hand(images, draws, padding):
    """One image at a time, in the order of the original transform."""
    results = []
    for i, image in enumerate(images):
        jitter = []
        if draws.brightness is not None:
            jitter.append(lambda x, i=i: blend(x, 0, draws.brightness[i]))
        if draws.contrast is not None:
            jitter.append(lambda x, i=i: contrast_by_hand(x, draws.contrast[i]))
        if draws.brightness_first is not None and not draws.brightness_first[i]:
            jitter.reverse()
        for transform in jitter:
            image = transform(image)
        if draws.mirrored is not None and draws.mirrored[i]:
            image = image[:, ::-1]
        if draws.offsets is not None:
            height, width = image.shape[:2]
            row, column = draws.offsets[i]
            padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
            image = padded[row : row + height, column : column + width]
        results.append(image)
    return np.stack(results)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jitted"])
@pytest.mark.parametrize(
    "name, adjust", [("brightness", adjust_brightness), ("contrast", adjust_contrast)]
)
def test_jitter_is_pillows_bit_for_bit(goldens, name, adjust, wrap):
    golden = goldens("augment")
    images = jnp.asarray(golden["images"])
    for factor, want in zip(golden[f"{name}_factors"], golden[name], strict=True):
        got = wrap(adjust)(images, jnp.full(len(images), factor))
        assert got.dtype == jnp.uint8
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "enhancer, adjust, factors",
    [
        (ImageEnhance.Brightness, adjust_brightness, np.linspace(0, 2.5, 64)),
        (ImageEnhance.Contrast, adjust_contrast, np.linspace(0, 2.5, 64)),
    ],
)
def test_jitter_is_pillows_for_many_factors(channels, enhancer, adjust, factors):
    factors = factors.astype(np.float32)
    images = random_images((64, 9, 7, channels))
    got = jax.jit(adjust)(images, factors)
    for image, factor, result in zip(images, factors, got, strict=True):
        pillow = Image.fromarray(image.squeeze(-1) if channels == 1 else image)
        want = np.asarray(enhancer(pillow).enhance(float(factor)))
        np.testing.assert_array_equal(result, want.reshape(result.shape))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jitted"])
def test_jitter_rounds_the_product_before_the_sum(wrap):
    """Pixels for which a fused multiply-add would give another integer."""
    pixels = np.arange(256, dtype=np.float64)
    factors = np.linspace(0.2, 1.8, 4001).astype(np.float32)
    mean = 100
    rounded = blend(pixels.astype(np.uint8)[None], mean, factors[:, None])
    exact = np.clip(mean + factors[:, None].astype(np.float64) * (pixels[None] - mean), 0, 255)
    fused = exact.astype(np.float32).astype(np.uint8)
    differing = np.argwhere(rounded != fused)
    assert len(differing) > 20
    # An image of mean 100 that holds the pixel in question: its mirror value balances it.
    pairs = [(f, p) for f, p in differing if 0 <= 2 * mean - p <= 255][:64]
    assert len(pairs) > 10
    images = np.array([[[[p]], [[2 * mean - p]]] for _, p in pairs], np.uint8)
    got = wrap(adjust_contrast)(images, factors[[f for f, _ in pairs]])
    np.testing.assert_array_equal(got[:, 0, 0, 0], [rounded[f, p] for f, p in pairs])


def test_factor_one_changes_nothing():
    images = random_images((4, 5, 5, 3))
    ones = jnp.ones(4)
    np.testing.assert_array_equal(adjust_brightness(images, ones), images)
    np.testing.assert_array_equal(adjust_contrast(images, ones), images)


@pytest.mark.parametrize("shape", [(32, 12, 9, 3), (32, 8, 8, 1)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_augment_is_a_plain_loop_over_images(setting, shape):
    augmentation = SETTINGS[setting]
    images = random_images(shape)
    key = jax.random.key(3)
    draws = jax.tree.map(np.asarray, draw(key, len(images), augmentation))
    want = augment_by_hand(images, draws, augmentation.crop_padding)
    for function in (augment_by_key, jitted_augment):
        got = function(key, jnp.asarray(images), augmentation)
        assert got.dtype == jnp.uint8
        np.testing.assert_array_equal(got, want)


def test_both_orders_of_the_jitter_occur_and_differ():
    images = random_images((64, 8, 8, 3))
    draws = jax.tree.map(np.asarray, draw(jax.random.key(0), 64, FULL))
    assert 16 < draws.brightness_first.sum() < 48
    swapped = draws._replace(brightness_first=~draws.brightness_first)
    one, other = (augment_by_hand(images, x, FULL.crop_padding) for x in (draws, swapped))
    assert (one != other).any()


def test_vmapped_equals_looped():
    keys = jax.random.split(jax.random.key(1), 3)
    images = jnp.asarray(random_images((3, 16, 8, 8, 3)))
    vmapped = jax.jit(jax.vmap(partial(augment_by_key, augmentation=FULL)))(keys, images)
    looped = [jitted_augment(key, batch, FULL) for key, batch in zip(keys, images, strict=True)]
    np.testing.assert_array_equal(vmapped, np.stack(looped))


def test_same_key_same_images_other_key_other_images():
    images = jnp.asarray(random_images((16, 8, 8, 3)))
    one, again, other = (jitted_augment(jax.random.key(k), images, FULL) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any()


def test_turning_one_transform_off_leaves_the_other_draws():
    key, batch = jax.random.key(5), 32
    full = draw(key, batch, FULL)
    off = {
        "brightness": Augmentation(0, 0.8, True, 4),
        "contrast": Augmentation(63 / 255, 0, True, 4),
        "mirrored": Augmentation(63 / 255, 0.8, False, 4),
        "offsets": Augmentation(63 / 255, 0.8, True, 0),
    }
    for name, augmentation in off.items():
        draws = draw(key, batch, augmentation)._asdict()
        assert draws.pop(name) is None
        if name in ("brightness", "contrast"):
            assert draws.pop("brightness_first") is None
        for other, values in draws.items():
            np.testing.assert_array_equal(values, getattr(full, other))


def test_draws_cover_their_ranges_evenly():
    count = 20000
    draws = jax.tree.map(np.asarray, draw(jax.random.key(0), count, FULL))
    for values, spread in ((draws.brightness, 63 / 255), (draws.contrast, 0.8)):
        assert values.dtype == np.float32
        low, high = 1 - spread, 1 + spread
        assert low <= values.min() < low + 0.01 * spread
        assert high - 0.01 * spread < values.max() <= high
        # Standard error of a uniform mean: spread / sqrt(3 count).
        assert abs(values.mean() - 1) < 5 * spread / np.sqrt(3 * count)
    for coin in (draws.brightness_first, draws.mirrored):
        assert abs(coin.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    for axis in range(2):
        histogram = np.bincount(draws.offsets[:, axis], minlength=9)
        assert histogram.shape == (9,)
        assert (abs(histogram - count / 9) < 5 * np.sqrt(count / 9)).all()
    numbers = [np.asarray(x, float) for x in draws[:4]] + list(draws.offsets.T.astype(float))
    correlations = np.corrcoef(numbers) - np.eye(6)
    assert abs(correlations).max() < 5 / np.sqrt(count)


def test_brightness_factors_are_never_negative():
    factors = draw(jax.random.key(0), 1000, Augmentation(brightness=3.0)).brightness
    assert 0 <= factors.min() < 0.1 and factors.max() > 3.9


def test_crop_shows_every_offset_and_black_outside():
    """On white images the black border tells the offset."""
    images = jnp.full((2000, 8, 8, 3), 255, jnp.uint8)
    got = np.asarray(jitted_augment(jax.random.key(0), images, CROP))
    offsets = np.asarray(draw(jax.random.key(0), 2000, CROP).offsets)
    assert set(np.unique(got)) == {0, 255}
    rows, columns = (np.arange(8)[None, :] + offsets[:, [axis]] - 4 for axis in (0, 1))
    inside = ((rows >= 0) & (rows < 8))[:, :, None] & ((columns >= 0) & (columns < 8))[:, None, :]
    np.testing.assert_array_equal(got[..., 0] == 255, inside)
    assert len({tuple(pair) for pair in offsets}) == 81


def test_padding_is_minus_mean_over_std_after_normalisation():
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    images = jnp.full((64, 8, 8, 3), 255, jnp.uint8)
    cropped = jitted_augment(jax.random.key(0), images, CROP)
    got = np.asarray(normalise(cropped, mean, std))
    black = np.asarray(cropped)[..., 0] == 0
    assert black.any()
    want = -np.float32(mean) / np.float32(std)
    np.testing.assert_array_equal(got[black], np.broadcast_to(want, got[black].shape))


def test_padding_with_the_mean_is_zero_after_normalisation():
    """Inside the images nothing changes."""
    images = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 3), np.uint8)
    images = np.maximum(images, 1)  # so that black is outside only
    black = Preprocessing(Augmentation(flip=True, crop_padding=2), (0.4,) * 3, (0.2,) * 3)
    mean = dataclasses.replace(
        black, augmentation=dataclasses.replace(black.augmentation, crop_fill="mean")
    )

    def train(preprocessing):
        draws = preprocessing.draw(jax.random.key(0), len(images))
        return np.asarray(jax.jit(preprocessing.train)(images, draws))

    one, other = train(black), train(mean)
    outside = np.isclose(one, -2)
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(other[outside], 0)
    # The two programs round pixel / 255 - mean differently, by 2^-25 at most before / std.
    np.testing.assert_allclose(other[~outside], one[~outside], rtol=1e-6, atol=2**-25 / 0.2)
    jittered = dataclasses.replace(
        mean, augmentation=dataclasses.replace(mean.augmentation, brightness=0.2)
    )
    assert not np.allclose(train(jittered), other)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_is_the_originals_arithmetic(channels):
    images = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None, None], channels, -1)
    mean, std = np.float32([0.3, 0.5, 0.7][:channels]), np.float32([0.2, 0.25, 0.3][:channels])
    want = (images.astype(np.float32) / np.float32(255) - mean) / std
    got = normalise(jnp.asarray(images), tuple(mean.tolist()), tuple(std.tolist()))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    half = normalise(jnp.asarray(images), mean, std, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, got.astype(jnp.bfloat16))


def test_augmentation_is_a_static_argument():
    assert hash(Augmentation(0.1, 0.2, True, 4)) == hash(Augmentation(0.1, 0.2, True, 4))
    assert Augmentation(0.1, 0.2, True, 4) == Augmentation(0.1, 0.2, True, 4)


@pytest.mark.parametrize(
    "setting", [{"brightness": -0.1}, {"contrast": float("nan")}, {"crop_padding": -1}]
)
def test_negative_settings_are_the_users_mistakes(setting):
    with pytest.raises(UserError) as error:
        Augmentation(**setting)
    key = f"config.data.augmentation.{next(iter(setting))}="
    assert str(error.value).startswith(key) and "\n" not in str(error.value)
