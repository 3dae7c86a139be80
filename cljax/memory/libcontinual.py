"""Computes LibContinual's herding as its code does; for comparison only."""

import jax
import jax.numpy as jnp

from cljax.memory.exemplars import Budget, keep_best
from cljax.memory.ranking import class_counts, ranks_within_class
from cljax.state import Exemplars, Subset


def select(
    memory: Exemplars,
    pool: Subset,
    labels: jax.Array,
    features: jax.Array,
    seen: jax.Array,
    budget: Budget,
) -> Exemplars:
    """Selects the exemplars of each class again from a pool as LibContinual does; see `rank`.

    Args:
      memory, pool, labels, seen, budget: as in `exemplars.select_per_class`.
      features: float [capacity, D], of the pool.
    """
    quota = budget.quotas(class_counts(labels, memory.counts.shape[0]), seen)
    ranks = rank(features, labels, quota)
    return keep_best(pool.indices, labels, ranks, quota, memory.indices.shape[0])


def rank(features: jax.Array, labels: jax.Array, quota: jax.Array) -> jax.Array:
    """Ranks images within each class by the rule that LibContinual calls herding.

    Pick k of a class is argmin ||mean - (a + candidate) / k||, where a is the mean of the images
    picked before; in herding, a is their sum. A class with no more candidates than its quota keeps
    their order. A candidate is picked once, but an image that is listed twice is two candidates.

    Args:
      features: float [N, D]; those of padding are ignored.
      labels: int32 [N]; K for padding.
      quota: int32 [K], images of each class to rank.

    Returns:
      int32 [N], from 0 within each class; at least the quota for images that were not picked.
    """
    n, num_classes = labels.shape[0], quota.shape[0]
    places = jnp.arange(n, dtype=jnp.int32)
    is_image = labels < num_classes
    features = jnp.where(is_image[:, None], features, 0)
    counts = class_counts(labels, num_classes)

    def by_class(reduce, values):
        return reduce(values, labels, num_classes + 1)  # one more for the padding

    total = by_class(jax.ops.segment_sum, features)
    mean = total / jnp.maximum(jnp.append(counts, 1), 1)[:, None]

    def pick(rank, carry):
        picked, ranks = carry  # picked: sum [K + 1, D]
        wanted = (rank + 1) * mean - picked / jnp.maximum(rank, 1)
        distances = jnp.nan_to_num(jnp.sum((wanted[labels] - features) ** 2, axis=1))
        is_candidate = is_image & (ranks == n)
        distances = jnp.where(is_candidate, distances, jnp.inf)
        is_nearest = is_candidate & (distances == by_class(jax.ops.segment_min, distances)[labels])
        first = by_class(jax.ops.segment_min, jnp.where(is_nearest, places, n))
        is_best = first[labels] == places
        picked += by_class(jax.ops.segment_sum, jnp.where(is_best[:, None], features, 0))
        return picked, jnp.where(is_best, rank, ranks)

    start = jnp.zeros_like(total), jnp.full(n, n, jnp.int32)
    ranks = jax.lax.fori_loop(jnp.int32(0), quota.max().astype(jnp.int32), pick, start)[1]
    keeps_all = jnp.append(counts <= quota, False)[labels]
    return jnp.where(keeps_all, ranks_within_class(labels, places), ranks)
