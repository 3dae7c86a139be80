"""WA in the paper's form; LibContinual's is proven by its golden numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.methods.libcontinual import LibContinualWA
from cljax.methods.wa import WeightAligning, align
from cljax.models import make_classifier
from cljax.state import Batch
from tests.helpers import libcontinual, tiny


def test_new_columns_become_as_long_as_old_ones():
    kernel = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    kernel[:, 3:6] *= 4
    aligned = np.asarray(align(jnp.asarray(kernel), 3, 6))
    lengths = np.linalg.norm(aligned, axis=0)
    np.testing.assert_allclose(lengths[3:6].mean(), lengths[:3].mean(), rtol=1e-6)
    ratios = aligned[:, 3:6] / kernel[:, 3:6]
    np.testing.assert_allclose(ratios, ratios[0, 0], rtol=1e-6)
    assert np.array_equal(aligned[:, [0, 1, 2, 6, 7]], kernel[:, [0, 1, 2, 6, 7]])


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_only_a_linear_head_is_aligned(head):
    module = make_classifier("resnet8", 10, width=4, head=head)
    method = WeightAligning(module, tiny.PLAIN, None, tiny.NO_MEMORY)
    state = tiny.learner(**tiny.variables(module, seed=0))
    after = jax.jit(method.after_task)(state, tiny.task(4, 7), None)
    before, after = state.params["head"]["kernel"], after.params["head"]["kernel"]
    changed = (before != after).any(0)
    assert changed.tolist() == [head == "linear" and 4 <= label < 7 for label in range(10)]


@pytest.mark.slow
def test_the_head_is_trained_up_to_the_classes_seen():
    images = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    batch, task = Batch(images, np.int32([0, 1, 2, 3, 4, 2]), None), tiny.task(2, 5)
    moved = {}
    for cls in (WeightAligning, LibContinualWA):
        method = libcontinual.build(cls, 7, tiny.sgd())
        state = method.init(tiny.ZEROS, (12,))
        state = state.replace(opt_state=method.training.optimizer.init(state.params))
        after, _ = tiny.update(method.training, method, state, task, batch, 0, jax.random.key(0))
        heads = after.params["head"]["kernel"], state.params["head"]["kernel"]
        moved[cls] = np.any(heads[0] != heads[1], axis=0)
    # Not even weight decay moves columns of classes to come.
    assert moved[WeightAligning].tolist() == [True] * 5 + [False] * 2
    assert not moved[LibContinualWA].any()
