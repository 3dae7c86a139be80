"""DeepInversion (Yin et al., CVPR 2020) as the ABD paper compares it, and LwF on dreamed images."""

from cljax import losses
from cljax.methods.dreaming import Dreaming
from cljax.settings import Rate, Weight
from cljax.state import hyperparameters


@hyperparameters
class DeepInversion(Dreaming):
    """Trains with cross entropy on real images, and distills real and dreamed images.

    Attributes:
      mu: weight of both distillation losses, at least 0.
      temperature: their softmax temperature, above 0.
    """

    mu: Weight = 1.0
    temperature: Rate = 2.0

    def observe(self, state, task, batch, key):
        """Distills real images over old and dreamed images over seen classes.

        For dreamed images, the targets of the new classes are 0.
        """
        if task.is_first:
            return super().observe(state, task, batch, key)
        real = slice(None, batch.labels.shape[0])
        dreamed = slice(batch.labels.shape[0], None)
        images, labels, teacher = self.replay(state, task, batch, key)
        outputs, batch_stats = self.train_forward(state, images)
        old = self.classes(0, task.old)
        seen = self.classes(0, task.seen)
        logits, targets = outputs.logits, teacher.logits
        terms = {
            "class": losses.cross_entropy(logits[real], batch.labels, seen),
            "distillation": self.mu
            * losses.distillation(logits[real], targets[real], old, None, self.temperature),
            "dream_distillation": self.mu
            * losses.distillation(logits[dreamed], targets[dreamed], seen, old, self.temperature),
        }
        return self.observed_with_dreams(task, batch, logits, labels, terms, batch_stats)


@hyperparameters
class DeepInversionLwF(Dreaming):
    """Trains as LwF, and also distills dreamed images.

    Attributes:
      mu: weight of the distillation loss, at least 0.
      temperature: its softmax temperature, above 0.
    """

    mu: Weight = 0.1
    temperature: Rate = 2.0

    def observe(self, state, task, batch, key):
        """Computes cross entropy on real images and distillation of old classes on all images."""
        if task.is_first:
            return super().observe(state, task, batch, key)
        images, labels, teacher = self.replay(state, task, batch, key)
        outputs, batch_stats = self.train_forward(state, images)
        old = self.classes(0, task.old)
        seen = self.classes(0, task.seen)
        logits = outputs.logits[: batch.labels.shape[0]]
        terms = {
            "class": losses.cross_entropy(logits, batch.labels, seen),
            "distillation": self.mu
            * losses.distillation(outputs.logits, teacher.logits, old, None, self.temperature),
        }
        return self.observed_with_dreams(task, batch, outputs.logits, labels, terms, batch_stats)
