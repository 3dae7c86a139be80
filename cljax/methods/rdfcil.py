"""R-DFCIL: relation-guided representation learning (Gao et al., ECCV 2022, arXiv 2203.13104)."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.methods.base import Observed
from cljax.methods.dreaming import Dreaming
from cljax.models import Projection
from cljax.optimizers import CONSTANT
from cljax.settings import Positive, Rate, Weight
from cljax.stages import InversionStage, TrainStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters


class Factors(NamedTuple):
    """Holds what the loss terms of a later task are multiplied by.

    Attributes:
      local: float [], of the local cross entropy.
      hard: float [], of the hard distillation.
      relational: float [], of the relational distillation.
    """

    local: jax.Array
    hard: jax.Array
    relational: jax.Array


class Labels(struct.PyTreeNode):
    """Holds how often each class was a label in the current task, and weights against imbalance.

    Attributes:
      counts: int32 [K], real and dreamed images with this label since the task began.
      weights: float [K], class weights of an epoch of stage `heads`.
      epoch: int32 [], that epoch; -1 before the stage.
    """

    counts: jax.Array
    weights: jax.Array
    epoch: jax.Array


@hyperparameters
class InversionOfOld(InversionStage):
    """Trains a new generator at the start of a later task, against the old classifier."""

    def begin(self, method, state, task, data):
        """Copies the classifier as the teacher, and draws a new generator."""
        key = rng.key(state.streams.generator, "generator", task.index)
        generator = inversion_lib.init_generator(self.inversion, key)
        return super().begin(method, state, task, data).replace(generator=generator)

    def known_classes(self, task):
        """The teacher knows the old classes only."""
        return task.old


@hyperparameters
class HeadFinetuning(TrainStage):
    """Trains the whole head on features that stay as they are (stage `heads`)."""

    observes: ClassVar[str] = "observe_head"

    def begin(self, method, state, task, data):
        """Keeps the optimizer state: the head's momentum of stage `train` goes on."""
        return state

    def get_parameters(self, method, params, task):
        """Trains the head, columns of old classes included."""
        trained = jax.tree.map(lambda _: False, params)
        return trained | {"head": jax.tree.map(lambda _: True, params["head"])}

    def update(self, inputs, state, drawn):
        """Takes one gradient step; the first one of an epoch computes the class weights."""
        return super().update(inputs, inputs.method.weigh_classes(state, inputs.epoch), drawn)


