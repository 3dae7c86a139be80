"""The auto-encoder of generative replay: network, losses, and PyTorch's state dict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from cljax import losses
from cljax.errors import UserError
from cljax.interop import torch
from cljax.models import AutoEncoder, make_autoencoder
from cljax.models.autoencoder import TransposedConv
from tests.helpers.goldens import counts

SMALL = AutoEncoder(image_size=16, image_channels=1, channels=(3, 4, 6), latent_size=5)


def inputs_of(module, count):
    """Images and noise."""
    random = np.random.default_rng(0)
    images = random.uniform(size=(count, module.image_size, module.image_size, 1))
    noise = random.normal(size=(count, module.latent_size))
    return images.astype(np.float32), noise.astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    """Initial values of SMALL."""
    init = jax.jit(SMALL.init)
    return jax.tree.map(np.asarray, init(jax.random.key(0), *inputs_of(SMALL, 1)))


def shapes(module, images):
    noise = jnp.zeros((images.shape[0], module.latent_size))
    return jax.eval_shape(module.init, jax.random.key(0), images, noise)


def test_parameter_count_of_the_original(goldens):
    leaves = jax.tree.leaves(shapes(AutoEncoder(), jnp.zeros((1, 32, 32, 3))))
    count = sum(leaf.size for leaf in leaves)
    assert count == counts(goldens)["autoencoder.CIFAR_GEN"]["parameters"] == 28_722_179


@pytest.mark.parametrize(
    ("shape", "options"), [((32, 32, 3), {}), ((8, 8, 1), {"channels": (4, 6, 8)})]
)
def test_images_are_coded_and_come_back(shape, options):
    module = make_autoencoder(shape, latent_size=7, **options)
    images = jnp.zeros((2, *shape))

    def both(variables):
        mean, log_variance = module.apply(variables, images, method="encode")
        return mean, log_variance, module.apply(variables, mean, method="decode")

    mean, log_variance, decoded = jax.eval_shape(both, shapes(module, images))
    assert mean.shape == log_variance.shape == (2, 7)
    assert decoded.shape == images.shape


def test_noise_moves_latents_by_their_deviations(variables):
    images, noise = inputs_of(SMALL, 3)
    run = jax.jit(SMALL.apply, static_argnames="method")
    found = run(variables, images, noise)
    mean, log_variance = run(variables, images, method="encode")
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.log_variance, log_variance, rtol=1e-6)
    decoded = run(variables, mean + np.sqrt(np.exp(log_variance)) * noise, method="decode")
    np.testing.assert_allclose(jax.nn.sigmoid(found.logits), decoded, rtol=1e-5)
    assert not np.allclose(decoded, run(variables, mean, method="decode"), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (1, 1, 4, 2)])
def test_transposed_convolution_is_flaxs(shape):
    ours = TransposedConv(4, jnp.float32)
    theirs = nn.ConvTranspose(4, (4, 4), (2, 2), padding="SAME", transpose_kernel=True)
    random = np.random.default_rng(0)
    x = random.normal(size=shape)
    params = {"kernel": random.normal(size=(4, 4, 4, shape[-1])), "bias": random.normal(size=4)}
    got = ours.apply({"params": params}, x)
    assert got.shape == (shape[0], 2 * shape[1], 2 * shape[2], 4)
    np.testing.assert_allclose(got, theirs.apply({"params": params}, x), rtol=1e-4, atol=1e-5)


def test_initial_values(variables):
    """PyTorch's default: uniform within 1/sqrt(fan_in), a transposed one's from its outputs."""
    params = variables["params"]
    channels = {"encoder": (1, 3, 4), "decoder": (3, 3, 1)}
    fan_in = {f"{part}_{i}": 16 * channels[part][i] for part in channels for i in range(3)}
    fan_in |= {"mean": 6 * 4, "log_variance": 6 * 4, "project": 5}
    assert set(params) == set(fan_in)
    for name, layer in params.items():
        bound = fan_in[name] ** -0.5
        assert np.abs(layer["bias"]).max() <= bound
        # The largest of n values lies 1/n below the bound on average.
        kernel = np.abs(layer["kernel"])
        assert (1 - 8 / kernel.size) * bound < kernel.max() <= bound
        np.testing.assert_allclose(layer["kernel"].std(), bound / np.sqrt(3), rtol=0.25)


def test_half_precision_gives_float32_outputs():
    module = AutoEncoder(8, 1, (2, 3, 4), 5, jnp.bfloat16)
    images, noise = inputs_of(module, 2)
    variables = shapes(module, images)
    found = jax.eval_shape(module.apply, variables, images, noise)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, found)))


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((28, 28, 1), (64, 128, 512), "multiple of 8, not 28x28"),
        ((32, 16, 3), (64, 128, 512), "square images"),
        ((32, 32, 3), (64, 128), "channels=\\(64, 128\\): must be three"),
    ],
)
def test_unfit_autoencoders(shape, channels, message):
    with pytest.raises(UserError, match=message):
        make_autoencoder(shape, channels)


def test_reconstruction_is_the_weighted_cross_entropy_of_pixels():
    random = np.random.default_rng(0)
    logits, images = random.normal(size=(3, 4, 4, 2)) * 3, random.uniform(size=(3, 4, 4, 2))
    weights = random.uniform(0.1, 2, 3)
    p = 1 / (1 + np.exp(-logits))
    pixels = -(images * np.log(p) + (1 - images) * np.log(1 - p))
    want = (weights * pixels.reshape(3, -1).mean(1)).sum() / 3
    with jax.enable_x64(True):
        got = losses.reconstruction(jnp.asarray(logits), images, weights)
        np.testing.assert_allclose(got, want, rtol=1e-12)
        check_grads(lambda x: losses.reconstruction(x, images, weights), (logits,), 1, ["rev"])


def test_reconstruction_does_not_saturate_before_its_bound():
    """In float32 sigmoid(30) is 1, whose complement has no logarithm; the bound is PyTorch's."""
    black, weights = jnp.zeros((1, 1, 1, 1)), jnp.ones(1)

    def loss(logit):
        return losses.reconstruction(jnp.full((1, 1, 1, 1), logit), black, weights)

    np.testing.assert_allclose(loss(30.0), 30, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(30.0), 1, rtol=1e-6)
    np.testing.assert_allclose(loss(500.0), 100, rtol=1e-6)


