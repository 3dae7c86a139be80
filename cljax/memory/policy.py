"""The exemplar policy: which images a method stores, and how it replays them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cljax import rng
from cljax.losses import unit_vectors
from cljax.memory import exemplars, libcontinual, ranking
from cljax.state import Data, Exemplars, LearnerState, Subset, Task, hyperparameters

Features = Callable[[jax.Array, jax.Array], jax.Array]


class Strategy(NamedTuple):
    """What is particular to a strategy.

    Attributes:
      shares: the rule of its `Budget`; None if classes have no shares.
      rank: from features [n, D], count and picks to the ranks of one class, once and for ever.
      unit: whether the features are given unit length before.
    """

    shares: str | None
    rank: Callable | None = None
    unit: bool = False


STRATEGIES = {
    "herding": Strategy("floor", ranking.herding, unit=True),
    "herding_raw": Strategy("remainder", ranking.herding),
    "herding_lucir": Strategy("ceil", ranking.herding_lucir, unit=True),
    "libcontinual_herding": Strategy("floor"),
    "nearest": Strategy("remainder", ranking.nearest_to_mean),
    "random": Strategy(None),
    "equal_random": Strategy("floor"),
    "random_redraw": Strategy("remainder"),
    "reservoir": Strategy(None),
    "none": Strategy(None),
}
REPLAYS = ("bootstrap", "all")


@hyperparameters
class MemoryPolicy:
    """The exemplar policy of a learner (LibContinual: "buffer"; ABD code: "coreset").

    These rank a class once, after the task that brought it, and later keep the best:
      "herding": its correct form, on features of unit length (Rebuffi et al., CVPR 2017).
      "herding_raw": the same on features as they are, as the ABD code has it (BiC).
      "nearest": to the class mean (Castro et al., ECCV 2018), as the ABD code has it (E2E).
      "herding_lucir": as the released code of LUCIR (Hou et al., CVPR 2019).
    These choose anew after each task:
      "random": from the task's images and the exemplars, all alike, so old classes fade.
      "equal_random": from the same, as many of each class.
      "random_redraw": from what the task was trained on, as many of each class, as the ABD code
        does. With replay "bootstrap" that has exemplars repeatedly, and so has the memory: its
        different images become fewer from task to task.
      "libcontinual_herding": LibContinual's "herding", by the mean where its sum belongs, from a
        list that has stored images twice. For comparison only.
      "reservoir": every image of all tasks so far is kept with the same probability (Vitter, 1985).
    "none" keeps nothing. How shares are rounded belongs to the strategy, see `exemplars.Budget`.

    Attributes:
      size: images kept, in all or of each class; 0: none.
      strategy: a key of STRATEGIES.
      replay: "bootstrap" adds to a task as many exemplars as it has images, drawn with
        replacement; "all" adds each exemplar once.
      class_weighting: weighs the cross entropy against rare classes of the training set.
      per_class: whether `size` is of each class.
    """

    size: int
    strategy: str
    replay: str
    class_weighting: bool
    per_class: bool = False

    @property
    def is_balanced(self) -> bool:
        """Whether every class has a share of the memory."""
        return STRATEGIES[self.strategy].shares is not None

    @property
    def budget(self) -> exemplars.Budget:
        """The shares of the classes."""
        rule = "per_class" if self.per_class else STRATEGIES[self.strategy].shares
        return exemplars.Budget(self.size, rule)

    def init(self, num_classes: int) -> Exemplars | None:
        """The memory before the first task."""
        if not self.size:
            return None
        capacity = self.budget.capacity(num_classes) if self.is_balanced else self.size
        return exemplars.empty(capacity, num_classes)

    def training_set(self, state: LearnerState, task: Task) -> Subset:
        """The task's images and, from the second task on, the exemplars that come back."""
        if not self.size or task.is_first:
            return task.images
        if self.replay == "all":
            return exemplars.append(task.images, exemplars.as_subset(state.exemplars))
        key = rng.key(state.streams.data_order, "bootstrap", task.index)
        total = state.exemplars.counts.sum()
        places = exemplars.draw_places(key, total, task.images.indices.shape[0])
        drawn = exemplars.replay(state.exemplars, places, task.images.count)
        return exemplars.append(task.images, drawn)

    def after_task(
        self, state: LearnerState, task: Task, data: Data, features: Features
    ) -> LearnerState:
        """The state with the exemplars that are kept after `task`; to be called once a task.

        Args:
          features: from image indices int32 [N] and the number [] of those that count to the
            features float [N, D] by which classes are ranked.
        """
        if not self.size:
            return state
        if STRATEGIES[self.strategy].rank is not None:
            kept = self._rank(state.exemplars, task, features)
        elif self.strategy == "libcontinual_herding":
            kept = self._reselect(state.exemplars, task, data, features)
        else:
            key = rng.key(state.streams.data_order, "exemplars", task.index)
            if self.strategy == "reservoir":
                kept = self._offer(key, state.exemplars, task, data)
            else:
                kept = self._draw(key, state, task, data)
        return state.replace(exemplars=kept)

    def _rank(self, memory, task, features):
        """The best of the new classes, and the best that were kept of the old ones."""
        strategy, budget = STRATEGIES[self.strategy], self.budget
        table, counts = task.class_images, task.class_image_counts
        num_images = table.shape[1] * (task.seen - task.old)
        found = features(table.reshape(-1), num_images).reshape(*table.shape, -1)
        found = unit_vectors(found) if strategy.unit else found
        ranks = jax.vmap(strategy.rank, (0, 0, None))(found, counts, budget.largest(task.seen))
        return exemplars.select_ranked(memory, table, counts, ranks, task.old, task.seen, budget)

    def _reselect(self, memory, task, data, features):
        """The task's images, then the exemplars twice, are the candidates."""
        stored = exemplars.as_subset(memory)
        pool = exemplars.append(exemplars.append(task.images, stored), stored)
        labels, found = task.labels(data, pool), features(pool.indices, pool.count)
        return libcontinual.select(memory, pool, labels, found, task.seen, self.budget)

    def _draw(self, key, state, task, data):
        """A random choice from the pool that the strategy names. The key is consumed."""
        memory = state.exemplars
        if self.strategy == "random_redraw":
            pool = self.training_set(state, task)
        else:
            pool = exemplars.append(task.images, exemplars.as_subset(memory))
        labels = task.labels(data, pool)
        draws = jax.random.bits(key, labels.shape, jnp.uint32)
        if not self.is_balanced:
            return exemplars.select_any(memory, pool, labels, draws)
        return exemplars.select_per_class(memory, pool, labels, draws, task.seen, self.budget)

    def _offer(self, key, memory, task, data):
        """Every image of the task is offered to the reservoir once. The key is consumed."""
        capacity, size = task.images.indices.shape[0], memory.indices.shape[0]
        turns, slots = ranking.offer(key, task.images.count, task.past_images, capacity, size)
        labels = task.labels(data, task.images)
        return exemplars.update_reservoir(memory, task.images, labels, turns, slots)