@hyperparameters
class RDFCIL(Dreaming):
    """Learns features in relation to those of the teacher, then the head for all seen classes.

    A later task has three stages. Stage `invert` trains a new generator against the classifier as
    the previous task left it, the teacher. Stage `train` has three losses: cross entropy among new
    classes on real images, distillation of logits on dreamed images, and distillation of angles
    between features of real images, which two linear projections compare, one for the classifier
    and one for the teacher, both trained. Stage `heads` freezes the features and trains the head
    on real and dreamed images, with class weights.

    Follows the R-DFCIL reference code: real and dreamed batches pass through the network apart, so
    that running statistics move twice a step; stage `heads` takes over the momentum, and counts of
    labels since the task began give its class weights, computed anew after every epoch. The first
    task has stage `train` with plain cross entropy alone. The projections are
    `params["projections"]`, {"student": ..., "teacher": ...}; `state.extras` are `Labels`.

    Attributes:
      head_stage: stage `heads`.
      lambda_ce: base weight of both cross entropies, at least 0.
      lambda_hkd: base weight of the hard distillation of logits, at least 0.
      lambda_rkd: base weight of the relational distillation, at least 0.
      finetuning_epochs: epochs of stage `heads`, in addition to those of stage `train`.
      finetuning_lr: its learning rate, above 0.
    """

    extra_parameters: ClassVar[tuple[str, ...]] = ("projections",)
    extras_name: ClassVar[str] = "label_counts"
    inversion_class: ClassVar[type[InversionStage]] = InversionOfOld

    head_stage: TrainStage
    lambda_ce: Weight = 0.5
    lambda_hkd: Weight = 0.15
    lambda_rkd: Weight = 0.5
    finetuning_epochs: Positive = 40
    finetuning_lr: Rate = 0.005

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds stage `heads`, at a constant learning rate."""
        stage = parts.stage(HeadFinetuning, "heads")
        method = super().from_parts(parts, head_stage=stage, **fields)
        stage = dataclasses.replace(
            stage,
            epochs=parts.scaled(method.finetuning_epochs),
            optimizer=dataclasses.replace(stage.optimizer, learning_rate=method.finetuning_lr),
            schedule=CONSTANT,
        )
        return dataclasses.replace(method, head_stage=stage)

    def init(self, streams, image_shape):
        """Adds projections and counts of labels, which the first task does not use."""
        state = super().init(streams, image_shape)
        projections = self._draw_projections(state.params, rng.key(streams.init, "projections"))
        params = state.params | {"projections": projections}
        return state.replace(params=params, extras=self.no_labels()).with_teacher()

    def stages(self, task_index, num_tasks):
        """Adds stages `invert`, before stage `train`, and `heads`, after it, in later tasks."""
        if not task_index:
            return (self.training,)
        return (self.inversion_stage, self.training, self.head_stage)

    def before_task(self, state, task, data):
        """Draws the head columns of new classes and the projections, and forgets the counts."""
        if task.is_first:
            return state
        projections_key = rng.key(state.streams.init, "projections", task.index)
        head_key = rng.key(state.streams.init, "head", task.index)
        new = {
            "head": self._with_new_columns(state.params["head"], task, head_key),
            "projections": self._draw_projections(state.params, projections_key),
        }
        return state.replace(params=state.params | new, extras=self.no_labels())

    def observe(self, state, task, batch, key):
        """Computes the cross entropy of the first task, or the three losses of later tasks."""
        if task.is_first:
            return super().observe(state, task, batch, key)
        num_real = batch.labels.shape[0]
        images, labels, teacher = self.replay(state, task, batch, key)
        factors, projections = self.factors(task), state.params["projections"]

        real, batch_stats = self.train_forward(state, batch.images)
        after_real = state.replace(batch_stats=batch_stats)
        dreamed, batch_stats = self.train_forward(after_real, images[num_real:])
        terms = {
            # New classes against each other, on real images.
            "local": factors.local
            * losses.cross_entropy(real.logits, batch.labels, self.classes(task.old, task.seen)),
            # Logits of old classes, on dreamed images.
            "distillation": factors.hard
            * losses.logit_distance(
                dreamed.logits, teacher.logits[num_real:], self.classes(0, task.old)
            ),
            # Angles between projected features, on real images.
            "relation": factors.relational
            * losses.angle_distance(
                Projection().apply({"params": projections["student"]}, real.features),
                Projection().apply({"params": projections["teacher"]}, teacher.features[:num_real]),
            ),
        }
        logits = jnp.concatenate([real.logits, dreamed.logits])
        observed = self.observed_with_dreams(task, batch, logits, labels, terms, batch_stats)
        return observed._replace(extras=self.count(state.extras, labels))

    def observe_head(
        self, state: LearnerState, task: Task, batch: Batch, key: jax.Array
    ) -> Observed:
        """Computes the weighted cross entropy and the distillation of logits, for stage `heads`.

        Batch norm is in eval mode.
        """
        num_real = batch.labels.shape[0]
        images, labels, teacher = self.replay(state, task, batch, key)
        logits = self.classifier.apply(state.variables, images).logits
        weights = state.extras.weights[labels]
        weights *= len(labels) / weights.sum()  # so that the mean is divided by their sum
        terms = {
            "class": self.lambda_ce
            * losses.cross_entropy(logits, labels, self.classes(0, task.seen), weights),
            "distillation": self.factors(task).hard
            * losses.logit_distance(
                logits[num_real:], teacher.logits[num_real:], self.classes(0, task.old)
            ),
        }
        observed = self.observed_with_dreams(task, batch, logits, labels, terms, state.batch_stats)
        return observed._replace(extras=self.count(state.extras, labels))

    def factors(self, task: Task) -> Factors:
        """Computes the factors of a later task from its numbers of old and new classes.

        Distillation counts the more, and the local cross entropy the less, the more old classes
        there are.
        """
        old, new = (n.astype(float) for n in (task.old, task.seen - task.old))
        alpha, beta = jnp.log2(new / 2 + 1), jnp.sqrt(old / new)
        return Factors(
            local=self.lambda_ce * (1 + 1 / alpha) / beta,
            hard=self.lambda_hkd * alpha * beta,
            relational=self.lambda_rkd * alpha * beta,
        )

    def no_labels(self) -> Labels:
        """Returns counts of 0 and class weights of 1."""
        size = self.classifier.num_classes
        return Labels(jnp.zeros(size, jnp.int32), jnp.ones(size), jnp.int32(-1))

    def count(self, seen: Labels, labels: jax.Array) -> Labels:
        """Counts labels int32 [B]."""
        return seen.replace(counts=seen.counts.at[labels].add(1))

    def weigh_classes(self, state: LearnerState, epoch: jax.Array) -> LearnerState:
        """Gives a new epoch its class weights: the largest count divided by that of the class.

        A class without images counts as one with a single image.
        """
        seen, epoch = state.extras, jnp.asarray(epoch, jnp.int32)
        counts = jnp.maximum(seen.counts, 1).astype(seen.weights.dtype)
        weights = jnp.where(seen.epoch == epoch, seen.weights, counts.max() / counts)
        return state.replace(extras=seen.replace(weights=weights, epoch=epoch))

    def _draw_projections(self, params: PyTree, key: jax.Array) -> PyTree:
        features = jnp.zeros((1, params["head"]["kernel"].shape[0]))
        keys = zip(("student", "teacher"), jax.random.split(key), strict=True)
        return {name: Projection().init(one, features)["params"] for name, one in keys}

    def _with_new_columns(self, head: PyTree, task: Task, key: jax.Array) -> PyTree:
        features = jnp.zeros((1, head["kernel"].shape[0]))
        new = self.classes(task.old, task.seen)
        drawn = self.classifier.head.init(key, features)["params"]

        def replace(kept, fresh):
            return jnp.where(new, fresh, kept) if kept.ndim else kept  # a cosine head has a scale

        return jax.tree.map(replace, head, drawn)
