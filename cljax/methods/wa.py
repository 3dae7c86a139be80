"""Weight Aligning: Maintaining Discrimination and Fairness (Zhao et al., CVPR 2020)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.methods.lwf import GrowingHead, LearningWithoutForgetting
from cljax.models import CosineHead
from cljax.state import hyperparameters


@hyperparameters
class WeightAligning(GrowingHead, LearningWithoutForgetting):
    """Distills from the teacher, then scales new head columns to the mean norm of the old ones.

    Attributes:
      mu: factor of the distillation loss, at least 0; the other factor is the share of old classes.
    """

    supports_partial_batches: ClassVar[bool] = True

    def term_weights(self, task):
        """Weights both losses by the shares of new and old classes (section 4.1)."""
        old_share = task.old / task.seen
        return 1 - old_share, self.mu * old_share

    def after_task(self, state, task, data):
        """Aligns the head in later tasks, before the classifier becomes the teacher.

        Cosine logits do not depend on the norms of columns, so a cosine head stays as it is.
        """
        if not (task.is_first or isinstance(self.classifier.head, CosineHead)):
            head = state.params["head"]
            head = head | {"kernel": align(head["kernel"], task.old, task.seen)}
            state = state.replace(params=state.params | {"head": head})
        return super().after_task(state, task, data)


def align(kernel: jax.Array, old: jax.Array | int, seen: jax.Array | int) -> jax.Array:
    """Scales the new columns of a kernel to the mean norm of the old columns (WA, section 4.3).

    Args:
      kernel: float [D, K].
      old, seen: int32 []; columns 0..old-1 are old and old..seen-1 new, and both must exist.

    Returns:
      float [D, K]; only the new columns change.
    """
    size = kernel.shape[1]
    is_new = losses.class_range(size, old, seen)
    lengths = jnp.linalg.norm(kernel, axis=0)
    old_mean = jnp.where(losses.class_range(size, 0, old), lengths, 0.0).sum() / old
    new_mean = jnp.where(is_new, lengths, 0.0).sum() / (seen - old)
    return jnp.where(is_new, kernel * (old_mean / new_mean), kernel)
