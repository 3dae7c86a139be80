"""Bias Correction (Wu et al., CVPR 2019), as the ABD paper compares it."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import exemplars
from cljax.methods.base import Finetune, Observed
from cljax.settings import Rate
from cljax.stages import TrainStage
from cljax.state import Batch, Data, LearnerState, PyTree, Subset, Task, hyperparameters


@hyperparameters
class BiasCorrection(TrainStage):
    """Fits the two bias parameters of the current task on the held-out images (stage `correct`).

    The classifier is in train mode: its running statistics move, its parameters do not.
    """

    observes: ClassVar[str] = "observe_corrected"

    def training_set(self, method, state, task, data):
        """Returns the held-out images."""
        return method.hold_out(state, task, data)[0]

    def get_parameters(self, method, params, task):
        """Trains the entries of the bias layers that belong to the current task."""
        frozen = jax.tree.map(lambda _: False, params)
        bias = params["bias_layers"]
        current = jax.tree.map(lambda p: jnp.arange(p.shape[0]) == task.index, bias)
        return frozen | {"bias_layers": current}


@hyperparameters
class BiC(Finetune):
    """Distills corrected logits, then fits a bias layer for the logits of the new classes.

    A bias layer maps the logits l of the classes of one task to alpha l + beta; the layer of the
    first task does nothing. Layer j is entry j of `params["bias_layers"]`, {"alpha": [K],
    "beta": [K]}: there are at most K tasks. `state.extras` int32 [K] has the layer of each label.

    Attributes:
      correction_stage: stage `correct`.
      temperature: softmax temperature of the distillation, above 0.
      correct_at_test: whether predictions use the bias layers; the ABD reference code predicts
        without them.
    """

    supports_partial_batches: ClassVar[bool] = False
    extra_parameters: ClassVar[tuple[str, ...]] = ("bias_layers",)
    folds_teacher: ClassVar[bool] = True
    extras_name: ClassVar[str] = "bias_layer_of_label"

    correction_stage: TrainStage
    temperature: Rate = 2.0
    correct_at_test: bool = False

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds stage `correct`, with 1 % of the learning rate."""
        stage = parts.stage(BiasCorrection, "correct", lr_scale=0.01)
        method = super().from_parts(parts, correction_stage=stage, **fields)
        memory = method.memory
        has_copies = memory.replay != "all" or memory.strategy == "libcontinual_herding"
        if has_copies or not (memory.size and memory.is_balanced):
            raise UserError(
                "config.exemplars: method 'bic' holds exemplars out; set .total or .per_class, "
                ".replay=all and a .strategy with equal numbers per class and no copies"
            )
        return method

    def init(self, streams, image_shape):
        """Adds bias layers that change nothing, and a teacher that the first task does not use."""
        state = super().init(streams, image_shape)
        num_layers = self.classifier.num_classes
        bias = {"alpha": jnp.ones(num_layers), "beta": jnp.zeros(num_layers)}
        params = state.params | {"bias_layers": bias}
        layers = jnp.zeros(num_layers, jnp.int32)
        return state.replace(params=params, extras=layers).with_teacher()

    def before_task(self, state, task, data):
        """Records the bias layer of each label."""
        classes = jnp.arange(self.classifier.num_classes)
        layers = jnp.searchsorted(task.boundaries[1:-1], classes, side="right")
        return state.replace(extras=layers.astype(jnp.int32))

    def stages(self, task_index, num_tasks):
        """Adds stage `correct` in later tasks."""
        return (self.training, self.correction_stage) if task_index else (self.training,)

    def after_task(self, state, task, data):
        """Copies the classifier and its bias layers as the teacher."""
        return super().after_task(state, task, data).with_teacher()

    def training_set(self, state, task, data):
        """Returns all images except the held-out ones of later tasks."""
        if task.is_first:
            return task.images
        return self.hold_out(state, task, data)[1]

    def hold_out(self, state: LearnerState, task: Task, data: Data) -> tuple[Subset, Subset]:
        """Splits the training images of a later task into held-out images and the rest.

        BiC fits its bias layers on images that the classifier was not trained on.

        Args:
          state: learner state with the exemplars of previous tasks.
          task: current task, not the first.
          data: dataset on the device.

        Returns:
          The held-out images and the rest. Held out are the first n images of each seen class,
          n = (number of exemplars) // (10 * number of old classes).
        """
        images = self.memory.training_set(state, task)
        assert state.exemplars is not None  # `from_parts` refuses a method without exemplars
        num_held = exemplars.holdout_size(state.exemplars.counts.sum(), task.old)
        return exemplars.split_first(images, task.labels(data, images), num_held)

    def get_parameters(self, params, task):
        """Trains the classifier and no bias layer."""
        return jax.tree.map(lambda _: True, params) | {
            "bias_layers": {"alpha": False, "beta": False}
        }

    def observe(self, state, task, batch, key):
        """Weights cross entropy and distillation by the shares of new and old classes."""
        if task.is_first:
            return super().observe(state, task, batch, key)
        outputs, batch_stats = self.train_forward(state, batch.images)
        logits = self.correct(state, outputs.logits, state.params)
        teacher = self.classifier.apply(state.teacher, batch.images).logits
        teacher = self.correct(state, teacher, state.teacher["params"])
        old_share = task.old / task.seen
        old = self.classes(0, task.old)
        terms = {
            "class": (1 - old_share) * self.class_loss(logits, task, batch),
            "distillation": old_share
            * losses.distillation(logits, teacher, old, temperature=self.temperature),
        }
        return self.observed(task, batch, logits, terms, batch_stats)

    def observe_corrected(
        self, state: LearnerState, task: Task, batch: Batch, key: jax.Array
    ) -> Observed:
        """Computes the cross entropy of corrected logits, the loss of stage `correct`."""
        outputs, batch_stats = self.train_forward(state, batch.images)
        logits = self.correct(state, outputs.logits, state.params)
        terms = {"class": self.class_loss(logits, task, batch)}
        return self.observed(task, batch, logits, terms, batch_stats)

    def forward(self, state, images):
        """Computes the logits; corrects them if `correct_at_test`."""
        logits = super().forward(state, images)
        return self.correct(state, logits, state.params) if self.correct_at_test else logits

    def correct(self, state: LearnerState, logits: jax.Array, params: PyTree) -> jax.Array:
        """Applies the bias layers of `params` to logits [B, K]; untrained layers do nothing."""
        bias, layers = params["bias_layers"], state.extras
        return bias["alpha"][layers] * logits + bias["beta"][layers]
