"""iCaRL in the paper's form; LibContinual's is proven by its golden numbers."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.errors import UserError
from cljax.memory.policy import MemoryPolicy
from cljax.methods.icarl import ICaRL, MultiClassLwF
from cljax.state import Batch
from tests.helpers import libcontinual, tiny
from tests.helpers.tiny_runs import empty_dataset, make_method

MEMORY = MemoryPolicy(12, "herding", "all", False)
DIGITS = empty_dataset(8, 8, 1)


def test_the_loss_is_that_of_lwf_mc():
    """One sigmoid per class: `MultiClassLwF` has the original's golden numbers."""
    images = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    batch, task = Batch(images, np.int32([0, 1, 2, 3, 4, 2]), None), tiny.task(2, 5)
    found = []
    for cls in (ICaRL, MultiClassLwF):
        method = libcontinual.build(cls, 7, tiny.sgd(), memory=MEMORY)
        state = method.init(tiny.ZEROS, (12,))
        teacher = jax.tree.map(lambda p: p + 0.5, state.teacher)
        observed = method.observe(state.replace(teacher=teacher), task, batch, None)
        found.append(observed.loss)
    assert found[0] == found[1]


def test_the_nearest_mean_decides_and_not_the_head():
    method = libcontinual.build(ICaRL, 4, tiny.sgd(), memory=MEMORY)
    state = method.init(tiny.ZEROS, (12,))
    images = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
    features = method.classifier.apply(state.variables, images).features
    nearest = np.array([2, 0, 3])
    means = jnp.zeros_like(state.extras).at[:, nearest].set(features.T)
    state = state.replace(extras=means / jnp.maximum(jnp.linalg.norm(means, axis=0), 1e-12))
    answers = method.inference(state, images, method.classes(0, 4), 2)
    assert np.array_equal(answers[:, 0], nearest)
    # Class 1 has no mean yet, and features are not negative.
    assert not method.inference(state, images, method.classes(0, 2)).any()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("exemplars.total", 0, "config.exemplars: method 'icarl' needs exemplars"),
        ("exemplars.strategy", "reservoir", "config.exemplars: method 'icarl' needs exemplars"),
        ("drop_last", False, "method 'icarl' supports complete batches only"),
    ],
)
def test_settings_that_make_no_sense(key, value, message):
    config = importlib.import_module("configs.icarl_digits").get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        make_method(config, DIGITS)
