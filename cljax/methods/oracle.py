"""Trains from scratch on the images of all tasks so far, after each task: the upper bound."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from cljax.methods.base import Finetune
from cljax.state import hyperparameters


@hyperparameters
class JointTraining(Finetune):
    """Trains on the images of all tasks so far ("UB" in the tables of the ABD paper).

    Each task starts from the initial parameters of the seed. Only the accuracy after the last task
    is the published bound; a run with one task of all classes computes it at the lowest cost.
    """

    is_joint: ClassVar[bool] = True
    supports_exemplars: ClassVar[bool] = False

    def before_task(self, state, task, data):
        """Initializes the state again in later tasks."""
        if task.is_first:
            return state
        one = jnp.zeros(1, jnp.int32)
        seen = jax.eval_shape(lambda: self.preprocessing.center(data.train_images[one]))
        fresh = self.init(state.streams, seen.shape[1:])
        return fresh.replace(opt_state=state.opt_state)
