"""Losses: a mask equals a slice, formulas against numpy, gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cljax import losses

B, K, D = 6, 12, 5


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return {
        "logits": random.normal(size=(B, K)) * 3,
        "labels": random.integers(4, 9, B).astype(np.int32),
        "weights": random.uniform(0.1, 2.0, B),
        "features": random.normal(size=(B, D)),
        "teacher_features": random.normal(size=(B, D)),
        "kernel": random.normal(size=(D, K)),
    }


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def plain_cross_entropy(logits, labels):
    """Per row, by the definition."""
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def test_class_range():
    mask = jax.jit(losses.class_range, static_argnums=0)(6, 2, 4)
    np.testing.assert_array_equal(mask, [False, False, True, True, False, False])


def test_cross_entropy_of_all_classes(batch, float64):
    want = plain_cross_entropy(batch["logits"], batch["labels"])
    got = losses.cross_entropy(jnp.asarray(batch["logits"]), batch["labels"])
    np.testing.assert_allclose(got, want.mean(), rtol=1e-12)


@pytest.mark.parametrize(("start", "stop"), [(0, 9), (4, 9), (4, K)])
def test_masked_cross_entropy_is_the_sliced_one(batch, float64, start, stop):
    """Also with weights, whose sum does not divide; and without gradient outside the slice."""
    labels, weights = batch["labels"], batch["weights"]
    logits = jnp.asarray(batch["logits"])
    sliced = weights * plain_cross_entropy(batch["logits"][:, start:stop], labels - start)

    def masked(logits):
        valid = losses.class_range(K, start, stop)
        return losses.cross_entropy(logits, labels, valid, weights)

    np.testing.assert_allclose(masked(logits), sliced.sum() / B, rtol=1e-12)
    gradient = np.asarray(jax.grad(masked)(logits))
    probabilities = jax.nn.softmax(logits[:, start:stop])
    want = weights[:, None] * (probabilities - jax.nn.one_hot(labels - start, stop - start)) / B
    np.testing.assert_allclose(gradient[:, start:stop], want, atol=1e-14)
    assert not gradient[:, :start].any() and not gradient[:, stop:].any()


def test_cross_entropy_ignores_what_masked_logits_are(batch):
    valid = losses.class_range(K, 4, 9)
    logits = jnp.asarray(batch["logits"], jnp.float32)
    wild = jnp.where(valid, logits, jnp.array([jnp.inf, -jnp.inf] * (K // 2)))
    got, gradient = jax.value_and_grad(losses.cross_entropy)(wild, batch["labels"], valid)
    np.testing.assert_array_equal(got, losses.cross_entropy(logits, batch["labels"], valid))
    assert np.isfinite(gradient).all()


def test_weighted_feature_distance_is_that_of_sliced_logits(batch, float64):
    old = 7
    difference = batch["features"] - batch["teacher_features"]
    want = np.mean(np.sum((difference @ batch["kernel"][:, :old]) ** 2, axis=1) / old)
    arguments = [batch[name] for name in ("features", "teacher_features", "kernel")]
    got = losses.weighted_feature_distance(*arguments, losses.class_range(K, 0, old))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_gradients(batch, float64):
    valid = losses.class_range(K, 2, 9)

    @jax.jit
    def cross_entropy(logits):
        return losses.cross_entropy(logits, batch["labels"], valid, batch["weights"])

    @jax.jit
    def distance(features):
        teacher_features, kernel = batch["teacher_features"], batch["kernel"]
        return losses.weighted_feature_distance(features, teacher_features, kernel, valid)

    check_grads(cross_entropy, (batch["logits"],), order=1)
    check_grads(distance, (batch["features"],), order=1)


def test_masked_argmax():
    logits = jnp.array([[5.0, 1.0, 3.0, 9.0], [-5.0, -1.0, -1.0, 9.0]])
    got = losses.masked_argmax(logits, losses.class_range(4, 1, 3))
    np.testing.assert_array_equal(got, [2, 1])
    assert got.dtype == jnp.int32


def test_top_k_ranks_valid_classes_and_breaks_ties_by_the_lower_index():
    logits = jnp.array([[5.0, 1.0, 3.0, 3.0, 9.0]])
    valid = losses.class_range(5, 0, 4)
    np.testing.assert_array_equal(losses.top_k(logits, valid, 3), [[0, 2, 3]])
    both = jnp.stack([valid[None], losses.class_range(5, 2, 5)[None]])
    np.testing.assert_array_equal(losses.top_k(logits, both, 2), [[[0, 2]], [[4, 2]]])
