"""Networks against the original's numbers, and the layers' own rules."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cljax.errors import UserError
from cljax.interop import torch
from cljax.models import LATENT_SIZE, make_classifier, make_generator
from cljax.models.norm import BatchNorm, repeat_statistics_update
from cljax.models.resnet import pad_shortcut
from tests.helpers import tiny
from tests.helpers.distributions import assert_normal, assert_uniform
from tests.helpers.goldens import (
    PRECISIONS,
    Expected,
    channels_first,
    channels_last,
    counts,
    enable,
    jit,
    network,
    recipe,
)

precisions = pytest.mark.parametrize("precision", PRECISIONS)


def run(module, variables, inputs, train):
    """Outputs and running statistics of a pass."""
    apply = functools.partial(module.apply, train=train, mutable=["batch_stats"])
    outputs, updates = jit(apply)(variables, inputs)
    return outputs, updates["batch_stats"]


@pytest.mark.slow
@precisions
def test_resnet32(goldens, precision):
    expected = Expected(goldens, "resnet32", precision)
    module, variables = network(goldens, "M", precision)
    images = channels_last(expected["x"], precision)
    with enable(precision):
        outputs, same = run(module, variables, images, train=False)
        expected.forward("eval_logits", outputs.logits)
        expected.forward("eval_pen", outputs.features)
        assert jax.tree.all(jax.tree.map(np.array_equal, same, variables["batch_stats"]))
        outputs, statistics = run(module, variables, images, train=True)
        expected.forward("train_logits", outputs.logits)
        after = torch.classifier_to_torch(module, variables | {"batch_stats": statistics})
    names = [name for name in expected.names if name.startswith("train_stats/")]
    assert len(names) == 62
    for name in names:
        expected.forward(name, after[name.removeprefix("train_stats/")])
    expected.all_compared("x")


@pytest.mark.slow
@precisions
@pytest.mark.parametrize(
    ("file", "prefix", "stride"),
    [("generator_cifar", "G", 1), ("generator_tiny", "tiny", 2), ("generator_imnet", "imnet", 7)],
)
def test_generators(goldens, precision, file, prefix, stride):
    expected = Expected(goldens, file, precision)
    module, variables = network(goldens, prefix, precision)
    latents = expected["z"].astype(precision)
    with enable(precision):
        for mode in ("eval", "train"):
            images, statistics = run(module, variables, latents, train=mode == "train")
            images = channels_first(images)
            expected.forward(f"{mode}_images", images[:, :, ::stride, ::stride])
            mean = images.mean((0, 2, 3), dtype=np.float64)
            expected.forward(f"{mode}_images_channel_mean", mean, scale=np.abs(images).max())
            std = images.std((0, 2, 3), dtype=np.float64)
            expected.forward(f"{mode}_images_channel_std", std)
        after = torch.generator_to_torch(module, variables | {"batch_stats": statistics})
    for name in expected.names:
        if name.startswith("train_stats/"):
            expected.forward(name, after[name.removeprefix("train_stats/")])
    expected.all_compared("z")


@precisions
def test_imagenet_classifier(goldens, precision):
    expected = Expected(goldens, "resnet18_imagenet", precision)
    module, variables = network(goldens, "net18", precision)
    images = channels_last(recipe(goldens, "net18/x"), precision)
    with enable(precision):
        outputs, _ = run(module, variables, images, train=False)
        expected.forward("eval_logits", outputs.logits)
        expected.forward("eval_pen", outputs.features)
    expected.all_compared()


def parameter_count(module, inputs):
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
    ],
)
def test_published_parameter_counts(name, count):
    assert parameter_count(make_classifier(name, 10), jnp.zeros((1, 32, 32, 3))) == count


def test_parameter_counts_of_the_original(goldens):
    images, latents = jnp.zeros((1, 32, 32, 3)), jnp.zeros((2, LATENT_SIZE))
    for key, module, inputs in [
        ("resnet32(100)", make_classifier("resnet32", 100), images),
        ("resnet18(1000)", make_classifier("resnet14", 1000), images),
        ("generator.CIFAR_GEN", make_generator("cifar", (32, 32, 3)), latents),
        ("generator.TINYIMNET_GEN", make_generator("tiny_imagenet", (64, 64, 3)), latents),
        ("generator.IMNET_GEN", make_generator("imagenet", (224, 224, 3)), latents),
    ]:
        assert parameter_count(module, inputs) == counts(goldens)[key]["parameters"], key


def batch_norm_case(affine=True):
    random = np.random.default_rng(0)
    x = random.normal(3.0, 2.0, (4, 5, 6, 7)).astype(np.float32)
    running = {"mean": random.normal(size=7), "var": random.uniform(0.5, 2, 7)}
    variables = {"batch_stats": jax.tree.map(np.float32, running)}
    if affine:
        learned = {"scale": random.uniform(0.5, 2, 7), "bias": random.normal(size=7)}
        variables["params"] = jax.tree.map(np.float32, learned)
    return x, variables


def test_batch_norm_in_train_mode_uses_the_batch_and_moves_unbiased_statistics():
    x, variables = batch_norm_case()
    y, updates = BatchNorm(epsilon=0.3).apply(variables, x, True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 0.3) * scale + bias, atol=1e-5)
    before, after = variables["batch_stats"], updates["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, rtol=1e-6)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * unbiased, rtol=1e-6)


def test_batch_norm_in_eval_mode_uses_running_statistics_and_collects_moments_on_demand():
    x, variables = batch_norm_case(affine=False)
    layer, running = BatchNorm(affine=False), variables["batch_stats"]
    want = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5)
    np.testing.assert_allclose(layer.apply(variables, x, False), want, atol=1e-5)
    y, collected = layer.apply(variables, x, False, mutable=["moments"])
    np.testing.assert_allclose(y, want, atol=1e-5)
    assert set(collected) == {"moments"}
    np.testing.assert_allclose(collected["moments"]["mean"], x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(collected["moments"]["var"], x.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("weights", [None, np.ones(1, np.float32), np.array([2, 0], np.float32)])
def test_a_single_value_per_channel_leaves_the_running_variance(weights):
    x = (
        np.arange(3, dtype=np.float32)
        .reshape(1, 1, 1, 3)
        .repeat(1 if weights is None else len(weights), 0)
    )
    layer = BatchNorm(affine=False)
    before = layer.init(jax.random.key(0), x, False)["batch_stats"]
    with jax.debug_nans(True):
        _, updates = layer.apply({"batch_stats": before}, x, True, weights, mutable=["batch_stats"])
    np.testing.assert_array_equal(updates["batch_stats"]["var"], before["var"])
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * x[0, 0, 0], rtol=1e-6)


def test_batch_norm_starts_with_standard_statistics():
    variables = BatchNorm().init(jax.random.key(0), jnp.full((2, 3), 9.0), True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))
    assert "moments" not in variables


def test_repeated_statistics_update_is_two_train_mode_passes():
    module = tiny.classifier()
    variables = tiny.variables(module, seed=0)
    images = tiny.images(4, seed=1)
    _, once = run(module, variables, images, train=True)
    _, twice = run(module, variables | {"batch_stats": once}, images, train=True)
    repeated = repeat_statistics_update(variables["batch_stats"], once)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6), repeated, twice
    )
    assert not np.allclose(jax.tree.leaves(once)[0], jax.tree.leaves(twice)[0])


def test_pad_shortcut_takes_even_pixels_and_pads_channels_on_both_sides():
    x = np.arange(2 * 5 * 5 * 3, dtype=np.float32).reshape(2, 5, 5, 3)
    y = np.asarray(pad_shortcut(jnp.asarray(x), 8, 2))
    assert y.shape == (2, 3, 3, 8)
    np.testing.assert_array_equal(y[..., 2:5], x[:, ::2, ::2])
    assert not y[..., :2].any() and not y[..., 5:].any()


def test_logits_are_the_head_of_the_features():
    module = tiny.classifier()
    variables = tiny.variables(module, seed=0)
    images = tiny.images(2, seed=1)
    logits, features, scores = jit(module.apply)(variables, images)
    np.testing.assert_array_equal(scores, logits)
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], rtol=1e-6)
    classified = module.apply(variables, features, method="classify")
    np.testing.assert_allclose(classified, logits, rtol=1e-6)


def assert_standard_norms(variables):
    """Batch norms start with scales and variances of 1, biases and means of 0."""
    found = Counter()
    for collection in ("params", "batch_stats"):
        for path, values in traverse_util.flatten_dict(variables[collection]).items():
            if "bn" in path[-2]:
                assert (values == (path[-1] in ("scale", "var"))).all(), path
                found[path[-1]] += 1
    assert found["scale"] == found["bias"] and found["mean"] == found["var"] > 0


def test_initial_values_of_the_classifier():
    """Kernels: normal of variance 2/fan_in; head's bias: uniform within 1/sqrt(features)."""
    init = jit(make_classifier("resnet20", 100).init)
    variables = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    kernels = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if path[-1].key == "kernel":
            std = (2 * leaf.shape[-1] / leaf.size) ** 0.5
            assert_normal(leaf, std, str(path))
            kernels.append(np.ravel(leaf / std))
    assert len(kernels) == 20
    assert_normal(np.concatenate(kernels), 1)
    assert_uniform(variables["params"]["head"]["bias"], -1 / 8, 1 / 8)
    assert_standard_norms(variables)


