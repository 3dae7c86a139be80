"""Defines the exemplar policy: rules that select exemplars and replay them in later tasks."""

import dataclasses
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
    """Describes a selection strategy.

    Attributes:
      shares: rule of its `Budget`; None if classes have no quotas.
      rank: maps features [n, D], count and picks to the permanent ranks of one class; None for
        strategies that select again after each task.
      unit: whether features are scaled to norm 1 before they are ranked.
    """

    shares: str | None
    rank: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
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
    """Selects and replays exemplars (LibContinual: "buffer"; ABD reference code: "coreset").

    These strategies rank a class once, after its task, and later keep the best ranks:
      "herding": herding as published, on features of norm 1 (Rebuffi et al., CVPR 2017).
      "herding_raw": herding on features that are not normalized, as the ABD reference code (BiC).
      "nearest": nearest to the class mean (Castro et al., ECCV 2018), as the ABD reference code
        (E2E).
      "herding_lucir": as the LUCIR reference code (Hou et al., CVPR 2019).
    These strategies select again after each task:
      "random": from the task's images and the exemplars, without regard to classes, so exemplars of
        old classes become fewer.
      "equal_random": from the same images, equal numbers per class.
      "random_redraw": from the images that the task was trained on, equal numbers per class, as the
        ABD reference code. With replay "bootstrap" these images contain exemplars repeatedly, and
        so does the exemplar memory: its different images become fewer from task to task.
      "libcontinual_herding": LibContinual's "herding", with the mean in place of the sum, from a
        list that contains exemplars twice. For comparison only.
      "reservoir": each image of all tasks so far is kept with the same probability (Vitter, 1985).
    "none" keeps nothing. The strategy says how quotas are rounded, see `exemplars.Budget`.

    Attributes:
      size: number of exemplars, in all or per class; 0: none.
      strategy: a key of STRATEGIES.
      replay: "bootstrap" adds as many exemplars as the task has images, drawn with replacement;
        "all" adds each exemplar once.
      class_weighting: whether sample weights of the cross entropy favor rare classes of the
        training images.
      per_class: whether `size` counts per class (default False).
    """

    size: int
    strategy: str
    replay: str
    class_weighting: bool
    per_class: bool = False

    @property
    def is_balanced(self) -> bool:
        """Whether each seen class has a quota."""
        return STRATEGIES[self.strategy].shares is not None

    @property
    def budget(self) -> exemplars.Budget:
        """Quotas of the classes; only for balanced strategies."""
        rule = "per_class" if self.per_class else STRATEGIES[self.strategy].shares
        assert rule is not None  # the strategy is balanced
        # `hyperparameters` makes dataclasses, but its type does not say so.
        return exemplars.Budget(self.size, rule)  # pyright: ignore[reportCallIssue]

    def init(self, num_classes: int) -> Exemplars | None:
        """Makes the exemplar memory before the first task; None if `size` is 0."""
        if not self.size:
            return None
        capacity = self.budget.capacity(num_classes) if self.is_balanced else self.size
        return exemplars.empty(capacity, num_classes)

    def training_set(self, state: LearnerState, task: Task) -> Subset:
        """Returns the images of the task and, in later tasks, the replayed exemplars."""
        if not self.size or task.is_first:
            return task.images
        assert state.exemplars is not None
        if self.replay == "all":
            return exemplars.append(task.images, exemplars.as_subset(state.exemplars))
        key = rng.key(state.streams.data_order, "bootstrap", task.index)
        total = state.exemplars.counts.sum()
        places = exemplars.draw_places(key, total, task.images.indices.shape[0])
        drawn = exemplars.replay(state.exemplars, places, task.images.count)
        return exemplars.append(task.images, drawn)

    def most_replayed(self, images: int, past_images: int, old: int) -> int:
        """Returns the largest number of exemplars that a later task can replay; runs on the host.

        Args:
          images: number of images of the task.
          past_images: number of images of all previous tasks.
          old: number of classes of all previous tasks.
        """
        if not self.size or self.strategy == "none":
            return 0
        if self.replay == "bootstrap":
            return images if past_images else 0
        return min(self.size * (old if self.per_class else 1), past_images)

    def after_task(
        self, state: LearnerState, task: Task, data: Data, features: Features
    ) -> LearnerState:
        """Selects the exemplars after a task; must be called once per task.

        Args:
          state: learner state.
          task: the task that was learned.
          data: dataset on the device.
          features: maps image indices int32 [N] and the number int32 [] of images among them to the
            features float [N, D] by which classes are ranked.

        Returns:
          The learner state with the new exemplars.
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
        return dataclasses.replace(state, exemplars=kept)

    def _rank(self, memory, task, features):
        """Keeps the best of the new classes, and the best exemplars of the old ones."""
        strategy, budget = STRATEGIES[self.strategy], self.budget
        assert strategy.rank is not None
        table, counts = task.class_images, task.class_image_counts
        num_images = table.shape[1] * (task.seen - task.old)
        found = features(table.reshape(-1), num_images).reshape(*table.shape, -1)
        found = unit_vectors(found) if strategy.unit else found
        ranks = jax.vmap(strategy.rank, (0, 0, None))(found, counts, budget.largest(task.seen))
        return exemplars.select_ranked(memory, table, counts, ranks, task.old, task.seen, budget)

    def _reselect(self, memory, task, data, features):
        """Selects from the task's images and then the exemplars, which are listed twice."""
        stored = exemplars.as_subset(memory)
        pool = exemplars.append(exemplars.append(task.images, stored), stored)
        labels, found = task.labels(data, pool), features(pool.indices, pool.count)
        return libcontinual.select(memory, pool, labels, found, task.seen, self.budget)

    def _draw(self, key, state, task, data):
        """Draws from the pool that the strategy names. The key is consumed."""
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
        """Offers each image of the task to the reservoir once. The key is consumed."""
        capacity, size = task.images.indices.shape[0], memory.indices.shape[0]
        turns, slots = ranking.offer(key, task.images.count, task.past_images, capacity, size)
        labels = task.labels(data, task.images)
        return exemplars.update_reservoir(memory, task.images, labels, turns, slots)
