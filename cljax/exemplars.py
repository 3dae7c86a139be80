"""Exemplar memory: which images of earlier tasks a learner keeps, and how they are replayed.

Pure functions of index arrays. Capacities, the memory's size M and the number K of labels are
shapes; counts, quotas and draws are values, so one program serves all tasks and `vmap` runs over
seeds. Labels are places of classes in the class order; an entry that is no image has the label K.

A selection is a rank of every image within its class and a quota for every class; `choose` joins
them. The rules are those of the released code of Smith et al., "Always Be Dreaming" (ICCV 2021).
"""

import jax
import jax.numpy as jnp

from cljax.state import Exemplars, Subset


def empty(size: int, num_classes: int) -> Exemplars:
    """A memory for `size` images of `num_classes` labels, without any."""
    return Exemplars(jnp.zeros(size, jnp.int32), jnp.zeros(num_classes, jnp.int32))


def as_subset(exemplars: Exemplars) -> Subset:
    """All exemplars in stored order, capacity M."""
    return Subset(exemplars.indices, exemplars.counts.sum(dtype=jnp.int32))


def labels_of(exemplars: Exemplars) -> jax.Array:
    """Labels of the exemplars in stored order, int32 [M]; K for padding."""
    ends = jnp.cumsum(exemplars.counts, dtype=jnp.int32)
    places = jnp.arange(exemplars.indices.shape[0], dtype=jnp.int32)
    return jnp.searchsorted(ends, places, side="right").astype(jnp.int32)


def class_counts(labels: jax.Array, num_classes: int) -> jax.Array:
    """Images of each label, int32 [K], in labels int32 [N]."""
    return jnp.zeros(num_classes, jnp.int32).at[labels].add(1, mode="drop")


def append(first: Subset, second: Subset) -> Subset:
    """The images of `first`, then those of `second`; the capacity is the sum of theirs."""
    room = jnp.concatenate([first.indices, jnp.zeros_like(second.indices)])
    indices = jax.lax.dynamic_update_slice(room, second.indices, (first.count,))
    return Subset(indices, first.count + second.count)


def draw_places(key: jax.Array, total: jax.Array, capacity: int) -> jax.Array:
    """Places drawn with replacement, uniform in 0..total-1, int32 [capacity]; 0 if none exist."""
    return jax.random.randint(key, (capacity,), 0, jnp.maximum(total, 1), jnp.int32)


def replay(exemplars: Exemplars, places: jax.Array, count: jax.Array) -> Subset:
    """The exemplars at the first `count` of the drawn places, duplicates included.

    Naive rehearsal draws as many as the task has new images, once per task.

    Args:
      exemplars: an empty memory gives an empty subset.
      places: int32 [capacity], as from `draw_places`.
      count: int32 [].
    """
    count = jnp.where(as_subset(exemplars).count > 0, count, 0)
    return Subset(exemplars.indices[places], count)


def holdout_size(total: jax.Array, old: jax.Array) -> jax.Array:
    """Images per class that BiC holds out: a tenth of the `total` exemplars over `old` classes.

    Rounded down, as in the original code; 0 in the first task.
    """
    return total // jnp.maximum(10 * old, 1)


def split_first(subset: Subset, labels: jax.Array, per_class: jax.Array) -> tuple[Subset, Subset]:
    """The first `per_class` images of each label, and all others; both keep the order.

    Args:
      subset: new images in file order, then exemplars best first, makes BiC's hold-out set.
      labels: int32 [capacity]; K for padding.
      per_class: int32 [].
    """
    places = jnp.arange(labels.shape[0])
    is_image = places < subset.count
    is_first = ranks_within_class(labels, places) < per_class
    return _only(subset, is_image & is_first), _only(subset, is_image & ~is_first)


def _only(subset, is_kept):
    """The images of a subset at which a mask holds, in order."""
    order = jnp.argsort(~is_kept, stable=True)
    return Subset(subset.indices[order], is_kept.sum(dtype=jnp.int32))


