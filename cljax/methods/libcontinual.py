"""Defines variants that compute as LibContinual (RL-VIG) does, not as the papers do.

Tests compare their numbers with LibContinual's. docs/libcontinual_keys.md translates its settings.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.methods.ewc import EWC, FisherStage, PastTasks
from cljax.methods.icarl import ICaRL
from cljax.methods.lucir import LUCIR
from cljax.methods.lwf import LearningWithoutForgetting, TaskwiseLoss
from cljax.methods.teacher import TeacherMixin
from cljax.methods.wa import WeightAligning
from cljax.stages import TrainStage
from cljax.state import PyTree, Task, hyperparameters


class TrainModeTeacher(TeacherMixin):
    """Mixin for methods with a teacher whose batch norm uses the statistics of the batch."""

    folds_teacher: ClassVar[bool] = False

    def teacher_outputs(self, state, batch):
        """Computes the teacher's outputs in train mode; its running statistics are never used."""
        return self.classifier.apply(
            state.teacher, batch.images, True, batch.weights, mutable=["batch_stats"]
        )[0]


@hyperparameters
class LibContinualLUCIR(TrainModeTeacher, LUCIR):
    """Trains as LUCIR, with the teacher in train mode."""


@hyperparameters
class LibContinualLwF(TrainModeTeacher, TaskwiseLoss, LearningWithoutForgetting):
    """Trains as LwF, with the cross entropy over the new classes and the teacher in train mode.

    LibContinual sets mu=3.
    """

    supports_partial_batches: ClassVar[bool] = True


@hyperparameters
class LibContinualICaRL(TrainModeTeacher, ICaRL):
    """Trains iCaRL with the losses of LwF, which use `mu` and `temperature`."""

    def has_class_loss(self, old, new):
        """Whether there are classes to tell apart."""
        return LearningWithoutForgetting.has_class_loss(self, old, new)

    def observe(self, state, task, batch, key):
        """Computes softmax losses instead of sigmoid losses."""
        return LearningWithoutForgetting.observe(self, state, task, batch, key)


@hyperparameters
class LibContinualWA(TrainModeTeacher, WeightAligning):
    """Trains as WA, but never trains the head; the teacher is in train mode."""

    def get_parameters(self, params, task):
        """Trains all parameters but those of the head."""
        trained = super().get_parameters(params, task)
        return trained | {"head": jax.tree.map(lambda _: False, params["head"])}


@hyperparameters
class BatchFisherStage(FisherStage):
    """Computes squares of the mean gradients of augmented batches, in train mode."""

    draw_augmentation = TrainStage.draw_augmentation  # augments a batch as in training

    def num_images(self, task):
        """Counts the images as if the last batch were complete, int32 []."""
        return self.batch_size * -(-task.images.count // self.batch_size)


@hyperparameters
class LibContinualEWC(EWC):
    """Trains as EWC, with squared mean gradients of batches, over all seen classes.

    The importance is averaged over tasks, and the anchor is the parameters after
    the previous task. LibContinual's
    importance is far smaller than the paper's, and its lamda is 1000.
    """

    fisher_stage_class: ClassVar[type[FisherStage]] = BatchFisherStage

    def stages(self, task_index, num_tasks):
        """Adds stage `importance` in all tasks, because it also moves running statistics."""
        return (self.training, self.fisher_stage)

    def merge(self, past, params, task):
        """Averages the importance over tasks, see `average`."""
        return average(past, params, task)

    def information(self, state, task, batch):
        """Computes the square of the gradient of the batch's mean loss."""

        def loss(params):
            outputs, batch_stats = self.train_forward(
                state.replace(params=params), batch.images, batch.weights
            )
            seen = self.classes(0, task.seen)
            loss = losses.cross_entropy(outputs.logits, batch.labels, seen, batch.weights)
            return loss, batch_stats

        (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return value, jax.tree.map(jnp.square, grads), batch_stats


def average(past: PastTasks, params: PyTree, task: Task) -> PastTasks:
    """Averages the importance to previous tasks and to the current task.

    The current task has the weight (classes of the last task) / (seen classes), also if it is the
    first. New head columns have no previous importance and take that of the current task; the
    columns of the first task count as old.

    Args:
      past: penalty of previous tasks, with the importance to the current task.
      params: trained parameters, the new anchor.
      task: current task.
    """
    share = (task.boundaries[-1] - task.boundaries[-2]) / task.seen
    num_classes = params["head"]["kernel"].shape[1]
    is_new = losses.class_range(num_classes, task.seen if task.is_first else task.old, task.seen)

    def mix(path, before, current):
        mixed = (1 - share) * before + share * current
        has_columns = path[0].key == "head" and before.ndim  # not the scale of a cosine head
        return jnp.where(is_new, current, mixed) if has_columns else mixed

    fisher = jax.tree_util.tree_map_with_path(mix, past.fisher, past.task_fisher)
    return PastTasks.of(fisher, jax.tree.map(jnp.copy, params))
