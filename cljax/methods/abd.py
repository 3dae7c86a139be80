"""Always Be Dreaming (Smith et al., ICCV 2021, arXiv 2106.09701)."""

import jax

from cljax import losses
from cljax.methods.dreaming import Dreaming
from cljax.models.norm import repeat_statistics_update
from cljax.settings import Weight
from cljax.state import hyperparameters


@hyperparameters
class AlwaysBeDreaming(Dreaming):
    """Replays dreamed images of old classes; needs no stored images.

    Follows the ABD reference code where it differs from the paper: the cross entropy of the first
    task and the fine-tuning of the head run over all K logits, future classes included; class
    weights are shares of classes; running statistics move twice per step.

    Attributes:
      mu: weight of the feature distillation (equation 13), at least 0.
    """

    mu: Weight = 0.1

    def has_class_loss(self, old, new):
        """Whether the local loss of a later task has classes to tell apart."""
        return new > 1 or not old

    def observe(self, state, task, batch, key):
        """Computes the cross entropy of the first task, or the three losses of later tasks."""
        if task.is_first:
            return self._observe_first(state, task, batch)
        num_real = batch.labels.shape[0]
        images, labels, teacher = self.replay(state, task, batch, key)
        old = self.classes(0, task.old)
        new = self.classes(task.old, task.seen)
        weights = losses.class_share_weights(labels, task.old, task.seen)

        outputs, batch_stats = self.train_forward(state, images)
        detached = jax.lax.stop_gradient(outputs.features)
        head_logits = self.classifier.apply(state.variables, detached, method="classify")
        terms = {
            # Equation 11: new classes against each other, on real images only.
            "local": losses.cross_entropy(
                outputs.logits[:num_real], batch.labels, new, weights[:num_real]
            ),
            # Equation 14: the head alone, on frozen features of real and dreamed images.
            "head": losses.cross_entropy(head_logits, labels, weights=weights),
            # Equation 13: features, weighted by the head of the teacher.
            "distillation": self.mu
            * losses.weighted_feature_distance(
                outputs.features,
                teacher.features,
                state.teacher["params"]["head"]["kernel"],
                old,
            ),
        }
        # The reference code passes the batch through the network twice, once for frozen features.
        batch_stats = repeat_statistics_update(state.batch_stats, batch_stats)
        return self.observed_with_dreams(task, batch, outputs.logits, labels, terms, batch_stats)

    def _observe_first(self, state, task, batch):
        outputs, batch_stats = self.train_forward(state, batch.images)
        loss = losses.cross_entropy(outputs.logits, batch.labels)
        return self.observed(task, batch, outputs.logits, {"class": loss}, batch_stats)
