"""Exemplar memory: what a learner keeps of earlier tasks, and how it comes back."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import exemplars, rng
from cljax.state import Data, Exemplars, LearnerState, Subset, Task, hyperparameters


@hyperparameters
class Memory:
    """The exemplar policy of a learner (ABD code: "coreset").

    Attributes:
      size: images kept in all; 0: none.
      strategy: "random" draws all classes anew from the task's training set after each task.
        "herding" (Rebuffi et al., CVPR 2017) and "nearest" (to the class mean; Castro et al.,
        ECCV 2018) rank a class once, after the task that brought it, and later keep the best.
      replay: "bootstrap" adds to a task as many exemplars as it has images, drawn with
        replacement; "all" adds each exemplar once.
      class_weighting: weighs the cross entropy against rare classes of the training set.
    """

    STRATEGIES: ClassVar[tuple[str, ...]] = ("random", "herding", "nearest")
    REPLAYS: ClassVar[tuple[str, ...]] = ("bootstrap", "all")

    size: int
    strategy: str
    replay: str
    class_weighting: bool

    def init(self, num_classes: int) -> Exemplars | None:
        """The memory before the first task."""
        return exemplars.empty(self.size, num_classes) if self.size else None

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
        self,
        state: LearnerState,
        task: Task,
        data: Data,
        features: Callable[[jax.Array, jax.Array], jax.Array],
    ) -> LearnerState:
        """The state with the exemplars that are kept after `task`.

        Args:
          features: from image indices int32 [N] and the number [] of those that count to the
            features float [N, D] by which classes are ranked.
        """
        if not self.size:
            return state
        if self.strategy == "random":
            pool = self.training_set(state, task)
            labels = task.labels(data, pool)
            key = rng.key(state.streams.data_order, "exemplars", task.index)
            draws = jax.random.bits(key, labels.shape, jnp.uint32)
            kept = exemplars.update_random(state.exemplars, pool, labels, draws, task.seen)
        else:
            table, counts = task.class_images, task.class_image_counts
            num_images = table.shape[1] * (task.seen - task.old)
            ranked = features(table.reshape(-1), num_images).reshape(*table.shape, -1)
            if self.strategy == "herding":
                picks = self.size // task.seen + 1
                ranks = jax.vmap(exemplars.herding, (0, 0, None))(ranked, counts, picks)
            else:
                ranks = jax.vmap(exemplars.nearest_to_mean)(ranked, counts)
            kept = exemplars.update_ranked(
                state.exemplars, table, counts, ranks, task.old, task.seen
            )
        return state.replace(exemplars=kept)
