"""The interface of a method, and its plainest case: fine-tuning."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cljax import configure, losses, rng
from cljax.data.preprocessing import Preprocessing
from cljax.models import Classifier
from cljax.stages import Stage, TrainStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters


class Observed(NamedTuple):
    """What a method sees in a training batch.

    Attributes:
      loss: float [], to be differentiated.
      predictions: int32 [B], classes predicted for the batch.
      accuracy: float [], their share that is right.
      terms: parts of the loss, float [] each, as they enter the sum.
      batch_stats: the classifier's running statistics after the batch.
    """

    loss: jax.Array
    predictions: jax.Array
    accuracy: jax.Array
    terms: dict[str, jax.Array]
    batch_stats: PyTree


@hyperparameters
class Finetune:
    """Plain fine-tuning ("Base"): cross entropy over the classes seen so far, nothing else.

    Every other method inherits it and replaces what differs. All members but `stages` are pure and
    run inside compiled functions, so no member changes the method; what must be remembered goes
    into the state.

    Attributes:
      classifier: the network.
      preprocessing: from stored pixels to its input.
      training: the stage that trains the classifier on a task.
    """

    classifier: Classifier
    preprocessing: Preprocessing
    training: TrainStage

    @classmethod
    def from_config(cls, config, dataset, **parts) -> "Finetune":
        """The method as a config describes it.

        Args:
          config: the run's whole config.
          dataset: the `Dataset`.
          **parts: fields that a subclass has built already.

        Raises:
          UserError: a setting is wrong or unknown.
        """
        parts |= {
            "classifier": configure.classifier(config, dataset),
            "preprocessing": configure.preprocessing(config, dataset),
            "training": configure.training(config),
        }
        own = {field.name for field in dataclasses.fields(cls)} - set(parts)
        return cls(**parts, **configure.options(config, own))

    def init(self, streams: rng.Streams, image_shape: tuple[int, int, int]) -> LearnerState:
        """A seed's state before the first task."""
        key = rng.key(streams.init, "classifier")
        variables = self.classifier.init(key, jnp.zeros((1, *image_shape)))
        state = LearnerState(
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=None,
            teacher=None,
            generator=None,
            streams=streams,
        )
        return self.training.begin(self, state)

    def stages(self, task_index: int, num_tasks: int) -> tuple[Stage, ...]:
        """The stages of a task, in order (host side)."""
        return (self.training,)

    def before_task(self, state: LearnerState, task: Task) -> LearnerState:
        """The state as the task's first stage finds it."""
        return state

    def after_task(self, state: LearnerState, task: Task) -> LearnerState:
        """The state as the task's last stage leaves it, prepared for evaluation and later tasks."""
        return state

    def observe(self, state: LearnerState, task: Task, batch: Batch, key: jax.Array) -> Observed:
        """Loss and predictions of a training batch; differentiated in `state.params`.

        The key is consumed.
        """
        outputs, batch_stats = self.train_forward(state, batch.images)
        seen = self.classes(0, task.seen)
        loss = losses.cross_entropy(outputs.logits, batch.labels, seen)
        return self.observed(task, batch, outputs.logits, {"class": loss}, batch_stats)

    def classes(self, start: jax.Array | int, stop: jax.Array | int) -> jax.Array:
        """Mask bool [K] of the classes start..stop-1."""
        return losses.class_range(self.classifier.num_classes, start, stop)

    def observed(
        self,
        task: Task,
        batch: Batch,
        logits: jax.Array,
        terms: dict[str, jax.Array],
        batch_stats: PyTree,
    ) -> Observed:
        """Sums the terms and predicts the batch's labels among the classes seen.

        logits float [B, K] are those of `batch`.
        """
        seen = self.classes(0, task.seen)
        predictions = losses.masked_argmax(logits, seen)
        accuracy = (predictions == batch.labels).mean()
        return Observed(sum(terms.values()), predictions, accuracy, terms, batch_stats)

    def train_forward(self, state: LearnerState, images: jax.Array):
        """Train-mode pass over images [B, H, W, C]: (Outputs, new running statistics)."""
        outputs, updates = self.classifier.apply(
            state.variables, images, train=True, mutable=["batch_stats"]
        )
        return outputs, updates["batch_stats"]

    def forward(self, state: LearnerState, images: jax.Array) -> jax.Array:
        """Logits float [B, K] over all classes, in eval mode; images float [B, H, W, C]."""
        return self.classifier.apply(state.variables, images).logits

    def inference(
        self, state: LearnerState, images: jax.Array, valid: jax.Array, k: int = 1
    ) -> jax.Array:
        """The k likeliest valid classes of test images, likeliest first.

        Args:
          images: float [B, H, W, C], normalised.
          valid: bool, broadcast against [B, K]: the classes to choose from. With a leading axis
            [M, B, K] the images are judged M ways in one pass through the network.

        Returns:
          int32 [B, k] or [M, B, k].
        """
        return losses.top_k(self.forward(state, images), valid, k)

    def get_parameters(self, params: PyTree) -> PyTree:
        """Which parameters the optimiser moves: a tree like `params` of "trained" and "frozen"."""
        return jax.tree.map(lambda _: "trained", params)