def test_latent_divergence_is_that_of_normal_distributions():
    """Against a numerical integral."""
    mean, deviation = np.array([[0.3], [-1.2]]), np.array([[0.5], [1.7]])
    x = np.linspace(-20, 20, 100_001)

    def log_density(mean, deviation):
        return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation * np.sqrt(2 * np.pi))

    q, standard = log_density(mean, deviation), log_density(0.0, 1.0)
    want = (np.exp(q) * (q - standard)).sum(1) * (x[1] - x[0])
    got = losses.latent_divergence(jnp.asarray(mean), 2 * np.log(deviation))
    np.testing.assert_allclose(got, want.mean(), rtol=1e-5)
    # A sum over the latents of a row.
    doubled = losses.latent_divergence(*(np.tile(a, 2) for a in (mean, 2 * np.log(deviation))))
    np.testing.assert_allclose(doubled, 2 * want.mean(), rtol=1e-5)


def test_class_share_weights():
    labels = np.array([0, 4, 5, 7])
    np.testing.assert_allclose(losses.class_share_weights(labels, 5, 8), [5 / 8] * 2 + [3 / 8] * 2)
    np.testing.assert_array_equal(losses.class_share_weights(labels, 0, 8), np.ones(4))


def test_round_trip_of_our_variables(variables):
    exported = torch.autoencoder_to_torch(SMALL, variables)
    assert exported["decoder.0.0.weight"].shape == (6, 3, 4, 4)
    assert exported["q_mean.weight"].shape == (5, 24) and exported["project.bias"].shape == (24,)
    returned = torch.autoencoder_from_torch(SMALL, exported)
    jax.tree.map(np.testing.assert_array_equal, returned, variables)


def test_maps_are_channel_major_in_pytorch(variables):
    exported = torch.autoencoder_to_torch(SMALL, variables)
    random = np.random.default_rng(1)
    feature_map, latents = random.normal(size=(2, 2, 6)), random.normal(size=5)
    for name, layer in (("q_mean", "mean"), ("q_logvar", "log_variance")):
        theirs = exported[f"{name}.weight"] @ np.moveaxis(feature_map, -1, 0).ravel()
        ours = feature_map.ravel() @ variables["params"][layer]["kernel"]
        np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    theirs = (exported["project.weight"] @ latents + exported["project.bias"]).reshape(6, 2, 2)
    project = variables["params"]["project"]
    ours = (latents @ project["kernel"] + project["bias"]).reshape(2, 2, 6)
    np.testing.assert_allclose(np.moveaxis(theirs, 0, -1), ours, rtol=1e-5)


def test_mismatches_are_listed(variables):
    state = torch.autoencoder_to_torch(SMALL, variables)
    bias = state.pop("q_mean.bias")
    with pytest.raises(UserError, match=r"missing: q_mean\.bias$"):
        torch.autoencoder_from_torch(SMALL, state)
    state |= {"q_mean.bias": bias[:3], "fc.bias": bias}
    with pytest.raises(UserError) as error:
        torch.autoencoder_from_torch(SMALL, state)
    assert "surplus: fc.bias; misshapen: q_mean.bias [3] instead of [5]" in str(error.value)
    other = AutoEncoder(16, 1, (3, 4, 6), 7)
    with pytest.raises(UserError, match=r"params\.mean\.bias \[5\] instead of \[7\]"):
        torch.autoencoder_to_torch(other, variables)