def test_initial_values_of_the_generator():
    """PyTorch's default: weights and biases uniform within 1/sqrt(fan_in)."""
    module = make_generator("cifar", (16, 16, 3))
    init = jit(functools.partial(module.init, train=True))
    variables = init(jax.random.key(0), jnp.zeros((2, LATENT_SIZE)))
    fan_in = {"project": LATENT_SIZE, "stage0_conv": 128 * 9, "stage1_conv": 128 * 9}
    fan_in |= {"image_conv": 64 * 9}
    assert fan_in.keys() == {name for name in variables["params"] if "bn" not in name}
    for name, size in fan_in.items():
        for kind, values in variables["params"][name].items():
            assert_uniform(values, -(size**-0.5), size**-0.5, f"{name} {kind}")
    assert_standard_norms(variables)


def test_half_precision_networks_give_float32_outputs():
    module = tiny.classifier(jnp.bfloat16)
    variables = jax.eval_shape(module.init, jax.random.key(0), tiny.images(2, seed=1))
    outputs, statistics = jax.eval_shape(
        lambda v: module.apply(v, tiny.images(2, seed=1), train=True, mutable=["batch_stats"]),
        variables,
    )
    assert outputs.logits.dtype == outputs.features.dtype == jnp.float32
    leaves = jax.tree.leaves((variables, statistics))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)


@pytest.mark.parametrize(
    "name",
    ["resnet", "resnet18x", "resnet34_projection", "resnet50_projection", "resnet2", "vgg16"],
)
def test_unknown_classifier(name):
    with pytest.raises(UserError, match=r"6n\+2 up to 1202 but 50"):
        make_classifier(name, 10)


def test_unfit_generators():
    with pytest.raises(UserError, match="generator='dcgan': unknown generator; choose cifar"):
        make_generator("dcgan", (32, 32, 3))
    with pytest.raises(UserError, match="multiple of 8, not 36x36"):
        make_generator("tiny_imagenet", (36, 36, 3))
    with pytest.raises(UserError, match="square"):
        make_generator("cifar", (32, 16, 3))
