"""ResNet-18, 34 and 50: sizes, names, outputs and first values, and those without a last ReLU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.interop import torch
from cljax.models import make_classifier
from cljax.models.resnet import max_pool
from tests.helpers import tiny, torch_resnet
from tests.helpers.goldens import (
    PRECISIONS,
    Expected,
    channels_last,
    counts,
    enable,
    jit,
    recipe,
    state_dict,
)

# name, features, parameters without head, tensors of a state dict without counters of batches.
# The sizes with a 7x7 stem are torchvision's, less its head of 1000 classes.
SIZES = [
    ("resnet18_imagenet", 512, 11_689_512 - 513 * 1000, 122 - 20 - 2),
    ("resnet34_imagenet", 512, 21_797_672 - 513 * 1000, 218 - 36 - 2),
    ("resnet50_imagenet", 2048, 25_557_032 - 2049 * 1000, 320 - 53 - 2),
]


@pytest.mark.parametrize(("name", "size", "parameters", "tensors"), SIZES)
@pytest.mark.parametrize("small_stem", [False, True])
def test_sizes(name, size, parameters, tensors, small_stem):
    if small_stem:
        name, parameters = name.removesuffix("_imagenet"), parameters - (49 - 9) * 3 * 64
    for variant in ("", "_lucir"):
        module = make_classifier(name + variant, 10)
        inputs = jnp.zeros((1, 32, 32, 3))
        shapes = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), inputs)
        backbone = shapes["params"]["backbone"], shapes["batch_stats"]["backbone"]
        assert sum(leaf.size for leaf in jax.tree.leaves(backbone[0])) == parameters
        assert len(jax.tree.leaves(backbone)) == tensors
        assert shapes["params"]["head"]["kernel"].shape == (size, 10)


def test_names_and_shapes_are_those_of_pytorch(rdfcil_goldens):
    """The golden network has another stem and fewer ReLUs, but torchvision's names and shapes."""
    expected = counts(rdfcil_goldens)["resnet18 without head"]["tensors"]
    module = make_classifier("resnet18", 10)
    exported = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    assert list(exported)[-2:] == ["fc.weight", "fc.bias"]
    got = {name: list(array.shape) for name, array in exported.items()}
    assert {n: shape for n, shape in got.items() if not n.startswith("fc.")} == expected


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_outputs_and_statistics_of_a_golden_resnet18(rdfcil_goldens, precision):
    """R-DFCIL's network: a small stem, max pooling, and no ReLU at the end of any stage."""
    expected = Expected(rdfcil_goldens, "resnet18_imagenet", precision)
    module = make_classifier("resnet18_rdfcil", 1, dtype=np.dtype(precision))
    head = {"fc.weight": np.zeros((1, 512))}
    state = state_dict(rdfcil_goldens, "net18") | head
    state = {name: values.astype(precision) for name, values in state.items()}
    images = channels_last(recipe(rdfcil_goldens, "net18/x"), precision)
    with enable(precision):
        variables = torch.classifier_from_torch(module, state)
        expected.forward("eval_features", jit(module.apply)(variables, images).features)
        train = functools.partial(module.apply, train=True, mutable=["batch_stats"])
        outputs, updates = jit(train)(variables, images)
        expected.forward("train_features", outputs.features)
        after = torch.classifier_to_torch(module, variables | updates)
    for name in expected.names:
        if name.startswith("train_stats/"):
            expected.forward(name, after[name.removeprefix("train_stats/")])
    expected.all_compared()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet18_imagenet"])
def test_outputs_are_those_of_plain_numpy(name):
    with jax.enable_x64(True):
        module = make_classifier(name, 3, width=1, dtype=jnp.float64)
        variables = tiny.variables(module, seed=0, dtype=np.float64)
        images = np.random.default_rng(1).normal(size=(2, 19, 18, 3))
        got = jit(module.apply)(variables, images)
        state = torch.classifier_to_torch(module, variables)
    theirs = np.moveaxis(images, -1, 1)
    want = torch_resnet.features(state, theirs, max_pool="imagenet" in name)
    np.testing.assert_allclose(got.features, want, rtol=1e-10)
    logits = want @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(got.logits, logits, rtol=1e-10)


