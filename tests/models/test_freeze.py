"""Classifiers whose variables are frozen for eval mode: the same outputs with less work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cljax.models import make_classifier, norm
from tests.helpers import tiny

NAMES = ["resnet8", "resnet8_lucir", "resnet18", "resnet50"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_folded_batch_norms(name):
    """Kernels of convolutions have all, and a bias is left; other layers stay as they are."""
    with jax.enable_x64(True):
        module = make_classifier(name, 5, width=2, dtype=jnp.float64)
        variables = tiny.variables(module, seed=0, dtype=np.float64)
        images = np.random.default_rng(1).normal(size=(2, 8, 8, 3))
        frozen = jax.jit(lambda v: module.freeze(v, folds=True))(variables)
        found, expected = (jax.jit(module.apply)(v, images) for v in (frozen, variables))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)
        with pytest.raises(ValueError, match="eval mode only"):
            module.apply(frozen, images, train=True, mutable=["batch_stats"])
    assert not traverse_util.flatten_dict(frozen["batch_stats"])
    names = traverse_util.flatten_dict(frozen["params"]["backbone"])
    assert {path[-1] for path in names} == {"kernel", "bias"}
    np.testing.assert_array_equal(
        frozen["params"]["head"]["kernel"], variables["params"]["head"]["kernel"]
    )


def test_kernels_of_bfloat16():
    """Converted once instead of in every pass, to the same outputs; the rest stays float32."""
    module = make_classifier("resnet8", 5, width=2, dtype=jnp.bfloat16)
    variables = tiny.variables(module, seed=0)
    frozen = module.freeze(variables, folds=False)
    images = tiny.images(2, seed=1)
    for a, b in zip(module.apply(frozen, images), module.apply(variables, images), strict=True):
        np.testing.assert_array_equal(a, b)
    dtypes = {p.ndim: p.dtype for p in jax.tree.leaves(frozen["params"])}
    assert dtypes == {1: jnp.float32, 2: jnp.float32, 4: jnp.bfloat16}


def test_what_cannot_be_folded():
    """A convolution with a bias of its own, and a batch norm without parameters."""
    kernel, channels = np.ones((1, 1, 2, 2)), np.ones(2)
    stats = {"bn1": {"mean": channels, "var": channels}, "bn2": {"mean": channels, "var": channels}}
    params = {
        "conv1": {"kernel": kernel, "bias": channels},
        "bn1": {"scale": channels, "bias": channels},
        "conv2": {"kernel": kernel},
    }
    assert norm.fold(params, stats) == (params, stats)


def test_another_network_stays_as_it_is():
    module = tiny.classifier()
    variables = tiny.variables(module, seed=0)
    own = module.clone(backbone=tiny.generator())
    assert own.freeze(variables, folds=True) is variables
