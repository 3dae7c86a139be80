"""Convolutions and batch norm whose gradients are written by hand, against autodiff in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cljax.models import conv, norm

ONE = ((1, 1), (1, 1))

# (map side, inputs, outputs, kernel, stride, padding): outputs more, fewer and as many as inputs;
# those of few channels and an even width come in pairs.
CASES = [
    (6, 4, 4, 3, 1, ONE),
    (6, 2, 18, 3, 1, ONE),
    (6, 3, 4, 1, 1, ((0, 0), (0, 0))),
    (6, 3, 16, 3, 1, ONE),
    (6, 16, 3, 3, 1, ONE),
    (5, 5, 3, 3, 1, ONE),
    (6, 4, 8, 3, 2, ONE),
    (7, 4, 8, 3, 2, ONE),
    (7, 8, 2, 3, 2, ONE),
    (6, 4, 6, 1, 2, ((0, 0), (0, 0))),
    (4, 6, 4, 2, 1, ONE),
    (5, 3, 4, 2, 1, ((0, 1), (1, 0))),
    (8, 3, 4, 4, 2, ONE),
    (12, 3, 8, 7, 2, ((3, 3), (3, 3))),
    (9, 3, 2, 7, 2, ((3, 3), (3, 3))),
]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw(*shapes):
    draws = np.random.default_rng(0)
    return [jnp.asarray(draws.normal(size=shape)) for shape in shapes]


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def plain(x, kernel, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=dimensions
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution(case):
    side, inputs, outputs, size, stride, padding = case
    x, kernel = draw((2, side, side, inputs), (size, size, inputs, outputs))
    expected, transposed = jax.vjp(lambda x, k: plain(x, k, stride, padding), x, kernel)
    (gradient,) = draw(expected.shape)
    actual, by_hand = jax.vjp(lambda x, k: conv.convolve(x, k, stride, padding), x, kernel)
    np.testing.assert_array_equal(actual, expected)
    same(conv.convolve(x, kernel, stride, padding), expected)  # another program without a gradient
    for one, other in zip(by_hand(gradient), transposed(gradient), strict=True):
        same(one, other)
    # The forms of all platforms, whatever the platform of this test.
    for form in (conv.kernel_gradient, conv.kernel_gradient_of_rows):
        same(form(x, gradient, (size, size), stride, padding), transposed(gradient)[1])


@pytest.mark.parametrize(
    ("platform", "inputs", "own"), [("tpu", 3, 1), ("tpu", 8, 0), ("cuda", 3, 0)]
)
def test_kernel_gradient_of_platform(platform, inputs, own):
    """Only TPUs have a form of their own for few inputs: others' programs have no such copies."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 6, 6, inputs), (3, 3, inputs, 4))]

    def loss(x, kernel):
        return conv.convolve(x, kernel, 1, ONE).sum()

    traced = jax.jit(jax.grad(loss, argnums=1)).trace(*shapes)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.concatenate") == own


def test_convolution_of_many_seeds():
    x, kernels = draw((3, 2, 6, 6, 2), (3, 3, 3, 2, 4))

    def gradients(function):
        def loss(x, kernel):
            return jnp.square(function(x, kernel, 1, ONE)).sum()

        return jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(x, kernels)

    jax.tree.map(same, gradients(conv.convolve), gradients(plain))

    def outputs(function):
        return jax.vmap(lambda x, kernel: function(x, kernel, 1, ONE))(x, kernels)

    same(outputs(conv.convolve), outputs(plain))


def test_gradient_of_huge_and_undefined_kernels():
    # The condition that keeps XLA's fusions apart never shows.
    (x,) = draw((2, 4, 4, 2))
    for number in (jnp.inf, -jnp.inf, jnp.nan):
        kernel = jnp.full((3, 3, 2, 2), number)
        gradient = jax.grad(lambda k: conv.convolve(x, k, 1, ONE).sum())(kernel)
        same(gradient, jax.grad(lambda k: plain(x, k, 1, ONE).sum())(kernel))


