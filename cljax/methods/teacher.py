"""What methods share that have a teacher to distil from."""

from cljax.models import Outputs
from cljax.state import Batch, LearnerState


class TeacherMixin:
    """A method with a teacher, whose batch norm is as the field `teacher_mode` says.

    "eval": running statistics, as in the authors' code of all methods here. "train": the batch's
    own, as in LibContinual's.
    """

    def init(self, streams, image_shape):
        """Adds a teacher, not used before it is taken."""
        return super().init(streams, image_shape).with_teacher()

    def teacher_outputs(self, state: LearnerState, batch: Batch) -> Outputs:
        """What the teacher makes of a batch."""
        if self.teacher_mode == "eval":
            return self.classifier.apply(state.teacher, batch.images)
        # Its running statistics, which LibContinual lets move, are never read in train mode.
        return self.classifier.apply(
            state.teacher, batch.images, True, batch.weights, mutable=["batch_stats"]
        )[0]
