"""What every strategy promises, whatever the tasks."""

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.memory import exemplars
from cljax.memory.policy import STRATEGIES, MemoryPolicy
from cljax.rng import Streams
from cljax.state import Data
from tests.helpers import tiny
from tests.helpers.padded_sets import jit, listed, python_quotas

CLASSES, PER_CLASS, TASKS = 6, 8, 3
CAPACITY = 3 * PER_CLASS  # of a task: three classes at most
RANKED = [name for name, strategy in STRATEGIES.items() if strategy.rank]
BALANCED = [name for name, strategy in STRATEGIES.items() if strategy.shares]
KEEPING = [name for name in STRATEGIES if name != "none"]
# Those that list an image twice for a reason.
UNIQUE = [name for name in KEEPING if name not in ("random_redraw", "libcontinual_herding")]


class Problem:
    """Three tasks over six classes whose numbers of images differ, and features of the images.

    A part of each class's images belongs to no task, as in a validation run, unless `whole`.
    """

    def __init__(self, seed, whole=False):
        random = np.random.RandomState(seed)
        self.seed = seed
        labels = random.permutation(np.repeat(np.arange(CLASSES), PER_CLASS))
        order = random.permutation(CLASSES)
        self.label_map = np.argsort(order)
        self.sizes = ((2, 2, 2), (1, 3, 2), (3, 1, 2), (2, 3, 1))[random.randint(4)]
        self.members = []
        for c in order:
            count = PER_CLASS if whole else random.randint(1, PER_CLASS + 1)
            chosen = random.permutation(np.flatnonzero(labels == c))[:count]
            self.members.append(np.sort(chosen))
        nothing = np.zeros((1, 1, 1, 1), np.uint8)
        self.data = Data(nothing, jnp.asarray(labels), nothing, labels[:1])
        self.features = random.randn(CLASSES * PER_CLASS, 4).astype(np.float32)
        self.features[::5] = self.features[0]  # duplicates

    def task(self, t):
        """As `tasks.make_task`."""
        bounds = np.cumsum([0, *self.sizes])
        new = self.members[bounds[t] : bounds[t + 1]]
        images, table = np.sort(np.concatenate(new)), np.zeros((3, PER_CLASS), np.int32)
        for row, found in zip(table, new, strict=False):
            row[: len(found)] = found
        padded = np.pad(images, (0, CAPACITY - len(images))).astype(np.int32)
        task = tiny.task(
            int(bounds[t]),
            int(bounds[t + 1]),
            index=t,  # not `is_first`, so that one program does for all tasks
            images=exemplars.Subset(jnp.asarray(padded), jnp.int32(len(images))),
            boundaries=tuple(bounds),
            label_map=tuple(self.label_map),
        )
        counts = [len(found) for found in new] + [0] * (3 - len(new))
        past = sum(map(len, self.members[: bounds[t]]))
        return task.replace(
            class_images=jnp.asarray(table),
            class_image_counts=jnp.array(counts, jnp.int32),
            past_images=jnp.int32(past),
        )


@functools.cache
def programs(memory, vmapped=False):
    """The compiled `after_task`."""

    def after_task(state, task, data, features):
        return memory.after_task(state, task, data, lambda indices, count: features[indices])

    after_task = jax.vmap(after_task) if vmapped else after_task
    return jit(after_task)


def streams(seed):
    return Streams(jnp.int32(0), jnp.int32(seed), jnp.int32(0), jnp.int32(0))


def run(memory, problem, seed=None):
    """The exemplars after each task."""
    state = tiny.learner({}, exemplars=memory.init(CLASSES))
    state = state.replace(streams=streams(problem.seed if seed is None else seed))
    kept = []
    for t in range(TASKS):
        state = programs(memory)(state, problem.task(t), problem.data, problem.features)
        kept.append(state.exemplars)
    return kept


def policy(strategy, size, per_class=False, replay="all"):
    return MemoryPolicy(size, strategy, replay, False, per_class)


def examples(count):
    """Problems and sizes; the same ones in each run of the tests."""

    def decorate(test):
        test = given(seed=st.integers(0, 10_000), size=st.sampled_from([7, 20]))(test)
        return settings(max_examples=count, derandomize=True, deadline=None, database=None)(test)

    return decorate


@pytest.mark.parametrize("strategy", KEEPING)
@examples(8)
def test_an_exemplar_is_an_image_of_an_earlier_task_with_its_label(strategy, size, seed):
    problem = Problem(seed)
    for t, kept in enumerate(run(policy(strategy, size), problem)):
        images, seen = listed(kept), sum(problem.sizes[: t + 1])
        labels = np.asarray(exemplars.labels_of(kept))[: len(images)].tolist()
        assert labels == sorted(labels)
        assert Counter(labels) == Counter({k: n for k, n in enumerate(kept.counts.tolist()) if n})
        for image, label in zip(images, labels, strict=True):
            assert label < seen and image in problem.members[label]
        if strategy in UNIQUE:
            assert len(set(images)) == len(images)
        assert not np.asarray(kept.indices)[len(images) :].any()