def test_bfloat16_gradient_has_the_kernels_dtype():
    x, kernel = (array.astype(jnp.bfloat16) for array in draw((2, 4, 4, 2), (3, 3, 2, 2)))
    gradient = jax.grad(lambda k: conv.convolve(x, k, 1, ONE).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16


def test_upsampled_convolution():
    layer = conv.UpsampledConv(5, bias_init=jax.nn.initializers.normal(), dtype=jnp.float64)
    (x,) = draw((2, 4, 3, 2))
    variables = layer.init(jax.random.key(0), x)
    params = variables["params"]
    assert params["kernel"].shape == (3, 3, 2, 5)

    def enlarged(params, x):
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return plain(x, params["kernel"], 1, ONE) + params["bias"]

    def at_once(params, x):
        return layer.apply({"params": params}, x)

    expected, transposed = jax.vjp(enlarged, params, x)
    actual, by_hand = jax.vjp(at_once, params, x)
    same(actual, expected)
    (gradient,) = draw(expected.shape)
    jax.tree.map(same, by_hand(gradient), transposed(gradient))


def test_interleave():
    places = [[jnp.full((1, 2, 3, 1), 10 * p + q) for q in (0, 1)] for p in (0, 1)]
    y = conv.interleave(places)
    assert y.shape == (1, 4, 6, 1)
    for i, j in itertools.product(range(4), range(6)):
        assert y[0, i, j, 0] == 10 * (i % 2) + j % 2


def moments_by_steps(x, shares):
    axes = tuple(range(x.ndim - 1))
    mean = (shares * x).mean(axes)
    return mean, (shares * jnp.square(x - mean)).mean(axes)


def normalise_by_steps(x, shares, scale, bias, epsilon):
    mean, var = moments_by_steps(x, shares)
    return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias, mean, var


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 5)])
@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm(padded, shape, affine):
    x, about, scale, bias = draw(shape, shape[-1:], shape[-1:], shape[-1:])
    if not affine:
        scale, bias = jnp.ones(()), jnp.zeros(())
    shares = 1.0
    if padded:
        shares = jnp.array([1.0] * (len(x) - 1) + [0.0]) * len(x) / (len(x) - 1)
        shares = shares.reshape(-1, *[1] * (x.ndim - 1))

    expected, transposed = jax.vjp(
        lambda *args: normalise_by_steps(args[0], shares, *args[1:], 1e-5), x, scale, bias
    )
    actual, by_hand = jax.vjp(
        lambda x, *args: norm.normalise(x, shares, about, *args, 1e-5), x, scale, bias
    )
    jax.tree.map(same, actual, expected)
    gradients = tuple(draw(*(value.shape for value in expected)))
    jax.tree.map(same, by_hand(gradients), transposed(gradients))

    expected, transposed = jax.vjp(lambda x: moments_by_steps(x, shares), x)
    actual, by_hand = jax.vjp(lambda x: norm.moments(x, shares, about), x)
    jax.tree.map(same, actual, expected)
    same(by_hand(gradients[1:])[0], transposed(gradients[1:])[0])


def test_sums_of_accelerators():
    """The one reduction that programs for GPUs and TPUs have."""
    terms = [x.astype(jnp.float32) for x in draw((4, 8, 8, 3), (4, 8, 8, 3))]
    for x, together, alone in zip(terms, norm._together(*terms), norm.sums(*terms), strict=True):
        np.testing.assert_allclose(together, np.float64(x).sum((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(together, alone, rtol=1e-5)
    text = jax.jit(norm.sums).trace(*terms).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.reduce") == 1
    assert jax.jit(norm.sums).lower(*terms).as_text().count("stablehlo.reduce") == 2


@pytest.mark.parametrize("padded", [False, True])
def test_moments_of_accelerators(padded):
    """One pass; rounding is as documented, and a variance is never negative."""
    x, about = draw((6, 3, 2, 5), (5,))
    shares = jnp.array([1.2] * 5 + [0.0]).reshape(-1, 1, 1, 1) if padded else 1.0
    jax.tree.map(same, norm._one_pass(shares, x, about), moments_by_steps(x, shares))
    spread, far = 1e-3 * np.random.default_rng(0).normal(size=(64, 4)), np.float32([0, 3, 30, 300])
    x = np.float32(spread + far)
    mean, var = norm._one_pass(1.0, x, np.zeros(4, np.float32))
    np.testing.assert_allclose(mean, np.float64(x).mean(0), rtol=1e-6, atol=1e-9)
    assert (np.abs(var - np.float64(x).var(0)) < 1e-6 * (1e-6 + far**2)).all()
    _, var = norm._one_pass(1.0, np.tile(far, (64, 1)), np.zeros(4, np.float32))
    assert var.dtype == jnp.float32 and (var >= 0).all()
