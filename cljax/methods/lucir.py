"""LUCIR: Learning a Unified Classifier Incrementally via Rebalancing (Hou et al., CVPR 2019)."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from cljax import losses
from cljax.errors import UserError
from cljax.memory import exemplars
from cljax.methods.base import Finetune, Observed
from cljax.methods.teacher import TeacherMixin
from cljax.models import CosineHead, Outputs, imprint
from cljax.settings import Positive, Weight
from cljax.stages import TrainStage
from cljax.state import Batch, LearnerState, PyTree, Task, hyperparameters

Forward = Callable[[LearnerState, jax.Array, jax.Array | None], tuple[Outputs, PyTree]]


@hyperparameters
class ClassBalancedFinetuning(TrainStage):
    """Trains only the head's kernel, on exemplars (stage `balance` of the ImageNet variant)."""

    observes: ClassVar[str] = "observe_in_eval_mode"

    def begin(self, method, state, task, data):
        """Selects exemplars, also of the new classes, before the stage."""
        return super().begin(method, method.choose_exemplars(state, task, data), task, data)

    def training_set(self, method, state, task, data):
        """Returns the exemplars."""
        return exemplars.as_subset(state.exemplars)

    def get_parameters(self, method, params, task):
        """Trains the head columns of the seen classes."""
        frozen = jax.tree.map(lambda _: False, params)
        return frozen | {"head": {"kernel": method.classes(0, task.seen), "scale": False}}


