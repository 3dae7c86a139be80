"""Defines the base of methods that replay dreamed images of old classes."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.methods.base import Finetune, Observed
from cljax.models import Outputs
from cljax.stages import InversionStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters


class Replay(NamedTuple):
    """Holds a batch of B real images, followed by B dreamed images.

    Attributes:
      images: float [2B, H, W, C].
      labels: int32 [2B]; the teacher labels the dreamed images, among the old classes.
      teacher: outputs of the teacher for all images.
    """

    images: jax.Array
    labels: jax.Array
    teacher: Outputs


def with_dreamed_accuracy(
    observed: Observed, logits: jax.Array, labels: jax.Array, seen: jax.Array
) -> Observed:
    """Adds the metric `dreamed_accuracy`, the fraction of dreamed images with the teacher's label.

    Args:
      observed: what a method observes, without metrics of its own.
      logits: float [B, K], the classifier's logits of dreamed images.
      labels: int32 [B], the teacher's labels.
      seen: bool [K], the classes among which the classifier chooses.
    """
    predictions = losses.masked_argmax(logits, seen)
    return observed._replace(metrics={"dreamed_accuracy": (predictions == labels).mean()})


@hyperparameters
class Dreaming(Finetune):
    """Trains a generator of dreamed images against the teacher (ABD, section 4).

    One generator is trained on after each task but the last, unless a subclass says otherwise.

    Attributes:
      inversion_stage: stage `invert`, which trains the generator.
    """

    supports_partial_batches: ClassVar[bool] = False
    supports_exemplars: ClassVar[bool] = False
    folds_teacher: ClassVar[bool] = True
    # Class of stage `invert`: whether the generator is new, and which classes the teacher knows.
    inversion_class: ClassVar[type[InversionStage]] = InversionStage

    inversion_stage: InversionStage

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds stage `invert`."""
        stage = parts.inversion_stage(cls.inversion_class)
        return super().from_parts(parts, inversion_stage=stage, **fields)

    def init(self, streams, image_shape):
        """Adds a teacher that the first task does not use, and a generator."""
        state = super().init(streams, image_shape).with_teacher()
        key = rng.key(streams.generator, "generator")
        return state.replace(
            generator=inversion_lib.init_generator(self.inversion_stage.inversion, key)
        )

    def stages(self, task_index, num_tasks):
        """Adds stage `invert`, except in the last task, after which nothing is replayed."""
        if task_index == num_tasks - 1:
            return (self.training,)
        return (self.training, self.inversion_stage)

    def dream(self, state: LearnerState, key: jax.Array, count: int) -> jax.Array:
        """Dreams images of old classes, float [count, H, W, C]; consumes the key."""
        assert state.generator is not None
        return inversion_lib.sample(self.inversion_stage.inversion, state.generator, key, count)

    def replay(self, state: LearnerState, task: Task, batch: Batch, key: jax.Array) -> Replay:
        """Adds dreamed images to a batch, with the teacher's outputs for both; consumes the key."""
        num_real = batch.labels.shape[0]
        images = jnp.concatenate([batch.images, self.dream(state, key, num_real)])
        teacher = self.classifier.apply(state.teacher, images)
        old = self.classes(0, task.old)
        dreamed_labels = losses.masked_argmax(teacher.logits[num_real:], old)
        return Replay(images, jnp.concatenate([batch.labels, dreamed_labels]), teacher)

    def observed_with_dreams(
        self,
        task: Task,
        batch: Batch,
        logits: jax.Array,
        labels: jax.Array,
        terms: dict[str, jax.Array],
        batch_stats: PyTree,
    ) -> Observed:
        """Sums the terms, predicts the labels of the batch, and scores those of dreamed images.

        Args:
          logits: float [2B, K], of the images of a `Replay`.
          labels: int32 [2B], those of the `Replay`.
          task, batch, terms, batch_stats: as of `observed`.

        Returns:
          With the metric of `with_dreamed_accuracy`.
        """
        num_real = batch.labels.shape[0]
        observed = self.observed(task, batch, logits[:num_real], terms, batch_stats)
        seen = self.classes(0, task.seen)
        return with_dreamed_accuracy(observed, logits[num_real:], labels[num_real:], seen)
