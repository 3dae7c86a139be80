"""Exemplar memory: which images of earlier tasks a learner keeps, and how they are replayed.

Pure functions of index arrays. Capacities, the memory's size M and the number K of labels are
shapes; counts, quotas and draws are values, so one program serves all tasks and `vmap` runs over
seeds. Labels are places of classes in the class order; an entry that is no image has the label K.

A selection is a rank of every image within its class (`selection`) and a quota for every class;
`choose` joins them. Where nothing else is said, the rules are those of the released code of Smith
et al., "Always Be Dreaming" (ICCV 2021).
"""

import jax
import jax.numpy as jnp

from cljax.memory.ranking import class_counts, ranks_within_class
from cljax.state import Exemplars, Subset, hyperparameters


def empty(size: int, num_classes: int) -> Exemplars:
    """A memory with room for `size` images of `num_classes` labels, without any."""
    return Exemplars(jnp.zeros(size, jnp.int32), jnp.zeros(num_classes, jnp.int32))


def as_subset(exemplars: Exemplars) -> Subset:
    """All exemplars in stored order, capacity M."""
    return Subset(exemplars.indices, exemplars.counts.sum(dtype=jnp.int32))


def labels_of(exemplars: Exemplars) -> jax.Array:
    """Labels of the exemplars in stored order, int32 [M]; K for padding."""
    ends = jnp.cumsum(exemplars.counts, dtype=jnp.int32)
    places = jnp.arange(exemplars.indices.shape[0], dtype=jnp.int32)
    return jnp.searchsorted(ends, places, side="right").astype(jnp.int32)


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


@hyperparameters
class Budget:
    """How many images of each class are kept.

    Attributes:
      size: M, images in all, of which every class seen gets a share; "per_class": of each class.
      rule: "floor": shares are rounded down, but are at least 1 (LibContinual). "ceil": rounded
        up (LUCIR's fix_budget), so up to one image less than there are classes above M. "remainder"
        (ABD code): rounded down, and the remainder goes to the newest classes, one image each,
        passing over classes that have no more than the share. "per_class": M itself.
    """

    size: int
    rule: str

    def capacity(self, num_classes: int) -> int:
        """The most images that may ever be kept of `num_classes` classes."""
        return {
            "floor": max(self.size, num_classes),
            "ceil": self.size + num_classes - 1,
            "remainder": self.size,
            "per_class": self.size * num_classes,
        }[self.rule]

    def largest(self, seen: jax.Array) -> jax.Array:
        """The most images of any class when `seen` int32 [] have been seen, int32 []."""
        seen = jnp.maximum(seen, 1)
        if self.rule == "per_class":
            return jnp.full_like(seen, self.size)
        if self.rule == "ceil":
            return -(-self.size // seen)
        share = self.size // seen
        return share + 1 if self.rule == "remainder" else jnp.maximum(share, 1)

    def quotas(self, available: jax.Array, seen: jax.Array) -> jax.Array:
        """Images that each label may keep. What a class lacks is not given to others.

        Args:
          available: int32 [K], images of each label to choose from.
          seen: int32 [], classes with labels from `seen` on get 0.

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


def choose(
    indices: jax.Array, labels: jax.Array, ranks: jax.Array, quota: jax.Array, size: int
) -> Exemplars:
    """Keeps the images whose rank is below their label's quota.

    Args:
      indices: int32 [N], training images.
      labels: int32 [N]; K for entries that are no image.
      ranks: int32 [N], within the label.
      quota: int32 [K].
      size: M; no more images are kept.
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
    """Adds the best ranked images of a task's classes.

    Earlier classes keep their ranks and only shrink to the new quota, so kept sets are nested.

    Args:
      exemplars: the memory during the task.
      class_images: int32 [C, n], images of each new class; padded.
      class_image_counts: int32 [C], 0 where there is no class.
      ranks: int32 [C, n], of at least min(budget.largest(seen), count) images of each class; n for
        images without a rank.
      old: int32 [], label of the first new class.
      seen: int32 [], classes of this and earlier tasks.
      budget: whose capacity is the memory's.
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
    return choose(indices, labels, ranks, quota, exemplars.indices.shape[0])


def select_per_class(
    exemplars: Exemplars,
    pool: Subset,
    labels: jax.Array,
    draws: jax.Array,
    seen: jax.Array,
    budget: Budget,
) -> Exemplars:
    """Draws every class anew from the images of a pool.

    Args:
      exemplars: the memory during the task; only its shapes matter.
      pool: images to choose from; what it lists twice may be kept twice.
      labels: int32 [capacity], of the pool; K for padding.
      draws: uint32 [capacity], random; of each class the images with the lowest are kept.
      seen: int32 [], classes of this and earlier tasks.
      budget: whose capacity is the memory's.
    """
    quota = budget.quotas(class_counts(labels, exemplars.counts.shape[0]), seen)
    ranks = ranks_within_class(labels, draws)
    return choose(pool.indices, labels, ranks, quota, exemplars.indices.shape[0])


def select_any(
    exemplars: Exemplars, pool: Subset, labels: jax.Array, draws: jax.Array
) -> Exemplars:
    """Draws the memory anew from all images of a pool alike, whatever their classes.

    Arguments are those of `select_per_class`.
    """
    size, num_classes = exemplars.indices.shape[0], exemplars.counts.shape[0]
    is_padding = (labels == num_classes).astype(jnp.int32)
    ranks = ranks_within_class(is_padding, draws)
    return choose(pool.indices, labels, ranks, jnp.full(num_classes, size), size)


def update_reservoir(
    exemplars: Exemplars, images: Subset, labels: jax.Array, turns: jax.Array, slots: jax.Array
) -> Exemplars:
    """Puts a task's images into slots, one after the other, in place of what was there.

    The memory as it is stored stands for the slots: as slots are drawn uniformly, it does not
    matter which image is in which.

    Args:
      exemplars: the memory during the task.
      images: the task's.
      labels: int32 [capacity], of the images; K for padding.
      turns: int32 [capacity], the order of the images, all different.
      slots: int32 [capacity]; from M on, the image is not stored.
    """
    size, num_classes = exemplars.indices.shape[0], exemplars.counts.shape[0]
    slots = jnp.where(labels < num_classes, slots, size)
    filled = jnp.full(size, -1, jnp.int32).at[slots].max(turns, mode="drop")  # last turn, if any
    is_last = turns == filled.at[slots].get(mode="fill", fill_value=-1)
    old_labels = jnp.where(filled < 0, labels_of(exemplars), num_classes)
    labels = jnp.concatenate([old_labels, jnp.where(is_last, labels, num_classes)])
    indices = jnp.concatenate([exemplars.indices, images.indices])
    ranks = ranks_within_class(labels, jnp.arange(labels.shape[0]))
    return choose(indices, labels, ranks, jnp.full(num_classes, size), size)
