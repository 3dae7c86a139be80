"""Defines the interface of a method, and its plainest case: fine-tuning."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self, cast

import jax
import jax.numpy as jnp

from cljax import losses, rng
from cljax.compute.mesh import shard_batch
from cljax.data.preprocessing import Preprocessing
from cljax.memory.policy import MemoryPolicy
from cljax.models import AutoEncoder, Classifier, Outputs
from cljax.optimizers import Trained
from cljax.stages import InversionStage, Stage, TrainStage
from cljax.state import Batch, Data, LearnerState, PyTree, Subset, Task, hyperparameters

_FEATURES_BATCH = 256  # images per pass of `Finetune.features`


class Observed(NamedTuple):
    """Holds what a method computes for a training batch.

    Attributes:
      loss: float [], to be differentiated.
      predictions: int32 [B], predicted labels of the batch.
      accuracy: float [], fraction of correct predictions.
      terms: float [] by name, the terms whose sum is the loss.
      batch_stats: the classifier's running statistics after the batch.
      extras: the method's own values after the batch; None: as before.
      metrics: float [] by name, what else is averaged over an epoch for metrics.jsonl, or None.
    """

    loss: jax.Array
    predictions: jax.Array
    accuracy: jax.Array
    terms: dict[str, jax.Array]
    batch_stats: PyTree
    extras: PyTree = None
    metrics: dict[str, jax.Array] | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """Holds the parts that a run's settings describe; those after `memory` are built on demand.

    Attributes:
      classifier, preprocessing, training, memory: see `Finetune`.
      stage: (class, name, lr_scale=1.0) -> a further training stage with the run's schedule, whose
        learning rate is multiplied by `lr_scale`.
      inversion_stage: class -> the stage that trains the generator.
      autoencoder: () -> the variational auto-encoder of generative replay.
      scaled: a number of epochs -> the number under the run's schedule_scale.
    """

    classifier: Classifier
    preprocessing: Preprocessing
    training: TrainStage
    memory: MemoryPolicy
    stage: Callable[..., TrainStage]
    inversion_stage: Callable[[type[InversionStage]], InversionStage]
    autoencoder: Callable[[], AutoEncoder]
    scaled: Callable[[int], int]


@hyperparameters
class Finetune:
    """Trains with the cross entropy over the seen classes, and nothing else ("Base": fine-tuning).

    With exemplars it is naive rehearsal. Every other method inherits this class and replaces what
    differs. All members but `from_parts`, `check_tasks`, `has_class_loss` and `stages` are pure and
    run inside compiled functions. No member changes the method: values to remember go into the
    state.

    Attributes:
      classifier: backbone and head.
      preprocessing: transforms from stored pixels to the input of the classifier.
      training: stage that trains the classifier on a task.
      memory: rules that select exemplars and replay them in later tasks.
    """

    # Whether a task is trained on the images of the current and all previous tasks.
    is_joint: ClassVar[bool] = False
    # Whether the method can be given exemplars.
    supports_exemplars: ClassVar[bool] = True
    # Whether `observe` uses `Batch.weights`, which mark the padding of incomplete batches.
    supports_partial_batches: ClassVar[bool] = True
    # Whether `observe` reads the teacher in eval mode only. Then its batch norms become parts of
    # its convolutions once an epoch.
    folds_teacher: ClassVar[bool] = False
    # Entries of the parameters that the first task of another method may lack.
    extra_parameters: ClassVar[tuple[str, ...]] = ()
    # What `LearnerState.extras` are, in the bytes that results.json counts.
    extras_name: ClassVar[str] = "extras"

    classifier: Classifier
    preprocessing: Preprocessing
    training: TrainStage
    memory: MemoryPolicy

    @classmethod
    def from_parts(cls, parts: Parts, **fields: Any) -> Self:
        """Builds the method; a subclass with further parts adds them to `fields`.

        Args:
          parts: what the run's settings describe.
          **fields: the method's own settings, and parts that a subclass adds.

        Raises:
          UserError: the settings do not fit the method.
        """
        return cls(
            classifier=parts.classifier,
            preprocessing=parts.preprocessing,
            training=parts.training,
            memory=parts.memory,
            **fields,
        )

    def check_tasks(self, task_sizes: Sequence[int]) -> None:
        """Checks that the method can learn these tasks; runs on the host.

        Args:
          task_sizes: number of classes of each task.

        Raises:
          UserError: the method cannot learn them.
        """

    def has_class_loss(self, old: int, new: int) -> bool:
        """Whether the classification loss of a task can differ from 0; runs on the host.

        The softmax over a single class is 1, so nothing is learned about its images.

        Args:
          old: number of classes of previous tasks.
          new: number of classes of the task.
        """
        return old + new > 1

    def init(self, streams: rng.Streams, image_shape: tuple[int, int, int]) -> LearnerState:
        """Initializes the learner state of a seed; each stage makes its own optimizer state.

        Args:
          streams: seeds of the random streams.
          image_shape: (H, W, C) of the classifier's input.
        """
        key = rng.key(streams.init, "classifier")
        variables = self.classifier.init(key, jnp.zeros((1, *image_shape)))
        return LearnerState(
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),  # a network may have none
            opt_state=None,
            teacher=None,
            generator=None,
            exemplars=self.memory.init(self.classifier.num_classes),
            streams=streams,
        )

    def stages(self, task_index: int, num_tasks: int) -> tuple[Stage, ...]:
        """Lists the stages of a task in order; runs on the host.

        Args:
          task_index: number of the task, from 0.
          num_tasks: number of tasks of the run.
        """
        return (self.training,)

    def before_task(self, state: LearnerState, task: Task, data: Data) -> LearnerState:
        """Prepares the state for the first stage of a task."""
        return state

    def training_set(self, state: LearnerState, task: Task, data: Data) -> Subset:
        """Returns the images of stage `train`: those of the task and the replayed exemplars."""
        return self.memory.training_set(state, task)

    def epoch_teacher(self, state: LearnerState, task: Task) -> PyTree:
        """Returns the teacher for the steps of an epoch; None: the state's, as it is."""
        if task.is_first or not self.folds_teacher:
            return None
        return self.classifier.freeze(state.teacher, folds=True)

    def after_task(self, state: LearnerState, task: Task, data: Data) -> LearnerState:
        """Prepares the state for evaluation and later tasks; selects exemplars."""
        return self.choose_exemplars(state, task, data)

    def choose_exemplars(self, state: LearnerState, task: Task, data: Data) -> LearnerState:
        """Selects exemplars with the classifier as it is now, and returns the state with them."""
        features = functools.partial(self.features, state, data)
        return self.memory.after_task(state, task, data, features)

    def features(
        self,
        state: LearnerState,
        data: Data,
        indices: jax.Array,
        count: jax.Array,
        transform: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Computes features of training images in eval mode, without augmentation.

        Args:
          indices: int32 [N].
          count: int32 [], number of indices before the padding; batches of padding have features 0.
          transform: applied to uint8 images [B, H, W, C] first.

        Returns:
          float32 [N, D].
        """
        size = min(_FEATURES_BATCH, len(indices))
        padded = jnp.pad(indices, (0, -len(indices) % size))

        def batch(i):
            rows = shard_batch(jax.lax.dynamic_slice_in_dim(padded, i * size, size))
            images = self.preprocessing.center(data.train_images[rows])
            images = self.preprocessing.test(images if transform is None else transform(images))
            return self.classifier.apply(state.variables, images).features.astype(jnp.float32)

        def body(i, found):
            return jax.lax.dynamic_update_slice_in_dim(found, batch(i), i * size, axis=0)

        shape = jax.eval_shape(batch, 0).shape
        found = jnp.zeros((len(padded), *shape[1:]), jnp.float32)
        return jax.lax.fori_loop(0, -(-count // size), body, found)[: len(indices)]

    def observe(self, state: LearnerState, task: Task, batch: Batch, key: jax.Array) -> Observed:
        """Computes loss and predictions of a training batch; differentiated in `state.params`.

        Args:
          state: learner state before the step.
          task: current task.
          batch: preprocessed images of the stage.
          key: consumed.
        """
        outputs, batch_stats = self.train_forward(state, batch.images, batch.weights)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def class_loss(self, logits: jax.Array, task: Task, batch: Batch) -> jax.Array:
        """Computes the cross entropy [] of logits [B, K] over the seen classes.

        Sample weights favor rare classes if config.exemplars.class_weighting is True.
        """
        weights = batch.weights
        if self.memory.class_weighting:
            of_class = losses.class_weights(batch.class_counts, task.seen)[batch.labels]
            weights = of_class if weights is None else weights * of_class
        return losses.cross_entropy(logits, batch.labels, self.classes(0, task.seen), weights)

    def classes(self, start: jax.Array | int, stop: jax.Array | int) -> jax.Array:
        """Returns a mask bool [K] of the labels start..stop-1."""
        return losses.class_range(self.classifier.num_classes, start, stop)

    def observed(
        self,
        task: Task,
        batch: Batch,
        logits: jax.Array,
        terms: dict[str, jax.Array],
        batch_stats: PyTree,
    ) -> Observed:
        """Sums the terms, and predicts the labels of the batch among the seen classes.

        Args:
          logits: float [B, K], of `batch`.
          terms: float [] by name, the terms of the loss.
          batch_stats: running statistics after the batch.
        """
        seen = self.classes(0, task.seen)
        predictions = losses.masked_argmax(logits, seen)
        right = predictions == batch.labels
        accuracy = (right if batch.weights is None else right * batch.weights).mean()
        loss = cast(jax.Array, sum(terms.values()))
        return Observed(loss, predictions, accuracy, terms, batch_stats)

    def train_forward(
        self, state: LearnerState, images: jax.Array, weights: jax.Array | None = None
    ) -> tuple[Outputs, PyTree]:
        """Passes images through the classifier in train mode.

        Args:
          state: learner state, whose running statistics do not change.
          images: float [B, H, W, C], standardized.
          weights: float [B], as in `Batch`; None if all rows are images.

        Returns:
          The outputs, and the new running statistics.
        """
        outputs, updates = self.classifier.apply(
            state.variables, images, train=True, weights=weights, mutable=["batch_stats"]
        )
        return outputs, updates.get("batch_stats", {})

    def forward(self, state: LearnerState, images: jax.Array) -> jax.Array:
        """Computes logits float [B, K] of images float [B, H, W, C] in eval mode."""
        return self.classifier.apply(state.variables, images).logits

    def inference(
        self, state: LearnerState, images: jax.Array, valid: jax.Array, k: int = 1
    ) -> jax.Array:
        """Predicts the k likeliest valid classes of test images, likeliest first.

        Args:
          images: float [B, H, W, C], standardized.
          valid: bool, broadcast against [B, K]: the labels to choose from. With a leading axis
            [M, B, K], one pass through the classifier gives predictions for M masks.
          k: number of labels to predict, 1 to K.

        Returns:
          int32 [B, k] or [M, B, k].
        """
        return losses.top_k(self.forward(state, images), valid, k)

    def get_parameters(self, params: PyTree, task: Task) -> Trained:
        """Returns which parameters are trained, see `Optimizer.update`."""
        return jax.tree.map(lambda _: True, params)