@pytest.mark.parametrize(
    ("strategy", "per_class"),
    [(name, False) for name in BALANCED if name in UNIQUE]
    + [("herding", True), ("herding_lucir", True), ("equal_random", True)],
)
@examples(8)
def test_every_class_has_its_share_of_what_it_has(strategy, size, seed, per_class):
    problem = Problem(seed)
    memory = policy(strategy, size // 4 if per_class else size, per_class)
    available = []
    for t, kept in enumerate(run(memory, problem)):
        first, seen = len(available), sum(problem.sizes[: t + 1])
        available += [len(members) for members in problem.members[first:seen]]
        if strategy == "herding_lucir":  # may rank fewer images than it is to
            new = np.asarray(kept.counts)[first:seen]
            limits = python_quotas(available, seen, memory.size, memory.budget.rule)[first:]
            assert (new >= 1).all() and (new <= limits).all()
            available[first:] = new.tolist()
        shares = python_quotas(available, seen, memory.size, memory.budget.rule)
        assert kept.counts.tolist() == shares + [0] * (CLASSES - seen)
        available = shares


@pytest.mark.parametrize("strategy", ["random", "reservoir"])
@examples(8)
def test_without_shares_the_memory_is_full_as_soon_as_it_can_be(strategy, size, seed):
    problem, offered = Problem(seed), 0
    for t, kept in enumerate(run(policy(strategy, size), problem)):
        offered += int(problem.task(t).images.count)
        assert len(listed(kept)) == min(size, offered)


@pytest.mark.parametrize("strategy", KEEPING)
@examples(8)
def test_old_classes_only_shrink(strategy, size, seed):
    problem = Problem(seed)
    before = {}
    for t, kept in enumerate(run(policy(strategy, size), problem)):
        ends = np.cumsum(kept.counts)
        now = {k: listed(kept)[ends[k] - kept.counts[k] : ends[k]] for k in range(CLASSES)}
        for label in range(sum(problem.sizes[:t])):
            if strategy in RANKED:  # the best, in the same order
                assert now[label] == before[label][: len(now[label])]
            else:
                assert set(now[label]) <= set(before[label])
        before = now


@pytest.mark.parametrize("strategy", KEEPING)
def test_the_seed_alone_decides(strategy):
    draws = not STRATEGIES[strategy].rank and strategy != "libcontinual_herding"
    memory, problem = policy(strategy, 7), Problem(3)
    results = [[listed(kept) for kept in run(memory, problem, seed)] for seed in (0, 0, 1, 2)]
    assert results[0] == results[1]
    assert (len({str(result) for result in results}) == 3) == draws


@pytest.mark.parametrize("strategy", KEEPING)
def test_vmapped_over_seeds_is_looped(strategy):
    memory, problems = policy(strategy, 7), [Problem(seed) for seed in (3, 4, 5)]

    def stack(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    state = tiny.learner({}, exemplars=memory.init(CLASSES))
    state = stack([state.replace(streams=streams(problem.seed)) for problem in problems])
    alone = [run(memory, problem) for problem in problems]
    data = stack([problem.data for problem in problems])
    features = jnp.stack([problem.features for problem in problems])
    for t in range(TASKS):
        task = stack([problem.task(t) for problem in problems])
        state = programs(memory, vmapped=True)(state, task, data, features)
        for i, kept in enumerate(alone):
            np.testing.assert_array_equal(state.exemplars.indices[i], kept[t].indices)
            np.testing.assert_array_equal(state.exemplars.counts[i], kept[t].counts)


def kept_by_seed(strategy, size, seeds=4000):
    """Whether each image is in the memory after all tasks, bool [seeds, N]."""
    problem, memory = Problem(0, whole=True), policy(strategy, size)
    tasks = [problem.task(t) for t in range(TASKS)]

    def images(seed):
        state = tiny.learner({}, exemplars=memory.init(CLASSES)).replace(streams=streams(seed))
        for task in tasks:
            state = memory.after_task(state, task, problem.data, None)
        return state.exemplars.indices

    drawn = np.asarray(jit(jax.vmap(images))(jnp.arange(seeds)))
    is_kept = np.zeros((seeds, CLASSES * PER_CLASS))
    np.put_along_axis(is_kept, drawn, 1, axis=1)
    assert (is_kept.sum(1) == size).all()
    return is_kept


@pytest.mark.parametrize("strategy", ["reservoir", "equal_random"])
def test_every_image_of_all_tasks_is_kept_equally_often(strategy):
    is_kept = kept_by_seed(strategy, 12)
    seeds, images = is_kept.shape
    share = 12 / images
    deviations = (is_kept.sum(0) - seeds * share) ** 2 / (seeds * share * (1 - share))
    # Chi-squared with `images` less 1 (reservoir) or 6 (two of every class) degrees, p = 0.001.
    assert deviations.sum() < 84.0
    if strategy == "reservoir":  # no pair of images goes together
        pairs = (is_kept.T @ is_kept)[np.triu_indices(images, 1)]
        share *= 11 / (images - 1)
        deviations = (pairs - seeds * share) / np.sqrt(seeds * share * (1 - share))
        assert abs(deviations).max() < 4.5
        assert 0.9 < deviations.std() < 1.1


def test_with_uniform_draws_old_tasks_fade():
    problem = Problem(0, whole=True)
    is_kept = kept_by_seed("random", 12).mean(0)
    labels = problem.label_map[np.asarray(problem.data.train_labels)]
    bounds = np.cumsum([0, *problem.sizes])
    expected, stored = np.zeros(CLASSES), 0
    for start, stop in itertools.pairwise(bounds):
        share = 12 / (stored + PER_CLASS * (stop - start))
        expected[:start] *= share
        expected[start:stop] = share
        stored = 12
    np.testing.assert_allclose(is_kept, expected[labels], atol=0.035)


def test_bootstrapped_exemplars_multiply_only_when_redrawn():
    problem = Problem(0, whole=True)
    redrawn, equal = (
        listed(run(policy(name, 20, replay="bootstrap"), problem)[-1])
        for name in ("random_redraw", "equal_random")
    )
    assert len(set(redrawn)) < len(redrawn)
    assert len(set(equal)) == len(equal)
