"""Variants that exist to match the arithmetic of LibContinual (RL-VIG); not the papers' methods.

Their numbers are proven against LibContinual's own. docs/libcontinual_keys.md has its settings.
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
    """Mixin for a teacher whose batch norm uses the statistics of the batch."""

    def teacher_outputs(self, state, batch):
        """Returns the teacher's outputs in train mode; its running statistics are never read."""
        return self.classifier.apply(
            state.teacher, batch.images, True, batch.weights, mutable=["batch_stats"]
        )[0]


@hyperparameters
class LibContinualLUCIR(TrainModeTeacher, LUCIR):
    """LUCIR with the teacher in train mode."""


@hyperparameters
class LibContinualLwF(TrainModeTeacher, TaskwiseLoss, LearningWithoutForgetting):
    """LwF with the paper's cross entropy over the new classes, and the teacher in train mode.

    LibContinual has mu=3.
    """

    supports_partial_batches: ClassVar[bool] = True


@hyperparameters
class LibContinualICaRL(TrainModeTeacher, ICaRL):
    """iCaRL with LwF's cross entropy and distillation, for which `mu` and `temperature` count."""

    def observe(self, state, task, batch, key):
        """Softmax losses in the place of sigmoid ones."""
        return LearningWithoutForgetting.observe(self, state, task, batch, key)


@hyperparameters
class LibContinualWA(TrainModeTeacher, WeightAligning):
    """WA whose optimizer is never given the head, with the teacher in train mode."""

    def get_parameters(self, params, task):
        """Trains everything but the head."""
        trained = super().get_parameters(params, task)
        return trained | {"head": jax.tree.map(lambda _: False, params["head"])}


@hyperparameters
class BatchFisherStage(FisherStage):
    """Gathers squares of the mean gradients of augmented batches, in train mode."""

    preprocess = TrainStage.preprocess  # augments a batch as in training

    def num_images(self, task):
        """Counts as if the last batch were complete."""
        return self.batch_size * -(-task.images.count // self.batch_size)


@hyperparameters
class LibContinualEWC(EWC):
    """EWC with squares of the mean gradients of batches, over all seen classes.

    The importance is averaged over tasks, and the only anchor is the last one. LibContinual's
    importance is far smaller than the paper's, and its lamda 1000.
    """

    fisher_stage_class: ClassVar[type[FisherStage]] = BatchFisherStage

    def stages(self, task_index, num_tasks):
        """The pass moves running statistics, so it belongs to every task, the last one too."""
        return (self.training, self.fisher_stage)

    def merge(self, past, params, task):
        """Averages the importance over tasks."""
        return average(past, params, task)

    def information(self, state, task, batch):
        """Squares the gradient of the batch's mean loss."""

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
    """Averages importance, in which the share of the new classes is that of the current task.

    The share of the first task is a later task's. The head's new columns have no past to be
    averaged with, but those of the first task count as old.
    """
    share = (task.boundaries[-1] - task.boundaries[-2]) / task.seen
    num_classes = params["head"]["bias"].shape[0]
    is_new = losses.class_range(num_classes, task.seen if task.is_first else task.old, task.seen)

    def mix(path, before, current):
        mixed = (1 - share) * before + share * current
        return jnp.where(is_new, current, mixed) if path[0].key == "head" else mixed

    importance = jax.tree_util.tree_map_with_path(mix, past.fisher, past.task_fisher)
    return PastTasks.of(importance, jax.tree.map(jnp.copy, params))
