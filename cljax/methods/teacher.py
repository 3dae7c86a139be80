"""Defines the mixin for methods that distill from a teacher."""

from typing import ClassVar

from cljax.methods.base import Finetune
from cljax.models import Outputs
from cljax.state import Batch, LearnerState


class TeacherMixin(Finetune):
    """Mixin for methods with a teacher, a frozen copy of the classifier after the previous task."""

    folds_teacher: ClassVar[bool] = True

    def init(self, streams, image_shape):
        """Adds a teacher, which the first task does not use."""
        return super().init(streams, image_shape).with_teacher()

    def teacher_outputs(self, state: LearnerState, batch: Batch) -> Outputs:
        """Computes the teacher's outputs for a batch, in eval mode."""
        return self.classifier.apply(state.teacher, batch.images)
