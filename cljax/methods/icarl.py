"""iCaRL: Incremental Classifier and Representation Learning (Rebuffi et al., CVPR 2017)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import nearest_mean
from cljax.methods.lwf import LearningWithoutForgetting
from cljax.state import hyperparameters


@hyperparameters
class MultiClassLwF(LearningWithoutForgetting):
    """Trains one sigmoid per class; the targets of old classes are the teacher's (LwF.MC).

    The loss is one sum of binary cross entropies without weight or temperature, so `mu` and
    `temperature` have no effect.
    """

    def has_class_loss(self, old, new):
        """Returns True: a sigmoid differs from its target also if it is alone."""
        return True

    def observe(self, state, task, batch, key):
        """Computes the binary cross entropies; targets of other than old classes are one-hot."""
        outputs, batch_stats = self.train_forward(state, batch.images)
        targets = jax.nn.one_hot(batch.labels, self.classifier.num_classes)
        if not task.is_first:
            old = self.classes(0, task.old)
            targets = jnp.where(
                old, jax.nn.sigmoid(self.teacher_outputs(state, batch).logits), targets
            )
        seen = self.classes(0, task.seen)
        loss = losses.binary_cross_entropy(outputs.logits, targets, seen)
        return self.observed(task, batch, outputs.logits, {"class": loss}, batch_stats)


@hyperparameters
class ICaRL(MultiClassLwF):
    """Trains as LwF.MC on new images and exemplars; predicts by the nearest mean of exemplars.

    `state.extras` float [D, K] has the class means, computed after each task. `forward` computes
    the logits of the head.
    """

    extras_name: ClassVar[str] = "means"

    @classmethod
    def from_parts(cls, parts, **fields):
        """Checks that there are exemplars with equal numbers per class."""
        method = super().from_parts(parts, **fields)
        if not (method.memory.size and method.memory.is_balanced):
            raise UserError(
                "config.exemplars: method 'icarl' needs exemplars with equal numbers per class; "
                "set .total or .per_class and a balanced .strategy such as herding"
            )
        return method

    def init(self, streams, image_shape):
        """Adds class means, which the first task does not use."""
        state = super().init(streams, image_shape)
        return state.replace(extras=jnp.zeros_like(state.params["head"]["kernel"]))

    def after_task(self, state, task, data):
        """Selects exemplars and computes their means with the backbone as it is now."""
        state = super().after_task(state, task, data)
        return state.replace(extras=nearest_mean.exemplar_means(self, state, data))

    def inference(self, state, images, valid, k=1):
        """Predicts the k valid classes with the nearest means."""
        features = self.classifier.apply(state.variables, images).features
        return losses.top_k(nearest_mean.similarities(features, state.extras), valid, k)