def quotas(available: jax.Array, seen: jax.Array, size: int) -> jax.Array:
    """Images that each label may keep; their sum is at most `size`.

    Every class seen gets an equal share and the remainder goes to the newest classes, one image
    each, passing over classes that have no more than the share. Images that a class lacks are not
    given to others. As the original code does.

    Args:
      available: int32 [K], images of each label to choose from.
      seen: int32 [], classes with labels from `seen` on get 0.
      size: M.

    Returns:
      int32 [K].
    """
    share, remainder = jnp.divmod(size, jnp.maximum(seen, 1))
    is_seen = jnp.arange(available.shape[0]) < seen
    has_more = (is_seen & (available > share)).astype(jnp.int32)
    up_to_here = jnp.cumsum(has_more[::-1], dtype=jnp.int32)[::-1]  # from the newest class
    gets_more = has_more * (up_to_here <= remainder)
    return jnp.where(is_seen, jnp.minimum(available, share) + gets_more, 0)


def ranks_within_class(labels: jax.Array, priorities: jax.Array) -> jax.Array:
    """Place of each image among those of its label in ascending priority, int32 [N].

    Equal priorities are ranked by position. Padding is ranked as a class of its own.

    Args:
      labels: int32 [N].
      priorities: numbers [N].
    """
    places = jnp.arange(labels.shape[0], dtype=jnp.int32)
    ordered, _, order = jax.lax.sort((labels, priorities, places), num_keys=2, is_stable=True)
    is_start = ordered != jnp.roll(ordered, 1)
    starts = jax.lax.cummax(jnp.where(is_start, places, 0))
    return jnp.zeros_like(places).at[order].set(places - starts, unique_indices=True)


def herding(features: jax.Array, count: jax.Array, picks: jax.Array) -> jax.Array:
    """Ranks of the images of one class by herding (Rebuffi et al., iCaRL, 2017, algorithm 4).

    Each pick is the image that, with those picked before, has the mean nearest to the class mean:
    argmin ||mean - (sum of picked + candidate) / (picked + 1)||. No image is picked twice. Of
    candidates whose distances are equal as computed, which holds for duplicates, the first wins.
    More picks only extend the ranking.

    Args:
      features: float [n, D], as the network computes them; what is behind `count` is ignored.
      count: int32 [], images of the class.
      picks: int32 [], images to rank; all if more than `count`.

    Returns:
      int32 [n]: 0 for the first pick, then 1, ...; n for images not picked and for padding.
    """
    n = features.shape[0]
    is_image = jnp.arange(n) < count
    # From the class mean, candidates are compared by ||sum of picked + candidate||: the same
    # order, but the sum stays small, so late picks are as exact as early ones.
    centred = _centred(features, count)

    def pick(rank, carry):
        total, ranks = carry
        distances = jnp.sum((total + centred) ** 2, axis=1)
        # Finite even for a network that has diverged, so that only candidates are picked.
        candidates = jnp.where(is_image & (ranks == n), jnp.nan_to_num(distances), jnp.inf)
        best = jnp.argmin(candidates)
        return total + centred[best], ranks.at[best].set(rank)

    start = jnp.zeros_like(centred[0]), jnp.full(n, n, jnp.int32)
    last = jnp.minimum(picks, count).astype(jnp.int32)
    return jax.lax.fori_loop(jnp.int32(0), last, pick, start)[1]


def nearest_to_mean(features: jax.Array, count: jax.Array) -> jax.Array:
    """Ranks of the images of one class by distance to the class mean, nearest first (E2E).

    Equal distances are ranked by position. Arguments and result are those of `herding` with all
    images picked.
    """
    n = features.shape[0]
    is_padding = jnp.arange(n) >= count
    distances = jnp.sum(_centred(features, count) ** 2, axis=1)
    return jnp.where(is_padding, n, ranks_within_class(is_padding.astype(jnp.int32), distances))


