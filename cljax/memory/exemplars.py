"""Stores, selects and replays exemplars with pure functions of index arrays.

Capacities, the size M of the exemplar memory and the number K of labels are shapes. Counts, quotas
and draws are values, so one program serves all tasks and `vmap` runs over seeds. Padding has the
label K.

A selection is a rank of each image within its class (`ranking`) and a quota for each class;
`keep_best` joins them. Unless a docstring says otherwise, the rules are those of the ABD reference
code (Smith et al., ICCV 2021).
"""

import jax
import jax.numpy as jnp

from cljax.memory.ranking import class_counts, ranks_within_class
from cljax.state import Exemplars, Subset, hyperparameters


def empty(size: int, num_classes: int) -> Exemplars:
    """Makes an empty exemplar memory with room for `size` images of `num_classes` labels."""
    return Exemplars(jnp.zeros(size, jnp.int32), jnp.zeros(num_classes, jnp.int32))


def as_subset(exemplars: Exemplars) -> Subset:
    """Returns all exemplars in stored order, with capacity M."""
    return Subset(exemplars.indices, exemplars.counts.sum(dtype=jnp.int32))


def labels_of(exemplars: Exemplars) -> jax.Array:
    """Returns the labels of the exemplars in stored order, int32 [M]; K for padding."""
    ends = jnp.cumsum(exemplars.counts, dtype=jnp.int32)
    places = jnp.arange(exemplars.indices.shape[0], dtype=jnp.int32)
    return jnp.searchsorted(ends, places, side="right").astype(jnp.int32)


def append(first: Subset, second: Subset) -> Subset:
    """Joins the images of `first` and then those of `second`; adds up their capacities."""
    room = jnp.concatenate([first.indices, jnp.zeros_like(second.indices)])
    indices = jax.lax.dynamic_update_slice(room, second.indices, (first.count,))
    return Subset(indices, first.count + second.count)


def draw_places(key: jax.Array, total: jax.Array, capacity: int) -> jax.Array:
    """Draws positions with replacement, int32 [capacity].

    Args:
      key: consumed.
      total: int32 [], number of exemplars.
      capacity: number of draws.

    Returns:
      Uniform in 0..total-1; zeros if `total` is 0.
    """
    return jax.random.randint(key, (capacity,), 0, jnp.maximum(total, 1), jnp.int32)


def replay(exemplars: Exemplars, places: jax.Array, count: jax.Array) -> Subset:
    """Returns the exemplars at the first `count` of the drawn positions, duplicates included.

    Naive rehearsal draws as many as the task has images, once per task.

    Args:
      exemplars: an empty exemplar memory gives an empty subset.
      places: int32 [capacity], positions as `draw_places` returns them.
      count: int32 [].
    """
    count = jnp.where(as_subset(exemplars).count > 0, count, 0)
    return Subset(exemplars.indices[places], count)


def holdout_size(total: jax.Array, old: jax.Array) -> jax.Array:
    """Computes the images per class that BiC holds out: total // (10 * old).

    That is 10 % of the exemplars divided by the number of old classes, rounded down as in the
    reference code.

    Args:
      total: int32 [], number of exemplars.
      old: int32 [], number of old classes.

    Returns:
      int32 []; 0 in the first task.
    """
    return total // jnp.maximum(10 * old, 1)


