"""LUCIR: Learning a Unified Classifier Incrementally via Rebalancing (Hou et al., CVPR 2019)."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.errors import UserError
from cljax.memory import exemplars
from cljax.methods.base import Finetune
from cljax.methods.teacher import TeacherMixin
from cljax.models import CosineHead, imprint
from cljax.stages import TrainStage
from cljax.state import hyperparameters


@hyperparameters
class ClassBalancedFinetuning(TrainStage):
    """The extra stage of the ImageNet variant: the head's kernel on the exemplars alone."""

    observes: ClassVar[str] = "observe_in_eval_mode"

    def begin(self, method, state, task, data):
        """Exemplars of the new classes are chosen already now."""
        return super().begin(method, method.choose_exemplars(state, task, data), task, data)

    def training_set(self, method, state, task, data):
        """The exemplars."""
        return exemplars.as_subset(state.exemplars)

    def get_parameters(self, method, params, task):
        """The kernel's columns of the classes seen."""
        frozen = jax.tree.map(lambda _: False, params)
        return frozen | {"head": {"kernel": method.classes(0, task.seen), "scale": False}}


@hyperparameters
class LUCIR(TeacherMixin, Finetune):
    """Cosine logits, less-forget distillation, margin ranking, imprinted and frozen weights.

    Follows the authors' released code.

    Attributes:
      finetuning: the extra stage, used if `balanced_finetuning`.
      lamda: weight of the distillation, times the root of old over new classes in each phase.
      margin: least distance between the cosine of an old class's own column and those of its hard
        negatives, 0 to 2 (`dist`).
      num_hard_negatives: classes of largest cosine that an image of an old class is ranked
        against (`K`).
      ranking_weight: weight of the margin ranking (`lw_mr`); 0: none.
      distillation: "features" (less-forget), the authors' ablations "scores" and "logits"
        (softened, temperature 2, weight 1), or "none".
      hard_negatives: are among the "new" classes or "all" seen ones, as in a variant of the code.
      imprint_weights: whether new head columns are taken from features; else they stay random.
      balanced_finetuning: whether a later phase ends with class-balanced fine-tuning.
    """

    finetuning: TrainStage
    lamda: float = 5.0
    margin: float = 0.5
    num_hard_negatives: int = 2
    ranking_weight: float = 1.0
    distillation: Literal["features", "scores", "logits", "none"] = "features"
    hard_negatives: Literal["new", "all"] = "new"
    imprint_weights: bool = True
    balanced_finetuning: bool = False

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the extra stage: 20 epochs at a tenth of the rate, weight decay 1e-4."""
        finetuning = parts.stage(ClassBalancedFinetuning, "balance", lr_scale=0.1)
        finetuning = dataclasses.replace(
            finetuning,
            epochs=parts.scaled(20),
            optimizer=dataclasses.replace(
                finetuning.optimizer, weight_decay=1e-4, milestones=(parts.scaled(10),)
            ),
        )
        method = super().from_parts(parts, finetuning=finetuning, **fields)
        if not isinstance(method.classifier.head, CosineHead):
            raise UserError("config.model.head: method 'lucir' needs the cosine head")
        if method.balanced_finetuning and not method.memory.size:
            raise UserError(
                "config.method.balanced_finetuning: without exemplars there is nothing to balance"
            )
        return method

    def check_tasks(self, task_sizes):
        """Each later task must have enough hard negatives."""
        wanted = self.num_hard_negatives
        fewest = min(task_sizes[1:], default=wanted)
        if self.ranking_weight and self.hard_negatives == "new" and fewest < wanted:
            raise UserError(
                f"config.method.num_hard_negatives: {wanted} is more than the {fewest} classes of "
                "a later task"
            )

    def stages(self, task_index, num_tasks):
        """Class-balanced fine-tuning comes after a later phase, if at all."""
        later = self.balanced_finetuning and task_index
        return (self.training, self.finetuning) if later else (self.training,)

    def before_task(self, state, task, data):
        """Teacher and imprinted weights, from the classifier as the previous phase left it."""
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
        """Exemplars, unless fine-tuning has chosen them."""
        if self.balanced_finetuning and not task.is_first:
            return state
        return self.choose_exemplars(state, task, data)

    def get_parameters(self, params, task):
        """All but the weights of old classes; those of classes to come wait unchanged."""
        first = 0 if self.distillation in ("scores", "logits") else task.old
        trained = jax.tree.map(lambda _: True, params)
        return trained | {"head": trained["head"] | {"kernel": self.classes(first, task.seen)}}

    def observe(self, state, task, batch, key):
        """Cross entropy; in later phases with distillation and margin ranking."""
        return self.observe_with(self.train_forward, state, task, batch)

    def observe_in_eval_mode(self, state, task, batch, key):
        """The same losses with batch norm in eval mode, for class-balanced fine-tuning."""
        return self.observe_with(self.eval_forward, state, task, batch)

    def observe_with(self, forward, state, task, batch):
        """`observe` of what `forward(state, images, weights)` gives, as `train_forward` does."""
        outputs, batch_stats = forward(state, batch.images, batch.weights)
        terms = {"class": self.class_loss(outputs.logits, task, batch)}
        if not task.is_first:
            if self.distillation != "none":
                terms["distillation"] = self._distil(state, task, batch, outputs)
            negatives = self.classes(task.old if self.hard_negatives == "new" else 0, task.seen)
            count, margin = self.num_hard_negatives, self.margin
            terms["ranking"] = self.ranking_weight * losses.margin_ranking(
                outputs.scores, batch.labels, task.old, negatives, count, margin
            )
        return self.observed(task, batch, outputs.logits, terms, batch_stats)

    def eval_forward(self, state, images, weights):
        """Outputs in eval mode, and the running statistics as they are."""
        return self.classifier.apply(state.variables, images), state.batch_stats

    def _distil(self, state, task, batch, outputs):
        teacher, weights = self.teacher_outputs(state, batch), batch.weights
        old_classes = self.classes(0, task.old)
        if self.distillation == "logits":
            return losses.distillation(outputs.logits, teacher.logits, old_classes, weights=weights)
        if self.distillation == "scores":
            return losses.score_distance(outputs.scores, teacher.scores, old_classes, weights)
        distance = losses.cosine_distance(outputs.features, teacher.features, weights)
        old, new = (n.astype(distance.dtype) for n in (task.old, task.seen - task.old))
        return self.lamda * jnp.sqrt(old / new) * distance