def _centred(features, count):
    """Features [n, D] minus the mean of the first `count` rows."""
    is_image = (jnp.arange(features.shape[0]) < count)[:, None]
    mean = jnp.where(is_image, features, 0).sum(0) / jnp.maximum(count, 1)
    return features - mean


def choose(
    indices: jax.Array, labels: jax.Array, ranks: jax.Array, quota: jax.Array, size: int
) -> Exemplars:
    """Keeps the images whose rank is below their label's quota.

    Args:
      indices: int32 [N], training images.
      labels: int32 [N]; K for entries that are no image.
      ranks: int32 [N], within the label.
      quota: int32 [K]; sums to at most `size`.
      size: M.
    """
    num_classes = quota.shape[0]
    is_kept = ranks < quota.at[labels].get(mode="fill", fill_value=0)
    labels = jnp.where(is_kept, labels, num_classes)
    counts = class_counts(labels, num_classes)
    ordered = jax.lax.sort((labels, ranks, indices), num_keys=2, is_stable=True)[2]
    padded = jnp.concatenate([ordered, jnp.zeros(size, jnp.int32)])[:size]
    return Exemplars(jnp.where(jnp.arange(size) < counts.sum(), padded, 0), counts)


def update_ranked(
    exemplars: Exemplars,
    class_images: jax.Array,
    class_image_counts: jax.Array,
    ranks: jax.Array,
    old: jax.Array,
    seen: jax.Array,
) -> Exemplars:
    """Adds the best ranked images of a task's classes (E2E, BiC).

    Earlier classes keep their ranks and only shrink to the new quota, so kept sets are nested.

    Args:
      exemplars: the memory during the task, all of which was replayed.
      class_images: int32 [C, n], images of each new class; padded.
      class_image_counts: int32 [C], 0 where there is no class.
      ranks: int32 [C, n], of at least min(M // seen + 1, count) images of each class.
      old: int32 [], label of the first new class.
      seen: int32 [], classes of this and earlier tasks.
    """
    num_classes = exemplars.counts.shape[0]
    is_image = jnp.arange(class_images.shape[1]) < class_image_counts[:, None]
    new_labels = old + jnp.arange(class_images.shape[0], dtype=jnp.int32)[:, None]
    new_labels = jnp.where(is_image, new_labels, num_classes)
    old_labels = labels_of(exemplars)
    old_ranks = ranks_within_class(old_labels, jnp.arange(old_labels.shape[0]))
    indices = jnp.concatenate([exemplars.indices, class_images.ravel()])
    labels = jnp.concatenate([old_labels, new_labels.ravel()])
    return _update(exemplars, indices, labels, jnp.concatenate([old_ranks, ranks.ravel()]), seen)


def update_random(
    exemplars: Exemplars, pool: Subset, labels: jax.Array, draws: jax.Array, seen: jax.Array
) -> Exemplars:
    """Draws all classes anew from a task's training set (naive rehearsal, LwF with memory).

    The pool holds replayed exemplars as often as they were drawn, and so may the memory afterwards:
    its different images become fewer from task to task, as in the original code.

    Args:
      exemplars: the memory during the task; only its shapes matter.
      pool: what the task was trained on.
      labels: int32 [capacity], of the pool; K for padding.
      draws: uint32 [capacity], random; of each class the images with the lowest are kept.
      seen: int32 [], classes of this and earlier tasks.
    """
    return _update(exemplars, pool.indices, labels, ranks_within_class(labels, draws), seen)


def _update(exemplars, indices, labels, ranks, seen):
    """A memory of the same shapes, chosen by rank among all that is available."""
    size, num_classes = exemplars.indices.shape[0], exemplars.counts.shape[0]
    quota = quotas(class_counts(labels, num_classes), seen, size)
    return choose(indices, labels, ranks, quota, size)
