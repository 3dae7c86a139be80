"""Elastic Weight Consolidation (Kirkpatrick et al., PNAS 2017)."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from cljax import losses, rng
from cljax.methods.base import Finetune
from cljax.methods.lwf import TaskwiseLoss
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters


@struct.dataclass
class Consolidation:
    """What earlier tasks leave behind; each a tree like the parameters.

    Attributes:
      importance: F >= 0, how much each parameter matters to earlier tasks.
      anchor: where the penalty is zero.
      found: the importance to the task just learned, as far as gathered.
    """

    importance: PyTree
    anchor: PyTree
    found: PyTree


@hyperparameters
class ImportanceStage(TrainStage):
    """One pass over the task's images that gathers the diagonal of the Fisher information.

    A stage of its own, so that it is resumed and shown like any other; no parameter moves.
    """

    has_phases: ClassVar[bool] = False

    def step(self, method, data, task, epoch, prepared, i, state):
        """Adds a batch; every image counts once."""
        images, labels, weights = self.take(data, task, prepared, i)
        count = task.images.count
        if method.form == "paper":
            images = method.preprocessing.test(images)
        else:
            address = (task.index, epoch, i)
            key = rng.key(state.streams.augmentation, f"augment {self.name}", *address)
            images = method.preprocessing.train(key, images)
            # The released code divides as if the last batch were complete.
            count = self.batch_size * -(-count // self.batch_size)
        batch = Batch(images, labels, prepared.class_counts, weights)
        loss, squares, batch_stats = method.information(state, task, batch)
        share = (weights > 0).sum() / count
        found = jax.tree.map(lambda f, s: f + share * s, state.extras.found, squares)
        state = state.replace(extras=state.extras.replace(found=found), batch_stats=batch_stats)
        return state, {"loss": loss}

    def describe(self, epoch):
        """There is no learning rate."""
        return {}


@hyperparameters
class EWC(TaskwiseLoss, Finetune):
    """Cross entropy over the new classes, and a quadratic penalty on what mattered to old ones.

    The penalty is `lamda/2 sum_p F_p (theta_p - anchor_p)^2`. `state.extras` is a `Consolidation`.

    Attributes:
      gathering: the stage that gathers F.
      lamda: weight of the penalty. SGD is stable while lamda times the largest F times the rate is
        below 2 (1 + momentum). LibContinual's F is far smaller, and its lamda 1000.
      form: "paper": F is the mean over images of squared gradients of the log likelihood that the
        task was trained on (labels are the images' own), without augmentation, in eval mode; the
        penalties of all tasks are added. "libcontinual": squares of the mean gradients of batches,
        augmented, in train mode, over all classes seen; F is averaged over tasks, and the only
        anchor is the last one.
    """

    gathering: TrainStage
    lamda: float = 10.0
    form: Literal["paper", "libcontinual"] = "paper"

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the stage that gathers, one epoch long."""
        gathering = parts.stage(ImportanceStage, "importance")
        gathering = dataclasses.replace(gathering, epochs=1, drop_last=False)
        return super().from_parts(parts, gathering=gathering, **fields)

    def init(self, streams, image_shape):
        """Adds an importance of zero."""
        state = super().init(streams, image_shape)
        zeros = [jax.tree.map(jnp.zeros_like, state.params) for _ in range(3)]
        return state.replace(extras=Consolidation(*zeros))

    def stages(self, task_index, num_tasks):
        """Training, then the pass that gathers F; nobody needs that of the last task."""
        # LibContinual's pass moves running statistics, so there it belongs to every task.
        is_idle = task_index == num_tasks - 1 and self.form == "paper"
        return (self.training,) if is_idle else (self.training, self.gathering)

    def observe(self, state, task, batch, key):
        """Cross entropy, and from the second task on the penalty."""
        outputs, batch_stats = self.train_forward(state, batch.images, batch.weights)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            terms["penalty"] = self.lamda * penalty(state.params, state.extras)
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def after_task(self, state, task, data):
        """The task's importance joins that of earlier ones."""
        merge = add_penalties if self.form == "paper" else average
        return super().after_task(
            state.replace(extras=merge(state.extras, state.params, task)), task, data
        )

    def information(
        self, state: LearnerState, task: Task, batch: Batch
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """A batch's mean loss [], its squared gradients, and the running statistics after it."""
        if self.form == "libcontinual":
            return self._of_batch_gradient(state, task, batch)
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

    def _of_batch_gradient(self, state, task, batch):
        def loss(params):
            outputs, batch_stats = self.train_forward(
                state.replace(params=params), batch.images, batch.weights
            )
            seen = self.classes(0, task.seen)
            loss = losses.cross_entropy(outputs.logits, batch.labels, seen, batch.weights)
            return loss, batch_stats

        (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return value, jax.tree.map(jnp.square, grads), batch_stats


def penalty(params: PyTree, past: Consolidation) -> jax.Array:
    """`1/2 sum_p F_p (theta_p - anchor_p)^2` over all parameters, []."""
    parts = jax.tree.map(
        lambda p, f, a: (f * jnp.square(p - a)).sum(), params, past.importance, past.anchor
    )
    return sum(jax.tree.leaves(parts)) / 2


def add_penalties(past: Consolidation, params: PyTree, task: Task) -> Consolidation:
    """One penalty whose gradient is that of the earlier ones and of the task's together.

    A sum of parabolas is a parabola around the mean of their anchors, weighted with importance.
    """
    importance = jax.tree.map(jnp.add, past.importance, past.found)

    def move(total, found, anchor, p):
        # Where nothing matters yet, the anchor may be anywhere.
        share = found / jnp.where(total > 0, total, 1)
        return anchor + share * (p - anchor)

    anchor = jax.tree.map(move, importance, past.found, past.anchor, params)
    return _merged(importance, anchor)


def average(past: Consolidation, params: PyTree, task: Task) -> Consolidation:
    """LibContinual's: the share of the new classes is that of the task's importance.

    The share of the first task is a later task's. The head's new columns have no past to be
    averaged with, but those of the first task count as old.
    """
    share = (task.boundaries[-1] - task.boundaries[-2]) / task.seen
    num_classes = params["head"]["bias"].shape[0]
    is_new = losses.class_range(num_classes, task.seen if task.is_first else task.old, task.seen)

    def mix(path, before, found):
        mixed = (1 - share) * before + share * found
        return jnp.where(is_new, found, mixed) if path[0].key == "head" else mixed

    importance = jax.tree_util.tree_map_with_path(mix, past.importance, past.found)
    return _merged(importance, jax.tree.map(jnp.copy, params))


def _merged(importance, anchor):
    return Consolidation(importance, anchor, jax.tree.map(jnp.zeros_like, importance))
