"""iCaRL: Incremental Classifier and Representation Learning (Rebuffi et al., CVPR 2017)."""

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import nearest_mean
from cljax.methods.lwf import LearningWithoutForgetting
from cljax.state import hyperparameters


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
            old = self.classes(0, task.old)
            targets = jnp.where(
                old, jax.nn.sigmoid(self.teacher_outputs(state, batch).logits), targets
            )
        seen = self.classes(0, task.seen)
        loss = losses.binary_cross_entropy(outputs.logits, targets, seen)
        return self.observed(task, batch, outputs.logits, {"class": loss}, batch_stats)


@hyperparameters
class ICaRL(MultiClassLwF):
    """LwF.MC on new images and exemplars, and classification by the nearest mean of exemplars.

    Class means float [D, K] are `state.extras`, taken anew after each task. `forward` still gives
    the network's own logits.
    """

    @classmethod
    def from_parts(cls, parts, **fields):
        """Checks that there are exemplars."""
        method = super().from_parts(parts, **fields)
        if not (method.memory.size and method.memory.is_balanced):
            raise UserError(
                "config.exemplars: method 'icarl' classifies by the means of exemplars, so it "
                "needs some, and a strategy that keeps as many of each class"
            )
        return method

    def init(self, streams, image_shape):
        """Adds means, not used before the first task is learned."""
        state = super().init(streams, image_shape)
        return state.replace(extras=jnp.zeros_like(state.params["head"]["kernel"]))

    def after_task(self, state, task, data):
        """Exemplars, and their means in the features of the network as it is now."""
        state = super().after_task(state, task, data)
        return state.replace(extras=nearest_mean.exemplar_means(self, state, data))

    def inference(self, state, images, valid, k=1):
        """The k valid classes whose means are nearest."""
        features = self.classifier.apply(state.variables, images).features
        return losses.top_k(nearest_mean.similarities(features, state.extras), valid, k)