@pytest.mark.parametrize("side", [7, 8])
def test_max_pooling(side):
    """Equal maxima, such as the zeros behind a ReLU: the first one gets the whole gradient."""
    x = np.random.default_rng(0).integers(0, 3, (2, side, side, 4)).astype(np.float32)
    y, transposed = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(np.moveaxis(y, -1, 1), torch_resnet.pool(np.moveaxis(x, -1, 1)))
    (got,) = transposed(jnp.ones_like(y))
    want = np.zeros_like(x)
    for b, h, w, c in np.ndindex(*y.shape):
        rows, columns = (range(max(2 * i - 1, 0), min(2 * i + 2, side)) for i in (h, w))
        places = [(b, row, column, c) for row in rows for column in columns]
        want[max(places, key=lambda place: x[place])] += 1
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("stem", ["", "_imagenet"])
def test_without_the_last_relu_only_the_features_may_be_negative(stem):
    module = make_classifier(f"resnet18{stem}_lucir", 10, width=1, head="cosine")
    rectified = make_classifier(f"resnet18{stem}", 10, width=1, head="cosine")
    variables = tiny.variables(module, seed=0)
    images = tiny.images(2, seed=1)
    features = jit(module.apply)(variables, images).features
    assert (features < 0).any()
    # At this size the last map is one pixel, so that its ReLU is one of the features.
    positive = jit(rectified.apply)(variables, images).features
    np.testing.assert_allclose(positive, np.maximum(features, 0), rtol=1e-6)


@pytest.mark.slow
def test_initial_values():
    """Kernels: variance 2/fan_out; the head's: uniform within 1/sqrt(features), as PyTorch's."""
    module = make_classifier("resnet18", 100)
    params = jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["backbone"]):
        if path[-1].key == "kernel":
            fan_out = leaf.size // leaf.shape[-2]
            spread = 5 / np.sqrt(2 * leaf.size)  # five standard errors
            np.testing.assert_allclose(leaf.std() * np.sqrt(fan_out / 2), 1, atol=spread)
        else:
            assert (leaf == (path[-1].key == "scale")).all()
    for leaf in params["head"].values():
        assert 0.9 * 512**-0.5 < np.abs(leaf).max() <= 512**-0.5


def test_initial_values_of_rdfcil():
    """A block starts as its shortcut."""
    module = make_classifier("resnet18_rdfcil", 400, width=4)
    params = jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for name, block in params["backbone"].items():
        if name.startswith("stage"):
            assert not block["bn2"]["scale"].any() and (block["bn1"]["scale"] == 1).all()
    assert set(params["head"]) == {"kernel"}
    np.testing.assert_allclose(params["head"]["kernel"].std(), 1e-3, rtol=0.02)


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 20), ("resnet50_imagenet", 53)])
def test_every_batch_norm_gives_moments(name, layers):
    module = make_classifier(name, 10, width=1)
    inputs = tiny.images(2, seed=0)
    variables = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), inputs)
    apply = functools.partial(module.apply, mutable=["moments"])
    moments = jax.eval_shape(apply, variables, inputs)[1]["moments"]
    assert jax.tree.structure(moments) == jax.tree.structure(variables["batch_stats"])
    assert len(jax.tree.leaves(moments)) == 2 * layers


def test_half_precision():
    module = make_classifier("resnet50_imagenet", 10, width=1, dtype=jnp.bfloat16)
    inputs = tiny.images(2, seed=1)
    variables = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), inputs)
    traced = jax.make_jaxpr(functools.partial(module.apply, train=False))(variables, inputs)
    assert traced.out_avals[0].dtype == jnp.float32
    convolutions = re.findall(r":(\w+)\[[\d,]+\] = conv_general", str(traced))
    assert set(convolutions) == {"bf16"}
