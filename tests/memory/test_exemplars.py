"""Exemplar memory against the original's choices and against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.memory import exemplars as ex
from cljax.memory import libcontinual, ranking
from cljax.state import Exemplars, Subset
from tests.helpers.goldens import bootstrap_seed, harness_seed
from tests.helpers.padded_sets import jit, listed, subset

# The original's three tasks


class Original:
    """The golden stream of three tasks, in padded arrays as a run holds them.

    Capacities exceed what is needed and the head has labels that never come.
    """

    num_classes = 11
    capacity = 90
    classes, per_class = 4, 30  # of the largest task

    def __init__(self, goldens, variant):
        self.arrays = goldens("coreset")
        own = "bic/" if variant == "bic" else ""
        self.prefix, self.left = variant, {k for k in self.arrays if k.startswith(f"{variant}/")}
        self.left -= {f"{own}{name}" for name in ("features", "targets", "memory")}
        self.features = self.arrays[f"{own}features"]
        self.size = int(self.arrays[f"{own}memory"])
        order = self.arrays["tasks"].ravel()
        self.labels = np.argsort(order)[self.arrays[f"{own}targets"]]

    def task(self, t):
        """New images in file order, and by class with their counts."""
        old, seen = 3 * t, 3 * t + 3
        images = np.flatnonzero((self.labels >= old) & (self.labels < seen))
        rows = [np.flatnonzero(self.labels == label) for label in range(old, seen)]
        table = np.zeros((self.classes, self.per_class), np.int32)
        for row, members in zip(table, rows, strict=False):
            row[: len(members)] = members
        counts = [len(members) for members in rows] + [0] * (self.classes - len(rows))
        return old, seen, subset(images, self.capacity), table, np.asarray(counts, np.int32)

    def labels_in(self, images):
        """As `Task.labels`."""
        places = np.arange(images.indices.shape[0])
        return np.where(places < images.count, self.labels[images.indices], self.num_classes)

    def check(self, t, name, got):
        """Compares with `{variant}/task{t}/{name}`."""
        name = f"{self.prefix}/task{t}/{name}"
        assert np.asarray(got).tolist() == self.arrays[name].tolist(), name
        self.left.discard(name)

    def check_memory(self, t, exemplars):
        """Compares what is stored after a task."""
        self.check(t, "coreset_ids", listed(exemplars))
        if self.prefix != "bic":
            size = int(ex.as_subset(exemplars).count)
            self.check(t, "coreset_mapped_labels", ex.labels_of(exemplars)[:size])
            self.check(t, "quota", exemplars.counts[: 3 * t + 3])
        assert not np.any(exemplars.counts[3 * t + 3 :])


@pytest.mark.parametrize("variant", ["ic", "ete", "bic"])
def test_ranked_memory_is_the_originals(goldens, variant):
    original = Original(goldens, variant)
    memory = ex.empty(original.size, original.num_classes)
    update, split, append = jit(ex.select_ranked), jit(ex.split_first), jit(ex.append)
    rank = jit(jax.vmap(ranking.nearest_to_mean if variant == "ete" else ranking.herding))
    budget = ex.Budget(original.size, "remainder")

    for t in range(3):
        old, seen, images, table, counts = original.task(t)
        trained_on = append(images, ex.as_subset(memory))
        if variant != "bic":
            original.check(t, "train_ids", listed(trained_on))
        elif t > 0:
            total = ex.as_subset(memory).count
            original.check(t, "holdout_total", total // 10)
            labels, per_class = original.labels_in(trained_on), ex.holdout_size(total, old)
            held, kept = split(trained_on, labels, per_class)
            original.check(t, "stage1_ids", listed(kept))
            original.check(t, "stage2_ids", listed(held))
        picks = np.full(original.classes, original.size // seen + 1)
        ranks = rank(original.features[table], counts, picks)
        memory = update(memory, table, counts, ranks, old, seen, budget)
        original.check_memory(t, memory)
        if variant == "ete":
            original.check(t, "balanced_ids", listed(ex.as_subset(memory)))
    assert not original.left
    # Other counts are the same program.
    assert update._cache_size() == append._cache_size() == rank._cache_size() == 1
    assert split._cache_size() == (variant == "bic")


def test_random_memory_is_the_originals(goldens):
    original = Original(goldens, "random")
    trial, replays = harness_seed(goldens), bootstrap_seed(goldens)
    memory = ex.empty(original.size, original.num_classes)
    update, replay, append = jit(ex.select_per_class), jit(ex.replay), jit(ex.append)
    budget = ex.Budget(original.size, "remainder")
    for t in range(3):
        _, seen, images, _, _ = original.task(t)
        places = np.zeros(original.capacity, np.int32)
        if t > 0:
            bootstrap = np.random.RandomState(replays + t)
            total, count = len(listed(memory)), int(images.count)
            places[:count] = bootstrap.choice(total, count)
        pool = append(images, replay(memory, places, images.count))
        original.check(t, "train_ids", listed(pool))

        labels = original.labels_in(pool)
        draws = np.zeros(labels.shape, np.uint32)
        random = np.random.RandomState(10_000 * trial + t)
        for label in reversed(range(seen)):
            members = np.flatnonzero(labels == label)
            draws[members[random.permutation(len(members))]] = np.arange(len(members))
        memory = update(memory, pool, labels, draws, seen, budget)
        original.check_memory(t, memory)
    assert not original.left
    assert update._cache_size() == replay._cache_size() == 1


# Sets of images


@pytest.mark.parametrize("first", [[], [3], [3, 1, 4, 1]])
@pytest.mark.parametrize("second", [[], [5], [5, 9, 2]])
def test_append_leaves_no_gap(first, second):
    got = jit(ex.append)(subset(first, 4), subset(second, 3))
    assert listed(got) == first + second
    assert got.indices.shape == (7,)


@pytest.mark.parametrize("per_class", [0, 1, 2, 5])
def test_split_first_against_lists(per_class):
    images = [30, 11, 20, 31, 10, 12, 32, 33, 21]
    labels = np.array([image // 10 for image in images] + [7, 7, 7])  # 7: padding
    first, rest = [], []
    for image in images:
        taken = sum(other // 10 == image // 10 for other in first)
        (first if taken < per_class else rest).append(image)
    got = jit(ex.split_first)(subset(images, 12), labels, per_class)
    assert [listed(part) for part in got] == [first, rest]
    assert all(part.indices.shape == (12,) for part in got)


def test_holdout_size_rounds_down():
    assert ex.holdout_size(jnp.int32(1999), 20) == 9  # of 199 images for 20 classes
    assert ex.holdout_size(jnp.int32(2000), 20) == 10
    assert ex.holdout_size(jnp.int32(0), 0) == 0


keep_best = jax.jit(ex.keep_best, static_argnames="size")


def test_choose_keeps_the_lowest_ranks_in_ascending_label():
    indices = jnp.array([50, 51, 52, 53, 54, 55, 56, 57])
    labels = jnp.array([2, 0, 2, 0, 2, 4, 4, 1])  # 4: no image
    ranks = jnp.array([1, 0, 0, 8, 2, 0, 1, 0])
    got = keep_best(indices, labels, ranks, jnp.array([1, 0, 2, 3]), size=5)
    assert listed(got) == [51, 52, 50]
    assert got.counts.tolist() == [1, 0, 2, 0]
    assert got.indices.tolist() == [51, 52, 50, 0, 0]
    assert ex.labels_of(got).tolist() == [0, 2, 2, 4, 4]


def test_a_memory_larger_than_all_images_keeps_them_all():
    quota = jnp.array([9, 9])
    indices, labels, ranks = jnp.array([[7, 8, 9], [1, 0, 1], [1, 0, 0]])
    got = keep_best(indices, labels, ranks, quota, size=20)
    assert listed(got) == [8, 9, 7]
    assert got.indices.shape == (20,)


# Replay


def test_places_are_drawn_uniformly_with_replacement():
    total, draws = 12, 24_000
    draw = jit(lambda key, total: ex.draw_places(key, total, draws))
    places = np.asarray(draw(jax.random.key(0), total))
    counts = np.bincount(places, minlength=total)
    assert places.min() == 0 and places.max() == total - 1
    expected = draws / total
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # chi-squared, 11 dof, p = 0.001
    # Successive draws are independent: as often equal as 1 in `total`.
    assert abs(np.mean(places[1:] == places[:-1]) - 1 / total) < 0.006
    assert not np.array_equal(places, draw(jax.random.key(1), total))
    assert np.unique(draw(jax.random.key(0), 3)).tolist() == [0, 1, 2]
    assert not np.any(draw(jax.random.key(0), 0))
    assert draw._cache_size() == 1


def test_replay_repeats_what_was_drawn():
    memory = Exemplars(jnp.array([40, 41, 42, 0]), jnp.array([2, 0, 1]))
    got = ex.replay(memory, jnp.array([2, 0, 2, 1, 1, 0]), jnp.int32(4))
    assert listed(got) == [42, 40, 42, 41]


def test_an_empty_memory_replays_and_holds_out_nothing():
    memory = ex.empty(6, 3)
    assert listed(memory) == []
    assert ex.labels_of(memory).tolist() == [3] * 6
    places = ex.draw_places(jax.random.key(0), ex.as_subset(memory).count, 5)
    replayed = jit(ex.replay)(memory, places, 2)
    assert listed(jit(ex.append)(subset([8, 9], 4), replayed)) == [8, 9]
    per_class = ex.holdout_size(ex.as_subset(memory).count, 0)
    held, kept = jit(ex.split_first)(ex.as_subset(memory), ex.labels_of(memory), per_class)
    assert listed(held) == listed(kept) == []


@pytest.mark.parametrize("seen", [0, 2])
def test_a_task_without_images_leaves_an_empty_memory(seen):
    @jit
    def after_task(count, seen):
        memory, features, budget = ex.empty(6, 3), jnp.ones((2, 4, 3)), ex.Budget(6, "remainder")
        herded = jax.vmap(ranking.herding)(features, count, count + 4)
        near = jax.vmap(ranking.nearest_to_mean)(features, count, count)
        table, draws = jnp.zeros((2, 4), jnp.int32), jnp.zeros(4, jnp.uint32)
        ranked = ex.select_ranked(memory, table, count, herded, 0, seen, budget)
        nothing, labels = Subset(table[0], 0), jnp.full(4, 3)
        drawn = ex.select_per_class(memory, nothing, labels, draws, seen, budget)
        uniform = ex.select_any(memory, nothing, labels, draws)
        literal = libcontinual.select(memory, nothing, labels, features[0], seen, budget)
        turns, slots = ranking.offer(jax.random.key(0), 0, 0, 4, 6)
        offered = ex.update_reservoir(memory, nothing, labels, turns, slots)
        return herded, near, ranked, drawn, uniform, literal, offered

    herded, near, *memories = after_task(jnp.zeros(2, jnp.int32), seen)
    assert (herded == 4).all() and (near == 4).all()
    for memory in memories:
        assert not memory.indices.any() and not memory.counts.any()


def test_updates_vmap_over_seeds_and_do_not_depend_on_the_padding():
    """Seeds with class counts of their own, each compared with itself alone in other shapes."""
    random = np.random.RandomState(3)
    tables, counts, features = [], [], []
    for _ in range(3):
        counts.append(random.randint(2, 9, 3).astype(np.int32))
        tables.append(random.permutation(300)[:27].reshape(3, 9).astype(np.int32))
        features.append(random.randn(3, 9, 4).astype(np.float32))

    def update(memory, table, count, features, old, seen):
        budget = ex.Budget(12, "remainder")
        ranks = jax.vmap(ranking.herding, (0, 0, None))(features, count, budget.largest(seen))
        return ex.select_ranked(memory, table, count, ranks, old, seen, budget)

    memory = jax.tree.map(lambda x: jnp.stack([x] * 3), ex.empty(12, 7))
    first = [np.stack(x) for x in (tables, counts, features)]
    second = [first[0] + 300, first[1][:, ::-1].copy(), first[2]]
    seeds = jit(jax.vmap(update, in_axes=(0, 0, 0, 0, None, None)))
    got = seeds(seeds(memory, *first, 0, 3), *second, 3, 6)
    update = jit(update)
    for seed in range(3):
        alone = ex.empty(12, 7)
        for (table, count, rows), old in ((first, 0), (second, 3)):
            table = np.pad(table[seed], [(0, 1), (0, 4)], constant_values=999)
            rows = np.pad(rows[seed], [(0, 1), (0, 4), (0, 0)])
            alone = update(alone, table, np.append(count[seed], 0), rows, old, old + 3)
        np.testing.assert_array_equal(got.indices[seed], alone.indices)
        np.testing.assert_array_equal(got.counts[seed], alone.counts)
        assert got.counts[seed].sum() == 12


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_results_are_int32_at_either_precision(precision):
    def task(key, features, count, table, old, seen):
        budget = ex.Budget(5, "remainder")
        herded = jax.vmap(ranking.herding)(features, count, budget.largest(seen)[None])
        own = jax.vmap(ranking.herding_lucir)(features, count, count)
        near = jax.vmap(ranking.nearest_to_mean)(features, count, count)
        memory = ex.select_ranked(ex.empty(5, 2), table, count, herded, old, seen, budget)
        everything = ex.as_subset(memory)
        places = ex.draw_places(key, everything.count, 6)
        pool = ex.append(everything, ex.replay(memory, places, count[0]))
        labels, draws = jnp.zeros(11, jnp.int32), jax.random.bits(key, (11,), jnp.uint32)
        parts = ex.split_first(pool, labels, ex.holdout_size(pool.count, seen))
        drawn = ex.select_per_class(memory, pool, labels, draws, seen, budget)
        uniform = ex.select_any(memory, pool, labels, draws)
        rows = jnp.ones((11, 3), precision)
        literal = libcontinual.select(memory, pool, labels, rows, seen, budget)
        turns, slots = ranking.offer(key, pool.count, seen, 11, 5)
        offered = ex.update_reservoir(memory, pool, labels, turns, slots)
        ranks = herded, own, near
        kept = memory, drawn, uniform, literal, offered
        return ranks, kept, ex.labels_of(memory), places, pool, parts, turns, slots

    with jax.enable_x64(precision == "float64"):
        features = jnp.ones((1, 8, 3), precision)
        one, table = jnp.ones(1, jnp.int32), jnp.zeros((1, 8), jnp.int32)
        shapes = jax.eval_shape(task, jax.random.key(0), features, one, table, one[0], one[0])
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.int32)}
