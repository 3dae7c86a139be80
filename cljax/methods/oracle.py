"""The upper bound: a new classifier after every task, trained on all images so far."""

from typing import ClassVar

from cljax.methods.base import Finetune
from cljax.state import hyperparameters


@hyperparameters
class JointTraining(Finetune):
    """Plain cross entropy on the images of all tasks seen ("UB" of the ABD paper's tables).

    Nothing is carried over: each task starts from the seed's initial weights. Only the last task's
    accuracy is the published bound; the same with one task of all classes costs the least.
    """

    is_joint: ClassVar[bool] = True
    supports_exemplars: ClassVar[bool] = False

    def before_task(self, state, task, data):
        """The state before the first task."""
        if task.is_first:
            return state
        return self.init(state.streams, data.train_images.shape[1:]).replace(
            opt_state=state.opt_state
        )
