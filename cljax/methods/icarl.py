"""iCaRL: Incremental Classifier and Representation Learning (Rebuffi et al., CVPR 2017)."""

from typing import Literal

import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import nearest_mean
from cljax.methods.lwf import MultiClassLwF
from cljax.state import hyperparameters


@hyperparameters
class ICaRL(MultiClassLwF):
    """LwF.MC on new images and exemplars, and classification by the nearest mean of exemplars.

    Class means float [D, K] are `state.extras`, taken anew after each task. `forward` still gives
    the network's own logits.

    Attributes:
      loss: "sigmoid", the paper's; or "softmax", LibContinual's: LwF's cross entropy and
        distillation, for which alone `mu` and `temperature` count.
    """

    loss: Literal["sigmoid", "softmax"] = "sigmoid"

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

    def observe(self, state, task, batch, key):
        """The paper's loss or LibContinual's."""
        if self.loss == "sigmoid":
            return super().observe(state, task, batch, key)
        return super(MultiClassLwF, self).observe(state, task, batch, key)

    def after_task(self, state, task, data):
        """Exemplars, and their means in the features of the network as it is now."""
        state = super().after_task(state, task, data)
        return state.replace(extras=nearest_mean.exemplar_means(self, state, data))

    def inference(self, state, images, valid, k=1):
        """The k valid classes whose means are nearest."""
        features = self.classifier.apply(state.variables, images).features
        return losses.top_k(nearest_mean.similarities(features, state.extras), valid, k)