@hyperparameters
class LUCIR(TeacherMixin, Finetune):
    """Trains cosine logits with less-forget distillation, margin ranking and imprinted columns.

    Follows the LUCIR reference code.

    Attributes:
      finetuning_stage: stage `balance`, used if `balanced_finetuning`.
      lamda: base weight of the less-forget distillation (section 3.3), at least 0; multiplied by
        sqrt(old classes / new classes).
      margin: minimum difference between the cosine of the true old class and the cosines of its
        hard negatives (section 3.4), in cosine units, 0 to 2 (`dist`).
      num_hard_negatives: number of classes with the largest cosines that an image of an old class
        is ranked against (`K`).
      ranking_weight: weight of the margin ranking (`lw_mr`); 0: none.
      distillation: "features" (less-forget), "none", or an ablation of the reference code:
        "scores", or "logits" (softmax temperature 2, loss weight 1).
      hard_negatives: classes that hard negatives are selected from: "new" classes, or "all" seen
        classes as in a variant of the reference code.
      imprint_weights: whether new head columns are imprinted from features; if not, they stay
        random.
      balanced_finetuning: whether a later task ends with stage `balance`.
    """

    finetuning_stage: TrainStage
    lamda: Weight = 5.0
    margin: Annotated[float, Ge(0), Le(2)] = 0.5
    num_hard_negatives: Positive = 2
    ranking_weight: Weight = 1.0
    distillation: Literal["features", "scores", "logits", "none"] = "features"
    hard_negatives: Literal["new", "all"] = "new"
    imprint_weights: bool = True
    balanced_finetuning: bool = False

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds stage `balance`: 20 epochs at 10 % of the learning rate, weight decay 1e-4."""
        stage = parts.stage(ClassBalancedFinetuning, "balance", lr_scale=0.1)
        stage = dataclasses.replace(
            stage,
            epochs=parts.scaled(20),
            optimizer=dataclasses.replace(stage.optimizer, weight_decay=1e-4),
            schedule=stage.schedule.with_milestones((parts.scaled(10),)),
        )
        method = super().from_parts(parts, finetuning_stage=stage, **fields)
        if not isinstance(method.classifier.head, CosineHead):
            raise UserError(
                "config.model.head=linear: method 'lucir' needs the cosine head; set it to cosine"
            )
        if method.balanced_finetuning and not method.memory.size:
            raise UserError(
                "config.method.balanced_finetuning=True: needs exemplars; set "
                "config.exemplars.total or .per_class"
            )
        return method

    def check_tasks(self, task_sizes):
        """Checks that each later task has enough hard negatives."""
        wanted = self.num_hard_negatives
        fewest = min(task_sizes[1:], default=wanted)
        if self.ranking_weight and self.hard_negatives == "new" and fewest < wanted:
            raise UserError(
                f"config.method.num_hard_negatives={wanted}: a later task has only {fewest} new "
                f"classes; use at most {fewest}, or config.method.hard_negatives=all"
            )

    def stages(self, task_index, num_tasks):
        """Adds stage `balance` in later tasks if `balanced_finetuning` is set."""
        later = self.balanced_finetuning and task_index
        return (self.training, self.finetuning_stage) if later else (self.training,)

    def before_task(self, state, task, data):
        """Copies the teacher and imprints the new head columns, before a later task."""
        if task.is_first:
            return state
        state = state.with_teacher()
        if not self.imprint_weights:
            return state
        table = task.class_images
        num_images = table.shape[1] * (task.seen - task.old)
        features = self.features(state, data, table.reshape(-1), num_images)
        features = features.reshape(*table.shape, -1)
        head = state.params["head"]
        kernel = imprint(head["kernel"], features, task.class_image_counts, task.old)
        return state.replace(params=state.params | {"head": head | {"kernel": kernel}})

    def after_task(self, state, task, data):
        """Selects exemplars, unless stage `balance` has done so."""
        if self.balanced_finetuning and not task.is_first:
            return state
        return self.choose_exemplars(state, task, data)

    def get_parameters(self, params, task):
        """Trains all but the head columns of old and future classes.

        The ablations "scores" and "logits" also train the columns of old classes.
        """
        first = 0 if self.distillation in ("scores", "logits") else task.old
        trained = jax.tree.map(lambda _: True, params)
        return trained | {"head": trained["head"] | {"kernel": self.classes(first, task.seen)}}

    def observe(self, state, task, batch, key):
        """Computes the cross entropy and, in later tasks, distillation and margin ranking."""
        return self.observe_with(self.train_forward, state, task, batch)

    def observe_in_eval_mode(
        self, state: LearnerState, task: Task, batch: Batch, key: jax.Array
    ) -> Observed:
        """Computes the same losses with batch norm in eval mode, for stage `balance`."""
        return self.observe_with(self.eval_forward, state, task, batch)

    def observe_with(
        self, forward: Forward, state: LearnerState, task: Task, batch: Batch
    ) -> Observed:
        """Computes the losses of the outputs of `forward`, which is called as `train_forward`."""
        outputs, batch_stats = forward(state, batch.images, batch.weights)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            if self.distillation != "none":
                terms["distillation"] = self._distill(state, task, batch, outputs)
            negatives = self.classes(task.old if self.hard_negatives == "new" else 0, task.seen)
            count, margin = self.num_hard_negatives, self.margin
            terms["ranking"] = self.ranking_weight * losses.margin_ranking(
                outputs.scores, batch.labels, task.old, negatives, count, margin
            )
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def eval_forward(
        self, state: LearnerState, images: jax.Array, weights: jax.Array | None
    ) -> tuple[Outputs, PyTree]:
        """Passes images through the classifier in eval mode; arguments as in `train_forward`.

        Returns:
          The outputs, and the unchanged running statistics.
        """
        return self.classifier.apply(state.variables, images), state.batch_stats

    def _distill(self, state, task, batch, outputs):
        teacher, weights = self.teacher_outputs(state, batch), batch.weights
        old_classes = self.classes(0, task.old)
        if self.distillation == "logits":
            return losses.distillation(outputs.logits, teacher.logits, old_classes, weights=weights)
        if self.distillation == "scores":
            return losses.score_distance(outputs.scores, teacher.scores, old_classes, weights)
        distance = losses.cosine_distance(outputs.features, teacher.features, weights)
        old, new = (n.astype(distance.dtype) for n in (task.old, task.seen - task.old))
        return self.lamda * jnp.sqrt(old / new) * distance
