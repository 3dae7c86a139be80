"""End-to-End Incremental Learning (Castro et al., ECCV 2018), as the ABD paper compares it."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import exemplars
from cljax.methods.lwf import LearningWithoutForgetting
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, Task, hyperparameters


@hyperparameters
class BalancedFinetuning(TrainStage):
    """The second stage: the head alone on the exemplars, new classes included.

    The network is in train mode, so running statistics move although nothing but the head does.
    """

    observes: ClassVar[str] = "observe_balanced"

    def begin(self, method, state, task, data):
        """Exemplars of the new classes are chosen already now."""
        state = method.choose_exemplars(state, task, data)
        if method.new_class_teacher == "current":
            state = state.replace(extras=jax.tree.map(jnp.copy, state.variables))
        return super().begin(method, state, task, data)

    def training_set(self, method, state, task, data):
        """The exemplars."""
        return exemplars.as_subset(state.exemplars)

    def get_parameters(self, method, params, task):
        """The head."""
        frozen = jax.tree.map(lambda _: False, params)
        return frozen | {"head": jax.tree.map(lambda _: True, params["head"])}


@hyperparameters
class EndToEnd(LearningWithoutForgetting):
    """Distillation task by task, then balanced fine-tuning of the head.

    Attributes:
      balancing: the second stage.
      new_class_teacher: who teaches the new classes in the second stage. "previous", as the
        released code: the previous teacher's logits of its first classes, as many as there are new
        ones. "current": the classifier's own logits of the new classes before the stage.
    """

    balancing: TrainStage | None = None
    new_class_teacher: Literal["previous", "current"] = "previous"

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the second stage, with a hundredth of the learning rate."""
        balancing = parts.stage(BalancedFinetuning, "balance", lr_scale=0.01)
        method = super().from_parts(parts, balancing=balancing, **fields)
        if not (method.memory.size and method.memory.is_balanced):
            raise UserError(
                "config.exemplars: method 'e2e' balances with exemplars, so it needs some, and a "
                "strategy that keeps as many of each class"
            )
        return method

    def check_tasks(self, task_sizes):
        """The released code's last term needs as many old classes as new ones."""
        for index in range(1, len(task_sizes)):
            old, new = sum(task_sizes[:index]), task_sizes[index]
            if self.new_class_teacher == "previous" and new > old:
                raise UserError(
                    f"method e2e, as released, cannot learn task {index + 1}: {new} new "
                    f"classes are more than the {old} old ones whose logits teach them; set "
                    "config.method.new_class_teacher=current"
                )

    def init(self, streams, image_shape):
        """Adds the second teacher, if there is to be one."""
        state = super().init(streams, image_shape)
        if self.new_class_teacher == "current":
            state = state.replace(extras=jax.tree.map(jnp.copy, state.variables))
        return state

    def stages(self, task_index, num_tasks):
        """The first task has nothing to balance."""
        return (self.training, self.balancing) if task_index else (self.training,)

    def after_task(self, state, task, data):
        """Later tasks' exemplars have been chosen between the stages."""
        state = self.choose_exemplars(state, task, data) if task.is_first else state
        return state.with_teacher()

    def observe(self, state, task, batch, key):
        """First stage: distillation with weight |P_i| / o for each past task P_i."""
        outputs, batch_stats = self.train_forward(state, batch.images)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            teacher = self.teacher_outputs(state, batch)
            parts = self.distillation_by_task(outputs.logits, teacher.logits, task)
            terms["distillation"] = self.mu * parts.sum() / task.old
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def observe_balanced(self, state: LearnerState, task: Task, batch: Batch, key: jax.Array):
        """Second stage: weights |P_i| / s, and the new classes with n / s."""
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
        """Distillation within each past task, times its number of classes.

        logits, teacher_logits float [B, K] -> float [T], 0 for tasks that are not past.
        """
        starts, stops = task.boundaries[:-1], task.boundaries[1:]

        def distil(start, stop):
            valid = self.classes(start, stop)
            return losses.distillation(
                logits, teacher_logits, valid, temperature=self.temperature
            ) * (stop - start)

        return jnp.where(stops <= task.old, jax.vmap(distil)(starts, stops), 0.0)
