"""Exemplar strategies against LUCIR's and LibContinual's choices and against plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.losses import unit_vectors
from cljax.memory import exemplars as ex
from cljax.memory import libcontinual, ranking
from cljax.state import Subset
from tests.helpers.padded_sets import RULES, jit, listed, python_quotas, subset

# LUCIR's and LibContinual's tasks


@pytest.mark.parametrize(
    ("run", "budget"),
    [("per_class_20", ex.Budget(20, "per_class")), ("fixed_total_100", ex.Budget(100, "ceil"))],
)
def test_lucir_memory_is_the_originals(lucir_goldens, run, budget):
    arrays = lucir_goldens("lucir_herding_and_means")
    memory, update = ex.empty(budget.capacity(6), 6), jit(ex.select_ranked)
    rank = jit(jax.vmap(ranking.herding_lucir, (0, 0, None)))
    for phase, scale in enumerate(arrays["phase_scale"]):
        old, seen, counts = 2 * phase, 2 * phase + 2, np.array([500, 500], np.int32)
        features = arrays["features_train"][arrays["class_order"][old:seen]] * scale
        table = 500 * np.arange(old, seen)[:, None] + np.arange(500)
        prefix = f"{run}.phase{phase}"
        quota = budget.largest(jnp.int32(seen))
        assert quota == arrays[f"{prefix}.quota_per_class"]
        ranks = rank(unit_vectors(features), counts, quota)
        memory = update(memory, table, counts, ranks, old, seen, budget)
        # The original stores each class in file order.
        kept = np.sort(np.reshape(listed(memory), (seen, -1)), axis=1)
        expected = arrays[f"{prefix}.exemplars"] + 500 * np.arange(seen)[:, None]
        np.testing.assert_array_equal(kept, expected)
    assert update._cache_size() == 1


class Buffers:
    """LibContinual's three tasks of two classes, as one list of candidates per task."""

    def __init__(self, lucir_goldens):
        self.arrays = lucir_goldens("lib_buffers")
        self.features = self.arrays["features"].reshape(180, -1)
        self.budget = ex.Budget(int(self.arrays["buffer_size"]), "floor")

    def expected(self, strategy, t):
        """Image indices in the buffer after task t, in its order."""
        rows = self.arrays[f"{strategy}.task{t}.buffer"]
        return 30 * rows[:, 0] + rows[:, 1]

    def pool(self, t, stored):
        """The candidates and their labels: the task's images, and twice what is stored."""
        images = [*range(60 * t, 60 * t + 60), *stored, *stored]
        return subset(images, 140), np.append(np.array(images) // 30, [6] * (140 - len(images)))


def test_correct_herding_is_libcontinuals_linear_herding_buffer(lucir_goldens):
    buffers = Buffers(lucir_goldens)
    memory, counts, update = ex.empty(36, 6), jnp.array([30, 30]), jit(ex.select_ranked)
    rank = jit(jax.vmap(ranking.herding, (0, 0, None)))
    for t in range(3):
        table = np.arange(60 * t, 60 * t + 60).reshape(2, 30)
        features, seen = unit_vectors(buffers.features[table]), 2 * t + 2
        ranks = rank(features, counts, 36 // seen)
        memory = update(memory, table, counts, ranks, 2 * t, seen, buffers.budget)
        assert listed(memory) == buffers.expected("linear_herding", t).tolist()


def test_literal_herding_is_libcontinuals(lucir_goldens):
    buffers = Buffers(lucir_goldens)
    memory, update = ex.empty(36, 6), jit(libcontinual.select)
    for t in range(3):
        pool, labels = buffers.pool(t, listed(memory))
        features = buffers.features[np.maximum(pool.indices, 0)]
        memory = update(memory, pool, labels, features, 2 * t + 2, buffers.budget)
        assert listed(memory) == buffers.expected("herding", t).tolist()
    assert len(set(listed(memory))) < 36
    assert update._cache_size() == 1


def test_unbalanced_draw_is_libcontinuals_random(lucir_goldens):
    buffers = Buffers(lucir_goldens)
    memory, update, stored = ex.empty(36, 6), jit(ex.select_any), []
    for t in range(3):
        pool, labels = buffers.pool(t, stored)
        total = int(pool.count)
        random = np.random.RandomState(buffers.arrays[f"random.task{t}.numpy_seed"])
        draws = np.zeros(140, np.uint32)
        draws[random.permutation(total)] = np.arange(total)
        memory = update(memory, pool, labels, draws)
        stored = buffers.expected("random", t)
        # The same images in the same order, but sorted by class.
        assert listed(memory) == stored[np.argsort(stored // 30, kind="stable")].tolist()
    assert update._cache_size() == 1


# Draws against plain Python


def some_pool(random):
    """A memory of 12 for 5 labels and a pool of at most 40, of which the last label never comes."""
    count = random.randint(0, 41)
    labels = np.append(random.randint(0, 4, count), [5] * (40 - count))
    images = random.permutation(100)[:40].astype(np.int32)
    draws = random.randint(0, 2**32, 40, np.uint32)
    return ex.empty(12, 5), Subset(images, np.int32(count)), labels, draws


@pytest.mark.parametrize("rule", RULES)
def test_balanced_draw_keeps_the_lowest_draws_of_each_class(rule):
    random = np.random.RandomState(0)
    update, budget = jit(ex.select_per_class), ex.Budget(2 if rule == "per_class" else 8, rule)
    for _ in range(20):
        memory, pool, labels, draws = some_pool(random)
        got = update(memory, pool, labels, draws, 4, budget)
        members = [np.flatnonzero(labels == label) for label in range(5)]
        quota = python_quotas([len(places) for places in members], 4, budget.size, rule)
        want = [m[draws[m].argsort()][:q] for m, q in zip(members, quota, strict=False)]
        assert listed(got) == pool.indices[np.concatenate(want)].tolist()


def test_unbalanced_draw_keeps_the_lowest_draws_of_all():
    random = np.random.RandomState(1)
    update = jit(ex.select_any)
    for _ in range(20):
        memory, pool, labels, draws = some_pool(random)
        kept = draws[: pool.count].argsort()[:12]
        want = pool.indices[kept[labels[kept].argsort(kind="stable")]]
        got = update(memory, pool, labels, draws)
        assert listed(got) == want.tolist()
        np.testing.assert_array_equal(got.counts, np.bincount(labels[kept], minlength=5))


def test_reservoir_overwrites_slot_by_slot():
    random = np.random.RandomState(2)
    update, offer = (
        jit(ex.update_reservoir),
        jit(functools.partial(ranking.offer, capacity=30, size=12)),
    )
    memory, past = ex.empty(12, 6), 0
    for old in range(6):
        count = random.randint(0, 31)
        images = np.arange(30, dtype=np.int32) + 100 * old
        turns, slots = map(np.asarray, offer(jax.random.key(old), count, past))
        want = listed(memory)
        for place in turns.argsort()[:count]:
            past += 1
            if len(want) < 12:
                want.append(images[place])
            elif slots[place] < 12:
                want[slots[place]] = images[place]
        labels = np.where(np.arange(30) < count, old, 6)
        memory = update(memory, Subset(images, count), labels, turns, slots)
        assert listed(memory) == sorted(want)
        np.testing.assert_array_equal(
            memory.counts, np.bincount(np.array(want) // 100, minlength=6)
        )
    assert update._cache_size() == offer._cache_size() == 1


# Quotas


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 7, 20, 36])
def test_quotas_are_those_of_a_visit_from_the_newest_class(size, rule):
    random = np.random.RandomState(size)
    budget = ex.Budget(size, rule)
    quotas, largest = jit(budget.quotas), jit(budget.largest)
    for _ in range(100):
        seen = random.randint(1, 9)
        available = random.randint(0, random.choice([3, 8, 20]), 8)
        got = np.asarray(quotas(available, seen))
        assert got.dtype == np.int32
        assert got.tolist() == python_quotas(available.tolist(), seen, size, rule) + [0] * (
            8 - seen
        )
        assert got.sum() <= budget.capacity(8)
        assert got.max() <= largest(seen)
        assert (got <= available).all()
        if rule == "remainder" and (available[:seen] > size // seen).all():
            assert got.sum() == size and np.ptp(got[:seen]) <= 1
    assert quotas._cache_size() == 1


@pytest.mark.parametrize("rule", RULES)
def test_before_any_class_there_is_no_quota(rule):
    assert ex.Budget(9, rule).quotas(jnp.array([3, 3]), 0).tolist() == [0, 0]


def test_remainder_goes_to_the_newest_classes_that_have_more_than_the_share():
    got = jit(ex.Budget(17, "remainder").quotas)(jnp.array([9, 9, 9, 3, 9]), 5)
    assert got.tolist() == [3, 3, 4, 3, 4]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("floor", [3, 3, 3]), ("ceil", [4, 4, 4]), ("remainder", [3, 3, 4]), ("per_class", [9, 9, 9])],
)
def test_rules_differ_in_what_they_do_with_a_remainder(rule, expected):
    plenty = jnp.array([9, 9, 9, 9])
    assert ex.Budget(10, rule).quotas(plenty, 3)[:3].tolist() == expected


def test_capacities_hold_the_most_that_any_number_of_classes_may_keep():
    plenty = jnp.full(8, 99)
    for size in (1, 5, 8, 20):
        for rule in RULES:
            budget = ex.Budget(size, rule)
            totals = [int(budget.quotas(plenty, seen).sum()) for seen in range(1, 9)]
            assert max(totals) <= budget.capacity(8)
            # Of "ceil" the bound is met only by some sizes.
            assert rule == "ceil" or max(totals) == budget.capacity(8)
