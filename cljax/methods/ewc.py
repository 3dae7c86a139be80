"""Elastic Weight Consolidation (Kirkpatrick et al., PNAS 2017)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from cljax import losses
from cljax.methods.base import Finetune
from cljax.methods.lwf import TaskwiseLoss
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters


@struct.dataclass
class PastTasks:
    """What earlier tasks leave behind; each a tree like the parameters.

    Attributes:
      importance: F >= 0, how much each parameter matters to earlier tasks.
      anchor: where the penalty is zero.
      current: the importance to the current task, as far as gathered.
    """

    importance: PyTree
    anchor: PyTree
    current: PyTree

    @classmethod
    def of(cls, importance: PyTree, anchor: PyTree) -> "PastTasks":
        """Returns what the next task starts with, for which nothing is gathered yet."""
        return cls(importance, anchor, jax.tree.map(jnp.zeros_like, importance))


@hyperparameters
class ImportanceStage(TrainStage):
    """One pass over the task's images that gathers the diagonal of the Fisher information.

    A stage of its own, so that it is resumed and shown like any other; no parameter moves.
    """

    first_task_differs: ClassVar[bool] = False

    def preprocess(self, inputs, i, state, images):
        """Standardizes a batch, without augmentation."""
        return inputs.method.preprocessing.test(images)

    def update(self, inputs, state, drawn):
        """Adds a batch; every image counts once."""
        batch, _ = drawn
        loss, squares, batch_stats = inputs.method.information(state, inputs.task, batch)
        share = (batch.weights > 0).sum() / self.num_images(inputs.task)
        current = jax.tree.map(lambda f, s: f + share * s, state.extras.current, squares)
        state = state.replace(extras=state.extras.replace(current=current), batch_stats=batch_stats)
        return state, {"loss": loss}

    def num_images(self, task):
        """Counts the images over which the importance is averaged, int32 []."""
        return task.images.count

    def log_scalars(self, epoch):
        """There is no learning rate."""
        return {}


@hyperparameters
class EWC(TaskwiseLoss, Finetune):
    """Cross entropy over the new classes, and a quadratic penalty on what mattered to old ones.

    The penalty is `lamda/2 sum_p F_p (theta_p - anchor_p)^2`. F is the mean over images of squared
    gradients of the log likelihood that the task was trained on (labels are the images' own),
    without augmentation, in eval mode. The penalties of all tasks are added.

    `state.extras` is a `PastTasks`.

    Attributes:
      gathering: the stage that gathers F.
      lamda: weight of the penalty. SGD is stable while lamda times the largest F times the rate is
        below 2 (1 + momentum).
    """

    importance_stage: ClassVar[type[TrainStage]] = ImportanceStage

    gathering: TrainStage
    lamda: float = 10.0

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the stage that gathers, one epoch long."""
        gathering = parts.stage(cls.importance_stage, "importance")
        gathering = dataclasses.replace(gathering, epochs=1, drop_last=False)
        return super().from_parts(parts, gathering=gathering, **fields)

    def init(self, streams, image_shape):
        """Adds an importance of zero."""
        state = super().init(streams, image_shape)
        zeros = [jax.tree.map(jnp.zeros_like, state.params) for _ in range(3)]
        return state.replace(extras=PastTasks(*zeros))

    def stages(self, task_index, num_tasks):
        """Training, then the pass that gathers F; nobody needs that of the last task."""
        is_last = task_index == num_tasks - 1
        return (self.training,) if is_last else (self.training, self.gathering)

    def observe(self, state, task, batch, key):
        """Cross entropy, and from the second task on the penalty."""
        outputs, batch_stats = self.train_forward(state, batch.images, batch.weights)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            terms["penalty"] = self.lamda * penalty(state.params, state.extras)
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def after_task(self, state, task, data):
        """The task's importance joins that of earlier ones."""
        extras = self.merge(state.extras, state.params, task)
        return super().after_task(state.replace(extras=extras), task, data)

    def merge(self, past: PastTasks, params: PyTree, task: Task) -> PastTasks:
        """Adds the penalty of the current task."""
        return add_penalties(past, params)

    def information(
        self, state: LearnerState, task: Task, batch: Batch
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """A batch's mean loss [], its squared gradients, and the running statistics after it."""
        new = self.classes(task.old, task.seen)

        def loss(params, image, label):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits = self.classifier.apply(variables, image[None]).logits
            return losses.cross_entropy(logits, label[None], new)

        # Side by side, as large as the network times the batch.
        of_images = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))
        values, grads = of_images(state.params, batch.images, batch.labels)
        shares = batch.weights / batch.weights.shape[0]
        squares = jax.tree.map(lambda g: jnp.tensordot(shares, jnp.square(g), 1), grads)
        return shares @ values, squares, state.batch_stats


def penalty(params: PyTree, past: PastTasks) -> jax.Array:
    """`1/2 sum_p F_p (theta_p - anchor_p)^2` over all parameters, []."""
    parts = jax.tree.map(
        lambda p, f, a: (f * jnp.square(p - a)).sum(), params, past.importance, past.anchor
    )
    return sum(jax.tree.leaves(parts)) / 2


def add_penalties(past: PastTasks, params: PyTree) -> PastTasks:
    """One penalty whose gradient is that of the earlier ones and of the task's together.

    A sum of parabolas is a parabola around the mean of their anchors, weighted with importance.
    """
    importance = jax.tree.map(jnp.add, past.importance, past.current)

    def move(total, current, anchor, p):
        # Where nothing matters yet, the anchor may be anywhere.
        share = current / jnp.where(total > 0, total, 1)
        return anchor + share * (p - anchor)

    anchor = jax.tree.map(move, importance, past.current, past.anchor, params)
    return PastTasks.of(importance, anchor)
