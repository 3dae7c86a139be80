"""End-to-End Incremental Learning (Castro et al., ECCV 2018), as the ABD paper compares it."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import exemplars
from cljax.methods.base import Observed
from cljax.methods.lwf import LearningWithoutForgetting
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, Task, hyperparameters


@hyperparameters
class BalancedFinetuning(TrainStage):
    """Trains only the head, on exemplars of all seen classes (stage `balance`).

    The classifier is in train mode: the running statistics of the backbone move too.
    """

    observes: ClassVar[str] = "observe_balanced"

    def begin(self, method, state, task, data):
        """Selects exemplars, also of the new classes, before the stage."""
        state = method.choose_exemplars(state, task, data)
        if method.new_class_teacher == "current":
            state = state.replace(extras=jax.tree.map(jnp.copy, state.variables))
        return super().begin(method, state, task, data)

    def training_set(self, method, state, task, data):
        """Returns the exemplars."""
        return exemplars.as_subset(state.exemplars)

    def get_parameters(self, method, params, task):
        """Trains the head."""
        frozen = jax.tree.map(lambda _: False, params)
        return frozen | {"head": jax.tree.map(lambda _: True, params["head"])}


@hyperparameters
class EndToEnd(LearningWithoutForgetting):
    """Distills the classes of each previous task, then fine-tunes the head on balanced exemplars.

    Attributes:
      balancing_stage: stage `balance`.
      new_class_teacher: targets of the n new classes in stage `balance`. "previous", as in the ABD
        reference code: the teacher's logits of the first n classes. "current": the classifier's own
        logits of the new classes before the stage.
    """

    extras_name: ClassVar[str] = "new_class_teacher"

    balancing_stage: TrainStage | None = None
    new_class_teacher: Literal["previous", "current"] = "previous"

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds stage `balance`, with 1 % of the learning rate."""
        stage = parts.stage(BalancedFinetuning, "balance", lr_scale=0.01)
        method = super().from_parts(parts, balancing_stage=stage, **fields)
        if not (method.memory.size and method.memory.is_balanced):
            raise UserError(
                "config.exemplars: method 'e2e' needs exemplars with equal numbers per class; set "
                ".total or .per_class and a balanced .strategy such as nearest"
            )
        return method

    def check_tasks(self, task_sizes):
        """Checks that no later task has more new than old classes, for "previous" targets."""
        for index in range(1, len(task_sizes)):
            old, new = sum(task_sizes[:index]), task_sizes[index]
            if self.new_class_teacher == "previous" and new > old:
                raise UserError(
                    f"config.method.new_class_teacher=previous: task {index + 1} has {new} new "
                    f"classes, more than the {old} old ones whose logits are their targets; set it "
                    "to current"
                )

    def init(self, streams, image_shape):
        """Adds the teacher of the new classes if `new_class_teacher` is "current"."""
        state = super().init(streams, image_shape)
        if self.new_class_teacher == "current":
            state = state.replace(extras=jax.tree.map(jnp.copy, state.variables))
        return state

    def stages(self, task_index, num_tasks):
        """Adds stage `balance` in later tasks."""
        return (self.training, self.balancing_stage) if task_index else (self.training,)

    def after_task(self, state, task, data):
        """Selects exemplars after the first task; stage `balance` did so in later ones."""
        state = self.choose_exemplars(state, task, data) if task.is_first else state
        return state.with_teacher()

    def observe(self, state, task, batch, key):
        """Computes cross entropy and distillation.

        Previous task P_i has the loss weight |P_i| / o, o being the number of old classes.
        """
        outputs, batch_stats = self.train_forward(state, batch.images)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            teacher = self.teacher_outputs(state, batch)
            parts = self.distillation_by_task(outputs.logits, teacher.logits, task)
            terms["distillation"] = self.mu * parts.sum() / task.old
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def observe_balanced(
        self, state: LearnerState, task: Task, batch: Batch, key: jax.Array
    ) -> Observed:
        """Computes the loss of stage `balance`.

        Of s seen classes, n are new. Distillation has the loss weight |P_i| / s for previous task
        P_i, and n / s for the new classes.
        """
        outputs, batch_stats = self.train_forward(state, batch.images)
        logits = outputs.logits
        teacher = self.teacher_outputs(state, batch).logits
        if self.new_class_teacher == "previous":
            targets = jnp.roll(teacher, task.old, axis=-1)
        else:
            targets = self.classifier.apply(state.extras, batch.images).logits
        new = self.classes(task.old, task.seen)
        parts = self.distillation_by_task(logits, teacher, task)
        last = losses.distillation(logits, targets, new, temperature=self.temperature)
        terms = {
            "class": self.class_loss(logits, task, batch),
            "distillation": self.mu * parts.sum() / task.seen,
            "new_distillation": self.mu * last * (task.seen - task.old) / task.seen,
        }
        return self.observed(task, batch, logits, terms, batch_stats)

    def distillation_by_task(
        self, logits: jax.Array, teacher_logits: jax.Array, task: Task
    ) -> jax.Array:
        """Computes the distillation loss within each previous task, times its number of classes.

        Args:
          logits, teacher_logits: float [B, K].
          task: current task.

        Returns:
          float [T]; 0 for the current task and later ones.
        """
        starts, stops = task.boundaries[:-1], task.boundaries[1:]

        def distill(start, stop):
            valid = self.classes(start, stop)
            return losses.distillation(
                logits, teacher_logits, valid, temperature=self.temperature
            ) * (stop - start)

        return jnp.where(stops <= task.old, jax.vmap(distill)(starts, stops), 0.0)