def split_first(subset: Subset, labels: jax.Array, per_class: jax.Array) -> tuple[Subset, Subset]:
    """Splits images into the first `per_class` of each label and all others, both in order.

    Args:
      subset: for BiC's held-out images, new images in file order and then exemplars, best first.
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


@hyperparameters
class Budget:
    """Says how many exemplars of each class are stored.

    Attributes:
      size: number of exemplars M in all, of which each seen class gets a quota; for rule
        "per_class", number of exemplars of each class.
      rule: how quotas are rounded. "floor": down, but at least 1 (LibContinual). "ceil": up
        (LUCIR's fix_budget), which may exceed M by up to the number of classes minus one.
        "remainder" (ABD reference code): down, and the last seen classes get one image each of the
        remainder, except classes that have no more images than the quota. "per_class": `size`.
    """

    size: int
    rule: str

    def capacity(self, num_classes: int) -> int:
        """Returns the largest number of exemplars that `num_classes` classes may ever have."""
        return {
            "floor": max(self.size, num_classes),
            "ceil": self.size + num_classes - 1,
            "remainder": self.size,
            "per_class": self.size * num_classes,
        }[self.rule]

    def largest(self, seen: jax.Array) -> jax.Array:
        """Returns the largest quota of any class, int32 []; `seen` int32 [] counts seen classes."""
        seen = jnp.maximum(seen, 1)
        if self.rule == "per_class":
            return jnp.full_like(seen, self.size)
        if self.rule == "ceil":
            return -(-self.size // seen)
        share = self.size // seen
        return share + 1 if self.rule == "remainder" else jnp.maximum(share, 1)

    def quotas(self, available: jax.Array, seen: jax.Array) -> jax.Array:
        """Returns the number of exemplars of each label; a class never gets what another lacks.

        Args:
          available: int32 [K], images of each label to select from.
          seen: int32 [], number of seen classes; future classes get 0.

        Returns:
          int32 [K].
        """
        is_seen = jnp.arange(available.shape[0]) < seen
        largest = self.largest(seen)
        if self.rule == "remainder":
            share, remainder = largest - 1, self.size % jnp.maximum(seen, 1)
            has_more = (is_seen & (available > share)).astype(jnp.int32)
            from_newest = jnp.cumsum(has_more[::-1], dtype=jnp.int32)[::-1]
            largest = share + has_more * (from_newest <= remainder)
        return jnp.where(is_seen, jnp.minimum(available, largest), 0)


def keep_best(
    indices: jax.Array, labels: jax.Array, ranks: jax.Array, quota: jax.Array, size: int
) -> Exemplars:
    """Keeps the images with a rank below the quota of their label.

    Args:
      indices: int32 [N], training images.
      labels: int32 [N]; K for padding.
      ranks: int32 [N], within the label.
      quota: int32 [K].
      size: M, the maximum number of exemplars.
    """
    num_classes = quota.shape[0]
    is_kept = ranks < quota.at[labels].get(mode="fill", fill_value=0)
    labels = jnp.where(is_kept, labels, num_classes)
    counts = class_counts(labels, num_classes)
    ordered = jax.lax.sort((labels, ranks, indices), num_keys=2, is_stable=True)[2]
    padded = jnp.concatenate([ordered, jnp.zeros(size, jnp.int32)])[:size]
    return Exemplars(jnp.where(jnp.arange(size) < counts.sum(), padded, 0), counts)


def select_ranked(
    exemplars: Exemplars,
    class_images: jax.Array,
    class_image_counts: jax.Array,
    ranks: jax.Array,
    old: jax.Array,
    seen: jax.Array,
    budget: Budget,
) -> Exemplars:
    """Adds the images of new classes that are ranked best.

    Old classes keep their ranks and only shrink to the new quota.

    Args:
      exemplars: exemplar memory during the task.
      class_images: int32 [C, n], images of each new class; padded.
      class_image_counts: int32 [C], 0 for padding.
      ranks: int32 [C, n], of at least min(budget.largest(seen), count) images of each class; n for
        images without a rank.
      old: int32 [], number of old classes, the label of the first new class.
      seen: int32 [], number of seen classes.
      budget: the quotas; its capacity must be that of `exemplars`.
    """
    num_classes = exemplars.counts.shape[0]
    is_ranked = (jnp.arange(class_images.shape[1]) < class_image_counts[:, None]) & (
        ranks < class_images.shape[1]
    )
    new_labels = old + jnp.arange(class_images.shape[0], dtype=jnp.int32)[:, None]
    new_labels = jnp.where(is_ranked, new_labels, num_classes)
    old_labels = labels_of(exemplars)
    old_ranks = ranks_within_class(old_labels, jnp.arange(old_labels.shape[0]))
    indices = jnp.concatenate([exemplars.indices, class_images.ravel()])
    labels = jnp.concatenate([old_labels, new_labels.ravel()])
    quota = budget.quotas(class_counts(labels, num_classes), seen)
    ranks = jnp.concatenate([old_ranks, ranks.ravel()])
    return keep_best(indices, labels, ranks, quota, exemplars.indices.shape[0])


def select_per_class(
    exemplars: Exemplars,
    pool: Subset,
    labels: jax.Array,
    draws: jax.Array,
    seen: jax.Array,
    budget: Budget,
) -> Exemplars:
    """Draws the exemplars of each class again from the images of a pool.

    Args:
      exemplars: exemplar memory during the task; only its shapes are used.
      pool: images to select from; an image that it lists twice may be stored twice.
      labels: int32 [capacity], of the pool; K for padding.
      draws: uint32 [capacity], random; the images of each class with the lowest draws are kept.
      seen: int32 [], number of seen classes.
      budget: the quotas; its capacity must be that of `exemplars`.
    """
    quota = budget.quotas(class_counts(labels, exemplars.counts.shape[0]), seen)
    ranks = ranks_within_class(labels, draws)
    return keep_best(pool.indices, labels, ranks, quota, exemplars.indices.shape[0])


def select_any(
    exemplars: Exemplars, pool: Subset, labels: jax.Array, draws: jax.Array
) -> Exemplars:
    """Draws all exemplars again from the images of a pool, without regard to classes.

    Args:
      exemplars, pool, labels, draws: as in `select_per_class`.
    """
    size, num_classes = exemplars.indices.shape[0], exemplars.counts.shape[0]
    is_padding = (labels == num_classes).astype(jnp.int32)
    ranks = ranks_within_class(is_padding, draws)
    return keep_best(pool.indices, labels, ranks, jnp.full(num_classes, size), size)


def update_reservoir(
    exemplars: Exemplars, images: Subset, labels: jax.Array, turns: jax.Array, slots: jax.Array
) -> Exemplars:
    """Puts the images of a task into slots, one after the other, in place of their content.

    Stored order stands for the slots: slots are drawn uniformly, so it does not matter which image
    is in which slot.

    Args:
      exemplars: exemplar memory during the task.
      images: images of the task.
      labels: int32 [capacity], of the images; K for padding.
      turns: int32 [capacity], the order of the images, all different.
      slots: int32 [capacity]; an image with slot M or more is not stored.
    """
    size, num_classes = exemplars.indices.shape[0], exemplars.counts.shape[0]
    slots = jnp.where(labels < num_classes, slots, size)
    filled = jnp.full(size, -1, jnp.int32).at[slots].max(turns, mode="drop")  # last turn, if any
    is_last = turns == filled.at[slots].get(mode="fill", fill_value=-1)
    old_labels = jnp.where(filled < 0, labels_of(exemplars), num_classes)
    labels = jnp.concatenate([old_labels, jnp.where(is_last, labels, num_classes)])
    indices = jnp.concatenate([exemplars.indices, images.indices])
    ranks = ranks_within_class(labels, jnp.arange(labels.shape[0]))
    return keep_best(indices, labels, ranks, jnp.full(num_classes, size), size)
