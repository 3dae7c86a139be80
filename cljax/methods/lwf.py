"""Learning without Forgetting (Li & Hoiem, ECCV 2016), and mixins for losses and heads."""

from typing import ClassVar

import jax

from cljax import losses
from cljax.methods.base import Finetune
from cljax.methods.teacher import TeacherMixin
from cljax.settings import Rate, Weight
from cljax.state import Task, hyperparameters


class GrowingHead(Finetune):
    """Mixin for methods whose reference head has no columns for future classes."""

    def get_parameters(self, params, task):
        """Trains all but the head columns of future classes, which have no weight decay either."""
        seen = self.classes(0, task.seen)
        # The scale of a cosine head belongs to no class.
        head = jax.tree.map(lambda p: seen if p.ndim else True, params["head"])
        return super().get_parameters(params, task) | {"head": head}


class TaskwiseLoss(GrowingHead):
    """Mixin for methods whose cross entropy is over the new classes only."""

    supports_exemplars: ClassVar[bool] = False

    def has_class_loss(self, old, new):
        """Whether there are new classes to tell apart."""
        return new > 1

    def class_loss(self, logits, task, batch):
        """Computes the cross entropy over the new classes."""
        new = self.classes(task.old, task.seen)
        return losses.cross_entropy(logits, batch.labels, new, batch.weights)


@hyperparameters
class LearningWithoutForgetting(TeacherMixin, Finetune):
    """Trains with cross entropy over the seen classes, and distills old classes from the teacher.

    Attributes:
      mu: weight of the distillation loss, at least 0.
      temperature: its softmax temperature, above 0.
    """

    supports_partial_batches: ClassVar[bool] = False

    mu: Weight = 1.0
    temperature: Rate = 2.0

    def after_task(self, state, task, data):
        """Copies the classifier as the teacher of the next task."""
        return super().after_task(state, task, data).with_teacher()

    def observe(self, state, task, batch, key):
        """Computes the cross entropy and, in later tasks, distillation on the same images."""
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
        """Returns the loss weights of cross entropy and distillation, float [] each."""
        return 1.0, self.mu
