"""LUCIR's losses: formulas against numpy, gradients against finite differences, edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cljax import losses

MARGIN = 0.5
B, K, D = 7, 9, 5


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return {
        "scores": np.tanh(random.normal(size=(B, K))),
        "teacher_scores": np.tanh(random.normal(size=(B, K))),
        "labels": np.array([0, 6, 3, 8, 1, 4, 5], np.int32),
        "features": random.normal(size=(B, D)),
        "teacher_features": random.normal(size=(B, D)),
    }


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def plain_ranking(scores, labels, old, negatives, num_hard_negatives):
    """By the definition, with loops."""
    found = []
    for row, label in zip(scores, labels, strict=True):
        if label < old:
            hardest = sorted((row[k] for k in negatives if k != label), reverse=True)[
                :num_hard_negatives
            ]
            found += [max(0, MARGIN - row[label] + score) for score in hardest]
    return np.mean(found) if found else 0.0


@pytest.mark.parametrize("num_hard_negatives", [1, 2, 3])
@pytest.mark.parametrize(("old", "start", "stop"), [(4, 4, 8), (4, 0, 8), (5, 5, 9), (0, 0, 9)])
def test_margin_ranking(batch, float64, old, start, stop, num_hard_negatives):
    """Also for bounds that are traced."""

    @jax.jit
    def ranked(old, start, stop):
        negatives = losses.class_range(K, start, stop)
        arrays = batch["scores"], batch["labels"]
        return losses.margin_ranking(*arrays, old, negatives, num_hard_negatives, MARGIN)

    want = plain_ranking(
        batch["scores"], batch["labels"], old, range(start, stop), num_hard_negatives
    )
    np.testing.assert_allclose(ranked(old, start, stop), want, rtol=1e-12)


def test_gradients(batch, float64):
    teacher_scores, teacher_features = batch["teacher_scores"], batch["teacher_features"]
    old = losses.class_range(K, 0, 4)

    def rank(scores):
        return losses.margin_ranking(scores, batch["labels"], 4, ~old, 2, MARGIN)

    def mimic(scores):
        return losses.score_distance(scores, teacher_scores, old)

    def distance(features):
        return losses.cosine_distance(features, teacher_features)

    for loss, argument in ((rank, "scores"), (mimic, "scores"), (distance, "features")):
        check_grads(jax.jit(loss), (batch[argument],), order=1, modes=["rev"], eps=1e-7)
    gradient = jax.grad(rank)(batch["scores"])
    is_old = batch["labels"] < 4
    assert gradient[is_old].any(1).all() and not gradient[~is_old].any()


def test_ranking_without_old_images_has_neither_value_nor_gradient(batch):
    negatives = losses.class_range(K, 4, 8)
    scores, labels = jnp.asarray(batch["scores"], jnp.float32), np.full(B, 5, np.int32)
    loss = functools.partial(losses.margin_ranking, num_hard_negatives=2, margin=MARGIN)
    value, gradient = jax.value_and_grad(loss)(scores, labels, 4, negatives)
    assert value == 0 and not np.asarray(gradient).any()


def test_rivals_that_lack_count_as_zeros(batch):
    """One rival where there should be two: half of what one gives, with finite gradients."""
    negatives = losses.class_range(K, 7, 8)
    arguments = jnp.asarray(batch["scores"], jnp.float32), batch["labels"], 4, negatives
    one = losses.margin_ranking(*arguments, 1, MARGIN)
    two, gradient = jax.value_and_grad(losses.margin_ranking)(*arguments, 2, MARGIN)
    np.testing.assert_allclose(two, one / 2, rtol=1e-6)
    assert one > 0 and np.isfinite(gradient).all()


def test_cosine_distance_and_score_distance(batch, float64):
    a, b = batch["features"], batch["teacher_features"]
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    np.testing.assert_allclose(losses.cosine_distance(a, b), np.mean(1 - cosines), rtol=1e-9)
    difference = batch["scores"][:, :4] - batch["teacher_scores"][:, :4]
    scores, teacher_scores = batch["scores"], batch["teacher_scores"]
    got = losses.score_distance(scores, teacher_scores, losses.class_range(K, 0, 4))
    np.testing.assert_allclose(got, 4 * np.mean(difference**2), rtol=1e-12)


def test_cosine_distance_of_zero_vectors(batch):
    features = jnp.asarray(batch["features"], jnp.float32)
    for a, b in ((0 * features, features), (features, 0 * features), (0 * features, 0 * features)):
        value, gradient = jax.value_and_grad(losses.cosine_distance)(a, b)
        assert value == 1
        assert np.isfinite(gradient).all()


def test_no_gradient_flows_into_the_teacher(batch):
    rows = batch["features"], batch["teacher_features"]
    assert not jax.grad(losses.cosine_distance, 1)(*map(jnp.float32, rows)).any()
    rows = batch["scores"], batch["teacher_scores"]
    valid = losses.class_range(K, 0, 4)
    assert not jax.grad(losses.score_distance, 1)(*map(jnp.float32, rows), valid).any()


def every_loss(scores, labels, features, teacher_features, teacher_scores, old):
    """All three, stacked."""
    negatives = losses.class_range(K, old, K)
    return jnp.stack(
        [
            losses.margin_ranking(scores, labels, old, negatives, 2, MARGIN),
            losses.cosine_distance(features, teacher_features),
            losses.score_distance(scores, teacher_scores, losses.class_range(K, 0, old)),
        ]
    )


ARGUMENTS = ("scores", "labels", "features", "teacher_features", "teacher_scores")


def test_losses_of_half_precision_are_computed_in_float32(batch):
    halves = [jnp.asarray(batch[name]) for name in ARGUMENTS]
    halves = [x if x.dtype == jnp.int32 else x.astype(jnp.bfloat16) for x in halves]
    wide = [x if x.dtype == jnp.int32 else x.astype(jnp.float32) for x in halves]
    got = every_loss(*halves, 4)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, every_loss(*wide, 4))


def test_losses_under_vmap(batch):
    """Seeds of other labels and of another number of old classes, one without old images."""
    random = np.random.default_rng(1)
    arrays = [np.stack([batch[name]] * 3) for name in ARGUMENTS]
    arrays[1] = np.stack([batch["labels"], np.full(B, 7), random.integers(0, K, B)])
    arrays = [jnp.asarray(x, jnp.int32 if x.dtype.kind == "i" else jnp.float32) for x in arrays]
    old = jnp.array([4, 6, 5])
    together = jax.jit(jax.vmap(every_loss))(*arrays, old)
    alone = [every_loss(*(x[i] for x in arrays), old[i]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert together[1, 0] == 0
