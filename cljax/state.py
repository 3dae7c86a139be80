"""Defines the arrays that change during a run, and what compiled functions are told of a task.

Axis letters used throughout: B batch, C channels, D features, H and W image sides, K classes of
the head, N images, T tasks.
"""

import dataclasses
import typing
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from cljax.compute.host_images import HostImages
from cljax.compute.packing import pack
from cljax.rng import Streams

PyTree = Any
T = TypeVar("T")


@typing.dataclass_transform(frozen_default=True)
def hyperparameters(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass whose `float` fields are traced and all others static.

    Objects travel into compiled functions as arguments: another value of a float field (a loss
    weight, a temperature) is the same program and may be an axis of `vmap`; another value of any
    other field (a network, a step count) is another program. Fields that hold objects of such a
    class are passed on to their own fields.
    """
    made: Any = dataclasses.dataclass(frozen=True)(cls)
    types = typing.get_type_hints(made)
    names = [field.name for field in dataclasses.fields(made)]
    traced = [n for n in names if types[n] is float or hasattr(types[n], "is_hyperparameters")]
    static = [n for n in names if n not in traced]
    made.is_hyperparameters = True

    def flatten(self):
        # The class is part of the key: `jax.tree_util.register_dataclass` takes two classes with
        # equal fields for the same, and then runs one's compiled program for the other.
        values = [(jax.tree_util.GetAttrKey(n), getattr(self, n)) for n in traced]
        return values, (made, *(getattr(self, n) for n in static))

    def unflatten(key, values):
        result = object.__new__(made)
        for name, value in zip([*static, *traced], [*key[1:], *values], strict=True):
            object.__setattr__(result, name, value)
        return result

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made


class Canvases(struct.PyTreeNode):
    """Holds images of different sizes, each in the top left corner of a square of one size.

    Attributes:
      pixels: uint8 [N, S, S, C], or what gives such arrays for rows.
      sizes: int32 [N, 2], heights and widths of the images.
    """

    pixels: Any
    sizes: jax.Array

    def __getitem__(self, rows: jax.Array) -> "Canvases":
        """Returns the images of rows int32 [B]."""
        return Canvases(self.pixels[rows], self.sizes[rows])


LANES = 128  # to which a TPU pads the last axis of an array


class RowImages(struct.PyTreeNode):
    """Holds images of one size as a TPU stores them without padding.

    Attributes:
      rows: uint8 [N, R, LANES], each image as R rows of bytes.
      image_shape: (H, W, C).
    """

    rows: jax.Array
    image_shape: tuple[int, int, int] = struct.field(pytree_node=False)

    def __getitem__(self, indices: jax.Array) -> jax.Array:
        """Returns images of indices int32 [B]: uint8 [B, H, W, C]."""
        return self.rows[indices].reshape(*indices.shape, *self.image_shape)


class Data(struct.PyTreeNode):
    """Holds the dataset, shared by all seeds: on the device, or with its images on the host.

    Attributes:
      train_images: uint8 [N, H, W, C], or canvases; `train_images[rows]` takes them in whatever
        form and place they are.
      train_labels: int32 [N], class ids.
      eval_images: uint8 [M, H, W, C], or canvases, the test images (in validation mode the training
        images).
      eval_labels: int32 [M].
    """

    train_images: jax.Array | RowImages | HostImages | Canvases
    train_labels: jax.Array
    eval_images: jax.Array | RowImages | HostImages | Canvases
    eval_labels: jax.Array

    @property
    def train_pixels(self) -> Any:
        """Pixels of the training images, or of their canvases."""
        images = self.train_images
        return images.pixels if isinstance(images, Canvases) else images


class Subset(struct.PyTreeNode):
    """Lists some training images: indices int32 [capacity], padded at the end; count int32 []."""

    indices: jax.Array
    count: jax.Array


class Exemplars(struct.PyTreeNode):
    """Lists the exemplars of a learner.

    Attributes:
      indices: int32 [M], by ascending label, within a class best first; padded at the end.
      counts: int32 [K], number of exemplars of each label.
    """

    indices: jax.Array
    counts: jax.Array


class Task(struct.PyTreeNode):
    """Describes one task of one seed.

    Attributes:
      index: int32 [], number of the task, from 0.
      old: int32 [], number of old classes; the new ones have the labels old..seen-1.
      seen: int32 [], number of seen classes.
      past_images: int32 [], number of training images of all previous tasks.
      boundaries: int32 [T + 1], task j has the labels boundaries[j]..boundaries[j+1]-1; tasks
        after `max_tasks` are included.
      images: images to train on: those of the task in file order (joint training: of all tasks so
        far); within a stage, those of the stage.
      class_images: int32 [classes of the largest task, images of the largest class], the images of
        each new class in file order; padded.
      class_image_counts: int32 [classes of the largest task].
      label_map: int32 [classes of the dataset], label of each class id.
      is_first: whether this is the first task; later tasks have other compiled programs.
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
        """Returns the labels of images, int32 [capacity]; K for padding."""
        labels = self.label_map[data.train_labels[images.indices]]
        places = jnp.arange(images.indices.shape[0])
        return jnp.where(places < images.count, labels, self.label_map.shape[0])


class Batch(struct.PyTreeNode):
    """Holds a training batch.

    Attributes:
      images: float [B, H, W, C], standardized.
      labels: int32 [B]; padding has the label of the first new class.
      class_counts: int32 [K], number of images of each class in the training set of the stage.
      weights: float [B], sample weights: B / (number of images) for images and 0 for padding, so
        that the mean of weighted rows is the mean over images; None if all rows are images.
    """

    images: jax.Array
    labels: jax.Array
    class_counts: jax.Array
    weights: jax.Array | None = None


class GeneratorState(struct.PyTreeNode):
    """Holds the parameters of a generator, its running statistics and its Adam state."""

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


class LearnerState(struct.PyTreeNode):
    """Holds what one seed has learned.

    Attributes:
      params, batch_stats: variables of the classifier and of networks trained with it.
      opt_state: optimizer state of the running stage.
      teacher: variables of the teacher, or None.
      generator: state of the generator, or None.
      exemplars: exemplars, or None for runs without.
      streams: seeds of the random streams.
      extras: other values that a method remembers.
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
        """Variables of the classifier as Flax takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def with_teacher(self) -> "LearnerState":
        """Returns the state with a copy of the classifier, as it is now, as teacher."""
        return self.replace(teacher=jax.tree.map(jnp.copy, self.variables))


class EpochState(struct.PyTreeNode):
    """Holds one seed's state within an epoch; between epochs there is the learner state alone.

    Attributes:
      learner: learner state.
      sums: float32 [] by name, metrics summed over the steps done.
      step: int32 [], number of steps done.
    """

    learner: LearnerState
    sums: dict[str, jax.Array]
    step: jax.Array
    is_of_one_seed: ClassVar[bool] = True

    def pack(self) -> "EpochState":
        """Returns the state with what every step of training changes in few arrays."""
        learner = self.learner.replace(
            params=pack(self.learner.params),
            batch_stats=pack(self.learner.batch_stats),
            opt_state=pack(self.learner.opt_state),
        )
        return self.replace(learner=learner, sums=pack(self.sums))
