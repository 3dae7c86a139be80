"""Learning without Forgetting (Li & Hoiem, ECCV 2016) and what it shares."""

from typing import ClassVar

import jax

from cljax import losses
from cljax.methods.base import Finetune
from cljax.methods.teacher import TeacherMixin
from cljax.state import Task, hyperparameters


class GrowingHead:
    """Of methods whose original head has no columns yet for classes to come."""

    def get_parameters(self, params, task):
        """All but the head's columns of classes to come: these are neither trained nor decayed."""
        seen = self.classes(0, task.seen)
        head = jax.tree.map(lambda _: seen, params["head"])
        return super().get_parameters(params, task) | {"head": head}


class TaskwiseLoss(GrowingHead):
    """Of methods whose cross entropy compares the new classes with each other alone."""

    supports_exemplars: ClassVar[bool] = False

    def class_loss(self, logits, task, batch):
        """Cross entropy over the new classes; of old ones there may be no images."""
        new = self.classes(task.old, task.seen)
        return losses.cross_entropy(logits, batch.labels, new, batch.weights)


@hyperparameters
class LearningWithoutForgetting(TeacherMixin, Finetune):
    """Cross entropy over the classes seen, and distillation of the old ones from the teacher.

    Attributes:
      mu: weight of the distillation.
      temperature: of the distillation.
    """

    supports_partial_batches: ClassVar[bool] = False

    mu: float = 1.0
    temperature: float = 2.0

    def after_task(self, state, task, data):
        """The classifier becomes the teacher of the next task."""
        return super().after_task(state, task, data).with_teacher()

    def observe(self, state, task, batch, key):
        """Cross entropy, and from the second task on distillation of the same images."""
        if task.is_first:
            return super().observe(state, task, batch, key)
        outputs, batch_stats = self.train_forward(state, batch.images, batch.weights)
        teacher = self.teacher_outputs(state, batch)
        old = self.classes(0, task.old)
        class_weight, distillation_weight = self.term_weights(task)
        terms = {
            "class": class_weight * self.class_loss(outputs.logits, task, batch),
            "distillation": distillation_weight
            * losses.distillation(
                outputs.logits, teacher.logits, old, None, self.temperature, batch.weights
            ),
        }
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def term_weights(self, task: Task) -> tuple[jax.Array | float, jax.Array | float]:
        """Weights [] of the cross entropy and of the distillation."""
        return 1.0, self.mu
