"""Learning without Forgetting (Li & Hoiem, ECCV 2016), in both forms of the ABD paper's tables."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.methods.base import Finetune
from cljax.state import hyperparameters


@hyperparameters
class LearningWithoutForgetting(Finetune):
    """Cross entropy over the classes seen, and distillation of the old ones from the teacher.

    Attributes:
      mu: weight of the distillation.
      temperature: of the distillation.
    """

    takes_incomplete_batches: ClassVar[bool] = False

    mu: float = 1.0
    temperature: float = 2.0

    def init(self, streams, image_shape):
        """Adds a teacher, not used before it is taken."""
        return super().init(streams, image_shape).with_teacher()

    def after_task(self, state, task, data):
        """The classifier becomes the teacher of the next task."""
        return super().after_task(state, task, data).with_teacher()

    def observe(self, state, task, batch, key):
        """Cross entropy, and from the second task on distillation of the same images."""
        if task.is_first:
            return super().observe(state, task, batch, key)
        outputs, batch_stats = self.train_forward(state, batch.images)
        teacher = self.classifier.apply(state.teacher, batch.images)
        old = self.classes(0, task.old)
        terms = {
            "class": self.class_loss(outputs.logits, task, batch),
            "distillation": self.mu
            * losses.distillation(
                outputs.logits, teacher.logits, old, temperature=self.temperature
            ),
        }
        return self.observed(task, batch, outputs.logits, terms, batch_stats)


@hyperparameters
class MultiClassLwF(LearningWithoutForgetting):
    """LwF.MC (Rebuffi et al., CVPR 2017): one sigmoid per class, old ones aim at the teacher's.

    One sum of binary cross entropies; it has neither weight nor temperature, so `mu` and
    `temperature` are without effect.
    """

    def observe(self, state, task, batch, key):
        """Targets are one-hot, but the teacher's sigmoids in the columns of old classes."""
        outputs, batch_stats = self.train_forward(state, batch.images)
        targets = jax.nn.one_hot(batch.labels, self.classifier.num_classes)
        if not task.is_first:
            teacher = self.classifier.apply(state.teacher, batch.images)
            old = self.classes(0, task.old)
            targets = jnp.where(old, jax.nn.sigmoid(teacher.logits), targets)
        seen = self.classes(0, task.seen)
        loss = losses.binary_cross_entropy(outputs.logits, targets, seen)
        return self.observed(task, batch, outputs.logits, {"class": loss}, batch_stats)
