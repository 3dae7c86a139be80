"""Bias Correction (Wu et al., CVPR 2019), as the ABD paper compares it."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import exemplars
from cljax.methods.base import Finetune
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, PyTree, Subset, Task, hyperparameters


@hyperparameters
class BiasCorrection(TrainStage):
    """The second stage: the new task's two bias parameters on the held-out images.

    The network is in train mode, so running statistics move although no weight does.
    """

    observes: ClassVar[str] = "observe_corrected"

    def training_set(self, method, state, task, data):
        """The held-out images."""
        return method.hold_out(state, task, data)[0]

    def get_parameters(self, method, params, task):
        """The new task's entries of the bias layers."""
        frozen = jax.tree.map(lambda _: False, params)
        bias = params["bias_layers"]
        newest = jax.tree.map(lambda p: jnp.arange(p.shape[0]) == task.index, bias)
        return frozen | {"bias_layers": newest}


@hyperparameters
class BiC(Finetune):
    """Distillation among corrected logits, then a bias layer for the new classes.

    A bias layer maps the logits l of one task's classes to alpha l + beta; the first task's does
    nothing. Layer j is entry j of `params["bias_layers"]`, {"alpha": [K], "beta": [K]}, as there
    are at most as many tasks as classes; `state.extras` int32 [K] says which one a class has.

    Attributes:
      correction: the second stage.
      temperature: of the distillation.
      correct_at_test: whether predictions use the bias layers. The released code's do not.
    """

    supports_partial_batches: ClassVar[bool] = False
    extra_parameters: ClassVar[tuple[str, ...]] = ("bias_layers",)

    correction: TrainStage
    temperature: float = 2.0
    correct_at_test: bool = False

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the second stage, with a hundredth of the learning rate."""
        correction = parts.stage(BiasCorrection, "correct", lr_scale=0.01)
        method = super().from_parts(parts, correction=correction, **fields)
        memory = method.memory
        has_copies = memory.replay != "all" or memory.strategy == "libcontinual_herding"
        if has_copies or not (memory.size and memory.is_balanced):
            raise UserError(
                "config.exemplars: method 'bic' holds some of them out, so it needs some, "
                "replay='all', and a strategy that keeps as many of each class and no copies"
            )
        return method

    def init(self, streams, image_shape):
        """Adds bias layers that change nothing yet, and a teacher, not used before it is taken."""
        state = super().init(streams, image_shape)
        num_layers = self.classifier.num_classes
        bias = {"alpha": jnp.ones(num_layers), "beta": jnp.zeros(num_layers)}
        params = state.params | {"bias_layers": bias}
        layers = jnp.zeros(num_layers, jnp.int32)
        return state.replace(params=params, extras=layers).with_teacher()

    def before_task(self, state, task, data):
        """Notes the layer of each class."""
        classes = jnp.arange(self.classifier.num_classes)
        layers = jnp.searchsorted(task.boundaries[1:-1], classes, side="right")
        return state.replace(extras=layers.astype(jnp.int32))

    def stages(self, task_index, num_tasks):
        """The first task needs no correction."""
        return (self.training, self.correction) if task_index else (self.training,)

    def after_task(self, state, task, data):
        """Network and bias layers become the teacher."""
        return super().after_task(state, task, data).with_teacher()

    def training_set(self, state, task, data):
        """All images but the held-out ones."""
        if task.is_first:
            return task.images
        return self.hold_out(state, task, data)[1]

    def hold_out(self, state: LearnerState, task: Task, data) -> tuple[Subset, Subset]:
        """The held-out images and the rest; of each class, its first images are held out."""
        images = self.memory.training_set(state, task)
        num_held = exemplars.holdout_size(state.exemplars.counts.sum(), task.old)
        return exemplars.split_first(images, task.labels(data, images), num_held)

    def get_parameters(self, params, task):
        """All of the network, no bias layer."""
        return jax.tree.map(lambda _: True, params) | {
            "bias_layers": {"alpha": False, "beta": False}
        }

    def observe(self, state, task, batch, key):
        """First stage: the larger the share of old classes, the more counts distillation."""
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

    def observe_corrected(self, state: LearnerState, task: Task, batch: Batch, key: jax.Array):
        """Second stage: cross entropy of corrected logits."""
        outputs, batch_stats = self.train_forward(state, batch.images)
        logits = self.correct(state, outputs.logits, state.params)
        terms = {"class": self.class_loss(logits, task, batch)}
        return self.observed(task, batch, logits, terms, batch_stats)

    def forward(self, state, images):
        """The network's logits, corrected if `correct_at_test`."""
        logits = super().forward(state, images)
        return self.correct(state, logits, state.params) if self.correct_at_test else logits

    def correct(self, state: LearnerState, logits: jax.Array, params: PyTree) -> jax.Array:
        """Logits [B, K] through the bias layers of `params`; layers not yet trained do nothing."""
        bias, layers = params["bias_layers"], state.extras
        return bias["alpha"][layers] * logits + bias["beta"][layers]
