"""Ranks of images against the original's choices, plain Python and hand-made cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.losses import unit_vectors
from cljax.memory import libcontinual, ranking
from tests.helpers.padded_sets import by_rank, jit

herding, nearest_to_mean = jit(ranking.herding), jit(ranking.nearest_to_mean)


def python_herding(features, picks):
    features = features.astype(np.float64)
    mean, total, picked = features.mean(0), 0.0, []
    for k in range(min(picks, len(features))):
        distances = np.linalg.norm(mean - (total + features) / (k + 1), axis=1)
        distances[picked] = np.inf
        picked.append(int(distances.argmin()))
        total = total + features[picked[-1]]
    return picked


def class_features(seed, n, dim, duplicates=0):
    """Features as after a ReLU; the last `duplicates` rows repeat the first ones, reversed."""
    random = np.random.RandomState(seed)
    features = np.maximum(random.randn(n, dim) + random.randn(dim), 0).astype(np.float32)
    if duplicates:
        features[-duplicates:] = features[:duplicates][::-1]
    return features


@pytest.mark.parametrize(
    ("n", "dim", "duplicates", "picks"),
    [(300, 64, 0, 300), (200, 5, 100, 150), (31, 7, 10, 0), (31, 7, 10, 30), (31, 7, 10, 99)],
)
def test_herding_is_greedy_and_duplicates_go_to_the_lower_position(n, dim, duplicates, picks):
    for seed in range(3):
        features = class_features(seed, n, dim, duplicates)
        want = python_herding(features, picks)
        assert by_rank(herding(features, n, picks)) == want
        # Whatever is behind the count changes nothing, and has no rank.
        padded = np.concatenate([features, np.full((9, dim), np.nan, np.float32)])
        ranks = np.asarray(herding(padded, n, picks))
        assert by_rank(ranks) == want
        assert (ranks[n:] == n + 9).all()


def test_herding_of_identical_images_goes_by_position():
    features = np.ones((6, 4), np.float32) / 3
    assert herding(features, 5, 3).tolist() == [0, 1, 2, 6, 6, 6]


def test_more_picks_extend_the_ranking():
    features = class_features(0, 50, 8)
    few, many = (np.asarray(herding(features, 50, picks)) for picks in (10, 30))
    np.testing.assert_array_equal(few[many < 10], many[many < 10])
    assert (few[many >= 10] == 50).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_herding_of_a_diverged_network_still_ranks_every_image_once(value):
    features = class_features(0, 12, 4)
    features[3:6] = value
    ranks = herding(np.concatenate([features, features]), 12, 12)
    assert sorted(by_rank(ranks)) == list(range(12))


@functools.cache
def nested_batch():
    """Features [seeds, classes, n, D] with counts and picks that differ."""
    features = np.stack(
        [[class_features(10 * s + c, 40, 6, 5) for c in range(4)] for s in range(3)]
    )
    counts = np.array([[40, 31, 12, 0], [1, 40, 8, 20], [39, 5, 40, 33]], np.int32)
    picks = np.array([[10, 0, 40, 5], [3, 11, 8, 7], [39, 2, 20, 50]], np.int32)
    return features, counts, picks


def test_vmapped_over_classes_and_seeds_is_looped():
    features, counts, picks = nested_batch()
    herd = jit(jax.vmap(jax.vmap(ranking.herding)))
    nearest = jit(jax.vmap(jax.vmap(ranking.nearest_to_mean)))
    herded, near = (np.asarray(f(features, counts, picks)) for f in (herd, nearest))
    for place in np.ndindex(counts.shape):
        rows, count = features[place], counts[place]
        np.testing.assert_array_equal(herded[place], herding(rows, count, picks[place]))
        np.testing.assert_array_equal(near[place], nearest_to_mean(rows, count, 0))
        assert len(by_rank(herded[place])) == min(count, picks[place])
        assert sorted(by_rank(near[place])) == list(range(count))
    herd(features, counts // 2, picks // 2)
    assert herd._cache_size() == 1


@pytest.mark.parametrize("duplicates", [0, 15])
def test_nearest_to_mean_sorts_by_distance_and_then_position(duplicates):
    features = class_features(1, 60, 16, duplicates)
    wide = features.astype(np.float64)
    want = np.argsort(np.linalg.norm(wide - wide.mean(0), axis=1), kind="stable").tolist()
    assert by_rank(nearest_to_mean(features, 60, 1)) == want
    padded = np.concatenate([features, np.full((3, 16), np.nan, np.float32)])
    ranks = nearest_to_mean(padded, 60, 1)
    assert by_rank(ranks) == want
    assert ranks[60:].tolist() == [63] * 3


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.float32])
def test_ranks_within_class(dtype):
    random = np.random.RandomState(2)
    labels, priorities = random.randint(0, 5, 80), random.randint(0, 6, 80).astype(dtype)
    if dtype == np.uint32:
        priorities[::9] = 2**32 - 1
    rank = jit(ranking.ranks_within_class)
    got = np.asarray(rank(labels, priorities))
    for label in range(5):
        members = np.flatnonzero(labels == label)
        ordered = members[np.argsort(priorities[members], kind="stable")]
        assert got[ordered].tolist() == list(range(len(members)))
    # Padding behind, of whatever priority, changes no rank.
    more = np.append(labels, [5] * 20), np.append(priorities, np.zeros(20, dtype))
    np.testing.assert_array_equal(rank(*more)[:80], got)


def test_class_counts_leave_padding_out():
    labels = jnp.array([2, 0, 2, 4, 4, 2, 5, 5, 5])
    assert ranking.class_counts(labels, 5).tolist() == [1, 0, 3, 0, 2]


# LUCIR's herding

herding_lucir = jit(ranking.herding_lucir)


def python_lucir(features, picks):
    """Ranked places, and the number of rounds."""
    features = features.astype(np.float64)
    mean = features.mean(0)
    w, ranked, rounds = mean, [], 0
    while len(ranked) < min(picks, 500) and rounds < 1000:
        best = int((features @ w).argmax())
        if best not in ranked:
            ranked.append(best)
        w, rounds = w + mean - features[best], rounds + 1
    return ranked, rounds


def unit_features(seed, n, dim, duplicates=0):
    return np.array(unit_vectors(class_features(seed, n, dim, duplicates)))


@pytest.mark.parametrize("run", ["per_class_20", "fixed_total_100"])
def test_herding_lucir_is_the_originals(lucir_goldens, run):
    arrays = lucir_goldens("lucir_herding_and_means")
    ranks = []
    for phase, scale in enumerate(arrays["phase_scale"]):
        prefix = f"{run}.phase{phase}"
        quota = int(arrays[f"{prefix}.quota_per_class"])
        for label in arrays["class_order"][2 * phase : 2 * phase + 2]:
            found = herding_lucir(unit_vectors(arrays["features_train"][label] * scale), 500, quota)
            ranks.append(np.where(found < 500, found + 1, 0))
        np.testing.assert_array_equal(ranks, arrays[f"{prefix}.ranks"])
    # The second class lies in clusters, whose images are taken repeatedly.
    features = arrays["features_train"][arrays["class_order"][1]] * arrays["phase_scale"][0]
    quota = int(arrays[f"{run}.phase0.quota_per_class"])
    rounds = arrays[f"{run}.phase0.herding_iterations_of_the_last_class"]
    assert python_lucir(np.asarray(unit_vectors(features)), quota)[1] == rounds > quota


@pytest.mark.parametrize("picks", [0, 1, 12, 40])
def test_herding_lucir_takes_images_again_without_a_rank(picks):
    repeated = 0
    for seed in range(4):
        features = unit_features(seed, 40, 3)
        want, rounds = python_lucir(features, picks)
        repeated += rounds - len(want)
        padded = np.concatenate([features, np.full((5, 3), np.nan, np.float32)])
        ranks = np.asarray(herding_lucir(padded, 40, picks))
        assert by_rank(ranks) == want
        assert (ranks[40:] == 45).all()
    assert (repeated > 0) == (picks > 1)


def test_herding_lucir_never_ranks_the_second_of_two_equal_images():
    features = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
    assert sorted(by_rank(herding_lucir(features, 4, 4))) == [0, 1, 3]


def test_herding_lucir_ranks_500_images_at_most():
    features = np.eye(520, dtype=np.float32)  # every image is taken once before any again
    assert by_rank(herding_lucir(features, 520, 520)) == list(range(500))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_herding_lucir_of_a_diverged_network_ends(value):
    features = unit_features(0, 12, 4)
    features[3:6] = value
    ranks = by_rank(herding_lucir(np.concatenate([features, features]), 12, 12))
    assert len(set(ranks)) == len(ranks) and set(ranks) <= set(range(12))


# LibContinual's herding

libcontinual_rank = jit(libcontinual.rank)


def python_literal(features, quota):
    features = features.astype(np.float64)
    if len(features) <= quota:
        return list(range(len(features)))
    mean, a, picked = features.mean(0), 0.0, []
    for k in range(1, quota + 1):
        distances = np.linalg.norm(mean - (a + features) / k, axis=1)
        distances[picked] = np.inf
        picked.append(int(distances.argmin()))
        a = features[picked].mean(0)
    return picked


def test_libcontinual_rank(lucir_goldens):
    arrays = lucir_goldens("lib_buffers")
    ranks = libcontinual_rank(arrays["features"][0], np.zeros(30, np.int32), jnp.array([12]))
    assert by_rank(ranks) == arrays["construct_examplar.class0_pick12"].tolist()


@pytest.mark.parametrize("duplicates", [0, 9])
def test_libcontinual_rank_of_mixed_classes_is_that_of_each(duplicates):
    random = np.random.RandomState(4)
    labels = random.permutation(np.repeat([0, 1, 3, 4], [20, 7, 31, 12]))  # 4: padding
    features = class_features(3, len(labels), 6)
    members = [np.flatnonzero(labels == label) for label in range(4)]
    if duplicates:
        features[members[3][-duplicates:]] = features[members[3][:duplicates]]
    features[labels == 4] = np.nan
    quota = np.array([8, 9, 5, 20])
    ranks = np.asarray(libcontinual_rank(features, labels, quota))
    for places, most in zip(members, quota, strict=True):
        want = places[python_literal(features[places], most)]
        got = places[np.argsort(ranks[places], kind="stable")][: min(most, len(places))]
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(ranks[got], np.arange(len(got)))


# Reservoir


def test_offers_fill_the_reservoir_and_then_draw_slots_among_all_offered_so_far():
    offer = functools.partial(ranking.offer, capacity=9, size=5)
    draws = jit(jax.vmap(lambda key: offer(key, 7, 3)))
    turns, slots = map(np.asarray, draws(jax.random.split(jax.random.key(0), 3000)))
    assert (np.sort(turns[:, :7]) == np.arange(7)).all()
    assert (turns[:, 7:] >= 7).all()
    # Every image comes first equally often: chi-squared, 6 dof, p = 0.001.
    first = np.bincount(turns[:, :7].argmin(1), minlength=7)
    assert ((first - 3000 / 7) ** 2 / (3000 / 7)).sum() < 22.5
    by_turn = np.take_along_axis(slots[:, :7], turns[:, :7].argsort(1), 1)
    assert (by_turn[:, :2] == [3, 4]).all()  # the 4th and 5th image find room
    for turn in range(2, 7):
        offered = 3 + turn + 1
        counts = np.bincount(by_turn[:, turn], minlength=offered)
        assert len(counts) == offered
        expected = 3000 / offered
        assert ((counts - expected) ** 2 / expected).sum() < 29.6  # 10 dof at most, p = 0.001
