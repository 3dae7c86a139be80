"""Computes the accuracy on the test images of all seen tasks, in one compiled pass."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cljax import losses
from cljax.compute.executor import Executor
from cljax.compute.mesh import shard_batch
from cljax.memory import nearest_mean
from cljax.state import Data, Subset, hyperparameters

PyTree = Any

# Read-outs other than the method's own; `output.metrics` describes them.
READ_OUTS = ("cnn", "nme", "ncm")

# Test images per step where the config names no number: what a core's cache holds, if cores have
# steps of their own, or what makes many cores busy.
BATCH_ON_ONE_CORE, BATCH = 32, 256


@struct.dataclass
class EvaluationSet:
    """One seed's test images, sorted by task, so that those of the tasks seen are a prefix.

    Attributes:
      indices: int32 [capacity], into the evaluation images; a multiple of the batch size.
      stop: int32 [], how many of `indices` count now.
      tasks: int32 [capacity], each image's task.
      boundaries: int32 [T + 1], task j has the classes boundaries[j]..boundaries[j+1]-1.
      seen: int32 [], classes to choose from.
      label_map: int32 [classes of the data set].
      train_images: all training images of the classes seen.
    """

    indices: jax.Array
    stop: jax.Array
    tasks: jax.Array
    boundaries: jax.Array
    seen: jax.Array
    label_map: jax.Array
    train_images: Subset


@hyperparameters
class Settings:
    """How images are judged.

    Attributes:
      batch_size: test images per step; 0: what is fast on the device at hand.
      top_k: an answer is right if it is among the k likeliest (5 for ImageNet, otherwise 1).
      read_outs: of READ_OUTS, to be tried besides the method's own classifier.
      mirror: of their class means, a key of `nearest_mean.MIRRORS`.
    """

    batch_size: int
    top_k: int = 1
    read_outs: tuple[str, ...] = ()
    mirror: str = "none"


def find_means(shared, state, evaluation_set):
    """The class means of each read-out, as the executor calls it.

    Args:
      shared: (method, settings, data).
    """
    method, settings, data = shared
    means = {}
    for name in settings.read_outs:
        if name == "cnn":
            continue
        if name == "nme":
            means[name] = nearest_mean.exemplar_means(method, state, data, settings.mirror)
            continue
        images = evaluation_set.train_images
        labels = evaluation_set.label_map[data.train_labels[images.indices]]
        is_image = jnp.arange(labels.shape[0]) < images.count
        labels = jnp.where(is_image, labels, method.classifier.num_classes)
        means[name] = nearest_mean.class_means(method, state, data, images, labels, settings.mirror)
    return means


def score_batch(shared, constant, i, right):
    """Adds one batch's right answers per task, as the executor adds them up.

    Args:
      shared: (method, settings, data).
      constant: (the learner's state, the seed's evaluation_set, the class means of its read-outs).
      i: int32 [], the batch.
      right: int32 [1 + read-outs, 2, T], right answers so far: with all seen classes to choose
        from, and with those of the image's own task only.
    """
    method, settings, data = shared
    state, evaluation_set, means = constant
    rows = shard_batch(i * settings.batch_size + jnp.arange(settings.batch_size))
    indices, tasks = evaluation_set.indices[rows], evaluation_set.tasks[rows]
    labels = evaluation_set.label_map[data.eval_labels[indices]]
    images = method.preprocessing.test(data.eval_images[indices])
    classes = jnp.arange(method.classifier.num_classes)
    among_seen = jnp.broadcast_to(
        classes < evaluation_set.seen, (settings.batch_size, classes.size)
    )
    first, end = evaluation_set.boundaries[tasks, None], evaluation_set.boundaries[tasks + 1, None]
    within_task = (classes >= first) & (classes < end)
    valid = jnp.stack([among_seen, within_task])
    answers = [method.inference(state, images, valid, settings.top_k)]
    for name in settings.read_outs:
        if name == "cnn":
            scores = method.forward(state, images)
        else:  # the features of all read-outs are computed once, as the same expression
            features = method.classifier.apply(state.variables, images).features
            scores = nearest_mean.similarities(features, means[name])
        answers.append(losses.top_k(scores, valid, settings.top_k))
    correct = (jnp.stack(answers) == labels[:, None]).any(-1) & (rows < evaluation_set.stop)
    return right.at[:, :, tasks].add(correct.astype(jnp.int32))


class Evaluator:
    """Evaluates all seeds after a task.

    Attributes:
      executor: how batches and seeds are looped over.
      method: gives predictions.
      data: the data set on the device.
      streams: the seeds' TaskStreams.
      settings: batch size, top-k and read-outs.
    """

    def __init__(self, executor: Executor, method: Any, data: Data, streams, settings: Settings):
        self.executor = executor
        self.method = method
        self.data = data
        self.streams = streams
        fast = BATCH_ON_ONE_CORE if executor.cores else BATCH
        self.settings = dataclasses.replace(settings, batch_size=settings.batch_size or fast)

    def evaluate(self, states: PyTree, task: int) -> list[np.ndarray]:
        """Right answers after `task`, per seed.

        Args:
          states: packed states.
          task: the task just learned, from 0.

        Returns:
          Per seed int32 [1 + read-outs, 2, task + 1]: right answers on each task's test images,
          with all seen classes to choose from and with those of the image's own task only; by the
          method's own classifier, then by each read-out.
        """
        evaluation_sets = [
            make_evaluation_set(stream, task, self.settings.batch_size) for stream in self.streams
        ]
        batches = max(
            -(-int(evaluation_set.stop) // self.settings.batch_size)
            for evaluation_set in evaluation_sets
        )
        ways = 1 + len(self.settings.read_outs)
        zeros = [np.zeros((ways, 2, stream.num_tasks), np.int32) for stream in self.streams]
        shared, packed = (
            (self.method, self.settings, self.data),
            self.executor.pack(evaluation_sets),
        )
        means = self.executor.each(lambda _: {}, packed)
        if self.settings.read_outs:
            means = self.executor.call(find_means, shared, states, packed)
        constant = self.executor.zip(states, packed, means)
        right = self.executor.add_up(score_batch, shared, constant, zeros, batches)
        return [one[..., : task + 1] for one in right]


def make_evaluation_set(stream, task: int, batch_size: int) -> EvaluationSet:
    """The test images of the tasks up to `task` (from 0) of one seed's TaskStream."""
    tasks = np.repeat(np.arange(stream.num_tasks), stream.eval_counts)
    padding = -len(stream.eval_indices) % batch_size
    tasks = np.pad(tasks, (0, len(stream.eval_indices) + padding - len(tasks)))
    evaluation_set = EvaluationSet(
        indices=np.pad(stream.eval_indices, (0, padding)),
        stop=np.int32(stream.eval_counts[: task + 1].sum()),
        tasks=tasks.astype(np.int32),
        boundaries=np.cumsum([0, *stream.task_sizes], dtype=np.int32),
        seen=np.int32(stream.seen(task)),
        label_map=stream.label_map,
        train_images=_train_images(stream, task),
    )
    return jax.device_put(evaluation_set)


def _train_images(stream, task):
    found = stream.train_images(task)
    padded = np.pad(found, (0, stream.train_indices.size - len(found)))
    return Subset(padded, np.int32(len(found)))
