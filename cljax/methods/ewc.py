"""Elastic Weight Consolidation (Kirkpatrick et al., PNAS 2017)."""

import dataclasses
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
from flax import struct

from cljax import losses
from cljax.data.augment import Draws
from cljax.methods.base import Finetune
from cljax.methods.lwf import TaskwiseLoss
from cljax.settings import Weight
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters


class PastTasks(struct.PyTreeNode):
    """Holds the quadratic penalty of previous tasks; each attribute is a tree like the parameters.

    Attributes:
      fisher: F >= 0, importance of each parameter to previous tasks (Fisher information).
      anchor: values of the parameters where the penalty is 0.
      task_fisher: importance to the current task, summed so far in stage `importance`.
    """

    fisher: PyTree
    anchor: PyTree
    task_fisher: PyTree

    @classmethod
    def of(cls, fisher: PyTree, anchor: PyTree) -> "PastTasks":
        """Returns the penalty at the start of a task, with a `task_fisher` of 0."""
        return cls(fisher, anchor, jax.tree.map(jnp.zeros_like, fisher))


@hyperparameters
class FisherStage(TrainStage):
    """Computes the diagonal of the Fisher information in one epoch (stage `importance`).

    As a stage it resumes and shows its progress like any other. It changes no parameter.
    """

    first_task_differs: ClassVar[bool] = False

    def draw_augmentation(self, method, key, rows, data) -> Draws | None:
        """Leaves images as they are."""
        return None

    def update(self, inputs, state, drawn):
        """Adds the squared gradients of a batch, weighted by its fraction of the images."""
        batch, _ = drawn
        loss, squares, batch_stats = inputs.method.information(state, inputs.task, batch)
        share = (batch.weights > 0).sum() / self.num_images(inputs.task)
        gathered = jax.tree.map(lambda f, s: f + share * s, state.extras.task_fisher, squares)
        extras = state.extras.replace(task_fisher=gathered)
        state = state.replace(extras=extras, batch_stats=batch_stats)
        return state, {"loss": loss}

    def num_images(self, task):
        """Counts the images over which the importance is averaged, int32 []."""
        return task.images.count

    def log_scalars(self, epoch):
        """Returns no scalars: the stage has no learning rate."""
        return {}


@hyperparameters
class EWC(TaskwiseLoss, Finetune):
    """Penalizes changes of parameters that matter to previous tasks.

    The loss adds `lamda/2 sum_p F_p (theta_p - anchor_p)^2` (equation 3) to the cross entropy over
    the new classes. F is the mean over images of squared gradients of the log likelihood of the
    images' own labels among the new classes, without augmentation, in eval mode. The penalties of
    all previous tasks are added.

    `state.extras` is a `PastTasks`.

    Attributes:
      fisher_stage: stage `importance`, which computes F.
      lamda: weight of the penalty, at least 0. SGD is stable while lamda times the largest F times
        the learning rate is below 2 (1 + momentum).
    """

    fisher_stage_class: ClassVar[type[TrainStage]] = FisherStage
    extras_name: ClassVar[str] = "importance"

    fisher_stage: TrainStage
    lamda: Weight = 10.0

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds stage `importance`, one epoch long."""
        fisher_stage = parts.stage(cls.fisher_stage_class, "importance")
        fisher_stage = dataclasses.replace(fisher_stage, epochs=1, drop_last=False)
        return super().from_parts(parts, fisher_stage=fisher_stage, **fields)

    def init(self, streams, image_shape):
        """Adds a penalty of 0."""
        state = super().init(streams, image_shape)
        zeros = [jax.tree.map(jnp.zeros_like, state.params) for _ in range(3)]
        return state.replace(extras=PastTasks(*zeros))

    def stages(self, task_index, num_tasks):
        """Adds stage `importance`, except in the last task, after which F is not used."""
        is_last = task_index == num_tasks - 1
        return (self.training,) if is_last else (self.training, self.fisher_stage)

    def observe(self, state, task, batch, key):
        """Computes the cross entropy and, in later tasks, the penalty."""
        outputs, batch_stats = self.train_forward(state, batch.images, batch.weights)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            terms["penalty"] = self.lamda * penalty(state.params, state.extras)
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def after_task(self, state, task, data):
        """Merges the importance of the task into that of previous tasks."""
        extras = self.merge(state.extras, state.params, task)
        return super().after_task(state.replace(extras=extras), task, data)

    def merge(self, past: PastTasks, params: PyTree, task: Task) -> PastTasks:
        """Adds the penalty of the current task, whose trained parameters are `params`."""
        return add_penalties(past, params)

    def information(
        self, state: LearnerState, task: Task, batch: Batch
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """Computes the squared gradients of a batch.

        Args:
          state: learner state after training.
          task: current task.
          batch: images without augmentation, with sample weights.

        Returns:
          The mean loss float [], the mean of the images' squared gradients (a tree like the
          parameters), and the running statistics.
        """
        new = self.classes(task.old, task.seen)

        def loss(params, image, label):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits = self.classifier.apply(variables, image[None]).logits
            return losses.cross_entropy(logits, label[None], new)

        # One gradient per image needs B times the memory of the parameters.
        of_images = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))
        values, grads = of_images(state.params, batch.images, batch.labels)
        assert batch.weights is not None  # the stage has drop_last=False
        shares = batch.weights / batch.weights.shape[0]
        squares = jax.tree.map(lambda g: jnp.tensordot(shares, jnp.square(g), 1), grads)
        return shares @ values, squares, state.batch_stats


def penalty(params: PyTree, past: PastTasks) -> jax.Array:
    """Computes `1/2 sum_p F_p (theta_p - anchor_p)^2` over all parameters, float []."""
    parts = jax.tree.map(
        lambda p, f, a: (f * jnp.square(p - a)).sum(), params, past.fisher, past.anchor
    )
    return cast(jax.Array, sum(jax.tree.leaves(parts))) / 2


def add_penalties(past: PastTasks, params: PyTree) -> PastTasks:
    """Adds the penalty of the current task to that of previous tasks.

    A sum of parabolas is a parabola around the mean of their anchors, weighted by importance.
    """
    fisher = jax.tree.map(jnp.add, past.fisher, past.task_fisher)

    def move(total, current, anchor, p):
        # Where F is 0, the anchor has no effect; 1 avoids a division by 0.
        share = current / jnp.where(total > 0, total, 1)
        return anchor + share * (p - anchor)

    anchor = jax.tree.map(move, fisher, past.task_fisher, past.anchor, params)
    return PastTasks.of(fisher, anchor)
