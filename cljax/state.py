"""Everything that changes during a run, and what a compiled function is told about its task.

Axis letters used throughout: B batch, C channels, D features, H and W image sides, K classes of
the head, N images, T tasks.
"""

import dataclasses
import typing
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from cljax.rng import Streams

PyTree = Any


def hyperparameters(cls):
    """Makes `cls` a frozen dataclass whose `float` fields are traced and all others static.

    Objects travel into compiled functions as arguments: another value of a float field (a loss
    weight, a temperature) is the same program and may be an axis of `vmap`; another value of any
    other field (a network, a step count) is another program. Fields that hold objects of such a
    class are passed on to their own fields.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    types = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    traced = [n for n in names if types[n] is float or hasattr(types[n], "is_hyperparameters")]
    static = [n for n in names if n not in traced]
    cls.is_hyperparameters = True

    def flatten(self):
        # The class is part of the key: `jax.tree_util.register_dataclass` takes two classes with
        # equal fields for the same, and then runs one's compiled program for the other.
        values = [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in traced]
        return values, (cls, *(getattr(self, n) for n in static))

    def unflatten(key, values):
        result = object.__new__(cls)
        for name, value in zip([*static, *traced], [*key[1:], *values], strict=True):
            object.__setattr__(result, name, value)
        return result

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


@struct.dataclass
class Data:
    """The data set on the device, shared by all seeds.

    Attributes:
      train_images: uint8 [N, H, W, C].
      train_labels: int32 [N], the data set's own class numbers.
      eval_images: uint8 [M, H, W, C], the test images (in validation mode the training images).
      eval_labels: int32 [M].
    """

    train_images: jax.Array
    train_labels: jax.Array
    eval_images: jax.Array
    eval_labels: jax.Array


@struct.dataclass
class Subset:
    """Some training images: indices int32 [capacity], padded behind; count int32 []."""

    indices: jax.Array
    count: jax.Array


@struct.dataclass
class Exemplars:
    """Images of earlier tasks that a learner keeps.

    Attributes:
      indices: int32 [M], in ascending label, within a class best first; padded behind.
      counts: int32 [K], images of each label.
    """

    indices: jax.Array
    counts: jax.Array


@struct.dataclass
class Task:
    """One task of one seed.

    Attributes:
      index: int32 [], counted from 0.
      old: int32 [], classes of earlier tasks; the new ones have the labels old..seen-1.
      seen: int32 [], classes of this and earlier tasks.
      past_images: int32 [], training images of all earlier tasks.
      boundaries: int32 [T + 1], task j has the labels boundaries[j]..boundaries[j+1]-1.
      images: what is trained on: the task's images in file order (joint training: those of all
        tasks so far); within a stage, the stage's images.
      class_images: int32 [classes of the largest task, images of the largest class], the images of
        each new class in file order; padded.
      class_image_counts: int32 [classes of the largest task].
      label_map: int32 [K], place of each class in the class order.
      is_first: the first task and the later ones are different programs.
    """

    index: jax.Array
    old: jax.Array
    seen: jax.Array
    past_images: jax.Array
    boundaries: jax.Array
    images: Subset
    class_images: jax.Array
    class_image_counts: jax.Array
    label_map: jax.Array
    is_first: bool = struct.field(pytree_node=False)
    is_of_one_seed: ClassVar[bool] = True

    def labels(self, data: Data, images: Subset) -> jax.Array:
        """Places of the images' classes in the class order, int32 [capacity]; K for padding."""
        labels = self.label_map[data.train_labels[images.indices]]
        places = jnp.arange(images.indices.shape[0])
        return jnp.where(places < images.count, labels, self.label_map.shape[0])


@struct.dataclass
class Batch:
    """A training batch.

    Attributes:
      images: float [B, H, W, C], normalised.
      labels: int32 [B], places in the class order; padding has that of the first new class.
      class_counts: int32 [K], images of each class in the whole training set of the stage.
      weights: float [B], B over the number of images for images and 0 for padding, so that a mean
        of weighted rows is the mean over images; None if all rows are images.
    """

    images: jax.Array
    labels: jax.Array
    class_counts: jax.Array
    weights: jax.Array | None = None


@struct.dataclass
class GeneratorState:
    """The image generator with its running statistics and the state of its Adam optimiser."""

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


@struct.dataclass
class LearnerState:
    """One seed's learner.

    Attributes:
      params, batch_stats: the classifier's variables, and whatever else is trained with it.
      opt_state: of the running stage's optimiser.
      teacher: variables of the frozen previous classifier, or None for methods without one.
      generator: the image generator, or None.
      exemplars: images kept of earlier tasks, or None for methods without memory.
      streams: the seeds of the random streams.
      extras: whatever else a method remembers.
    """

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    teacher: PyTree
    generator: GeneratorState | None
    exemplars: Exemplars | None
    streams: Streams
    extras: PyTree = None
    is_of_one_seed: ClassVar[bool] = True

    @property
    def variables(self) -> dict[str, PyTree]:
        """The classifier's variables as Flax takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def with_teacher(self) -> "LearnerState":
        """The state with a copy of the classifier, as it is now, for teacher."""
        return self.replace(teacher=jax.tree.map(jnp.copy, self.variables))


@struct.dataclass
class EpochState:
    """One seed's state within an epoch; between epochs there is the learner alone.

    Attributes:
      learner: the learner.
      sums: float32 [] by name, the metrics added up over the steps done.
      step: int32 [], number of steps done.
    """

    learner: LearnerState
    sums: dict[str, jax.Array]
    step: jax.Array
    is_of_one_seed: ClassVar[bool] = True
