"""Computes the accuracy on the test images of all seen tasks, in one compiled pass."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cljax import losses
from cljax.compute.executor import Executor
from cljax.compute.mesh import shard_batch
from cljax.compute.per_seed import PerSeed
from cljax.data.streams import TaskStream
from cljax.memory import nearest_mean
from cljax.settings import EvaluationSettings
from cljax.state import Data, LearnerState, Subset, hyperparameters

# Test images per step where the config has 0: as many as a core's cache holds, if each core has its
# own steps, or enough to use many cores.
BATCH_ON_ONE_CORE, BATCH = 32, 256


class EvaluationSet(struct.PyTreeNode):
    """Holds one seed's test images, sorted by task: those of the tasks so far are a prefix.

    Attributes:
      indices: int32 [capacity], into the evaluation images; a multiple of the batch size.
      stop: int32 [], number of test images of the tasks so far.
      tasks: int32 [capacity], task of each image.
      boundaries: int32 [T + 1], task j has the labels boundaries[j]..boundaries[j+1]-1; tasks after
        `max_tasks` are included.
      seen: int32 [], number of seen classes.
      label_map: int32 [classes of the dataset], label of each class id.
      train_images: all training images of the seen classes.
    """

    indices: jax.Array
    stop: jax.Array
    tasks: jax.Array
    boundaries: jax.Array
    seen: jax.Array
    label_map: jax.Array
    train_images: Subset
    is_of_one_seed: ClassVar[bool] = True


@hyperparameters
class Evaluation:
    """Says how accuracy is measured.

    Attributes:
      batch_size: test images per step; 0: what is fast on the device.
      top_k: a prediction is correct if the class is among the k likeliest.
      read_outs: names of read-outs to evaluate in addition to the method's own.
      mirror: mirrored images in class means, a key of `nearest_mean.MIRRORS`.
    """

    batch_size: int
    top_k: int = 1
    read_outs: tuple[str, ...] = ()
    mirror: str = "none"

    @classmethod
    def from_settings(cls, settings: EvaluationSettings) -> "Evaluation":
        """Takes over the settings of a run."""
        return cls(settings.batch_size, settings.top_k, settings.read_outs, settings.mirror)


class EvaluationInput(NamedTuple):
    """What the steps of an evaluation are given. For all seeds, the last three are `PerSeed`.

    Attributes:
      method: the method, a `Finetune`.
      settings: batch size, top-k and read-outs.
      data: the dataset on the device.
      state: the learner.
      images: its evaluation set.
      means: by read-out, the class means float [K, D] that `find_means` computes.
    """

    method: Any
    settings: Evaluation
    data: Data
    state: LearnerState
    images: EvaluationSet
    means: dict[str, jax.Array]


def evaluate(
    executor: Executor,
    method: Any,
    data: Data,
    streams: Sequence[TaskStream],
    states: PerSeed[LearnerState],
    task: int,
    settings: Evaluation,
) -> list[np.ndarray]:
    """Counts the correct predictions of every seed after a task.

    Args:
      executor: loops over batches and seeds.
      method: gives predictions.
      data: the dataset on the device.
      streams: the seeds' task streams.
      states: the learners.
      task: the current task, from 0.
      settings: batch size, top-k and read-outs.

    Returns:
      Per seed int32 [1 + read-outs, 2, task + 1]: correct predictions on each task's test images,
      over all seen classes and over those of the image's own task only; by the method's own
      classifier, then by each read-out.
    """
    inputs, steps = make_inputs(executor, method, data, streams, states, task, settings)
    kinds = 1 + len(settings.read_outs), 2
    zeros = [np.zeros((*kinds, len(stream.all_sizes)), np.int32) for stream in streams]
    correct = executor.sum_steps(score_batch, inputs, zeros, steps)
    return [of_seed[..., : task + 1] for of_seed in correct]


def make_inputs(
    executor: Executor,
    method: Any,
    data: Data,
    streams: Sequence[TaskStream],
    states: PerSeed[LearnerState],
    task: int,
    settings: Evaluation,
) -> tuple[EvaluationInput, int]:
    """Returns what the steps of an evaluation are given, and their number; see `evaluate`."""
    settings = with_batch_size(settings, executor)
    sets = [make_evaluation_set(stream, task, settings.batch_size) for stream in streams]
    steps = -(-max(int(images.stop) for images in sets) // settings.batch_size)
    images = executor.distribute(sets)
    inputs = EvaluationInput(
        method=method,
        settings=settings,
        data=data,
        state=states,  # pyright: ignore[reportArgumentType]  # here for all seeds
        images=images,  # pyright: ignore[reportArgumentType]  # likewise
        means={},
    )
    if settings.read_outs:
        inputs = inputs._replace(means=executor.call(find_means, inputs))
    return inputs, steps


def with_batch_size(settings: Evaluation, executor: Executor) -> Evaluation:
    """Fills in the batch size that is fast on the device, where the config names none."""
    fast = BATCH_ON_ONE_CORE if executor.cores else BATCH
    return dataclasses.replace(settings, batch_size=settings.batch_size or fast)


def find_means(inputs: EvaluationInput) -> dict[str, jax.Array]:
    """Computes the class means float [K, D] of each read-out that has some."""
    method, settings, data, state, images, _ = inputs
    means = {}
    for name in settings.read_outs:
        if name == "cnn":
            continue
        if name == "nme":
            means[name] = nearest_mean.exemplar_means(method, state, data, settings.mirror)
            continue
        found = images.train_images
        labels = images.label_map[data.train_labels[found.indices]]
        is_image = jnp.arange(labels.shape[0]) < found.count
        labels = jnp.where(is_image, labels, method.classifier.num_classes)
        means[name] = nearest_mean.class_means(method, state, data, found, labels, settings.mirror)
    return means


def score_batch(inputs: EvaluationInput, i: jax.Array, correct: jax.Array) -> jax.Array:
    """Adds the correct predictions of one batch.

    Args:
      i: int32 [], the batch.
      correct: int32 [1 + read-outs, 2, T], correct predictions so far: over all seen classes, and
        over those of the image's own task only.
    """
    method, settings, data, state, images, means = inputs
    rows = shard_batch(i * settings.batch_size + jnp.arange(settings.batch_size))
    indices, tasks = images.indices[rows], images.tasks[rows]
    labels = images.label_map[data.eval_labels[indices]]
    pixels = method.preprocessing.test(data.eval_images[indices])
    classes = jnp.arange(method.classifier.num_classes)
    seen = jnp.broadcast_to(classes < images.seen, (settings.batch_size, classes.size))
    first, end = images.boundaries[tasks, None], images.boundaries[tasks + 1, None]
    valid = jnp.stack([seen, (classes >= first) & (classes < end)])
    predictions = [method.inference(state, pixels, valid, settings.top_k)]
    for name in settings.read_outs:
        if name == "cnn":
            scores = method.forward(state, pixels)
        else:  # the features of all read-outs are computed once, as the same expression
            features = method.classifier.apply(state.variables, pixels).features
            scores = nearest_mean.similarities(features, means[name])
        predictions.append(losses.top_k(scores, valid, settings.top_k))
    found = (jnp.stack(predictions) == labels[:, None]).any(-1) & (rows < images.stop)
    return correct.at[:, :, tasks].add(found.astype(jnp.int32))


def make_evaluation_set(stream: TaskStream, task: int, batch_size: int) -> EvaluationSet:
    """Collects the test images of the tasks up to `task` (from 0) of one seed."""
    tasks = np.repeat(np.arange(stream.num_tasks), stream.eval_counts)
    padding = -len(stream.eval_indices) % batch_size
    tasks = np.pad(tasks, (0, len(stream.eval_indices) + padding - len(tasks)))
    images = stream.train_images(task)
    arrays = {
        "indices": np.pad(stream.eval_indices, (0, padding)),
        "stop": np.int32(stream.eval_counts[: task + 1].sum()),
        "tasks": tasks.astype(np.int32),
        "boundaries": np.cumsum([0, *stream.all_sizes], dtype=np.int32),
        "seen": np.int32(stream.seen(task)),
        "label_map": stream.label_map,
    }
    capacity = len(stream.all_sizes) * stream.train_indices.shape[1]
    padded = np.pad(images, (0, capacity - len(images)))
    arrays, found = jax.device_put((arrays, (padded, np.int32(len(images)))))
    return EvaluationSet(**arrays, train_images=Subset(*found))
