"""Puts a run's problem together: data, task streams, method and first states."""

import dataclasses
import functools
import zlib
from collections.abc import Iterator

import jax
import numpy as np

from cljax import build, rng
from cljax.build import make_method
from cljax.compute import mesh
from cljax.data import sources
from cljax.data import streams as streams_lib
from cljax.data.sources import Dataset
from cljax.data.streams import TaskStream
from cljax.errors import UserError
from cljax.methods.base import Finetune
from cljax.stages import Stage
from cljax.state import Data, LearnerState, Subset, Task


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is learned, and by which method.

    Attributes:
      dataset: on the host.
      data: the same on the device.
      streams: a TaskStream per seed, padded to one size.
      method: the method.
      states: per seed, the learner before the first task.
      fingerprint: a checksum of all images and labels.
    """

    dataset: Dataset
    data: Data
    streams: list[TaskStream]
    method: Finetune
    states: list[LearnerState]
    fingerprint: int

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.streams[0].num_tasks

    def tasks(self, index: int) -> list[Task]:
        """Task `index` (from 0) of each seed."""
        labels, joint = self.dataset.train_labels, self.method.is_joint
        return [make_task(stream, index, labels, joint) for stream in self.streams]

    def num_images(self, task: int) -> int:
        """New training images of a task (joint training: of all tasks so far), of all seeds."""
        tasks = slice(0 if self.method.is_joint else task, task + 1)
        return sum(int(stream.train_counts[tasks].sum()) for stream in self.streams)

    def plan(self, num_tasks: int | None = None) -> Iterator[tuple[int, int, Stage]]:
        """All stages of the first `num_tasks` tasks (default: all): (task, place, stage)."""
        for task in range(self.num_tasks if num_tasks is None else num_tasks):
            for place, stage in enumerate(self.method.stages(task, self.num_tasks)):
                yield task, place, stage


def make_problem(config, dataset: Dataset | None = None) -> Problem:
    """Loads the data, unless they are given, splits them into tasks, and builds the method.

    Raises:
      UserError: the data are missing or bad, the split is impossible, or a setting is wrong.
    """
    dataset = dataset or sources.load(config.data)
    task_streams = [_make_stream(config, dataset, seed) for seed in config.seeds]
    task_streams = streams_lib.stack_streams(task_streams)
    _check_batch_size(config, task_streams)
    if config.eval.top_k > dataset.num_classes:
        raise UserError(
            f"config.eval.top_k: {config.eval.top_k} is more than the {dataset.num_classes} classes"
        )
    method = make_method(config, dataset)
    method.check_tasks(task_streams[0].task_sizes)
    if "nme" in config.eval.read_outs and not method.memory.size:
        raise UserError("config.eval.read_outs: 'nme' is of exemplars, but none are kept")
    data = _make_data(config, dataset)
    image_shape = dataset.train_images.shape[1:]

    # Optimised on a CPU in full, this would compile for seconds to run for milliseconds.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

    @functools.partial(jax.jit, compiler_options=options)
    def init(random_streams):
        state = method.init(random_streams, image_shape)
        return state.replace(opt_state=method.training.optimizer.init(state.params))

    states = [init(_random_streams(config, seed)) for seed in config.seeds]
    return Problem(dataset, data, task_streams, method, states, _fingerprint(dataset))


def _make_data(config, dataset):
    devices = build.make_mesh(config)
    train = mesh.replicate(devices, (dataset.train_images, dataset.train_labels))
    if config.data.validation:
        return Data(*train, *train)
    return Data(*train, *mesh.replicate(devices, (dataset.test_images, dataset.test_labels)))


def _fingerprint(dataset):
    result = 0
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            array = getattr(dataset, f"{split}_{kind}")
            result = zlib.crc32(np.ascontiguousarray(array), result)
    return result


def _make_stream(config, dataset, seed):
    return streams_lib.make_stream(
        dataset,
        seed=seed,
        order_seed=seed + config.streams.class_order,
        order=config.data.class_order,
        num_tasks=config.num_tasks,
        first_task_size=config.first_task_size,
        task_sizes=config.task_sizes,
        max_tasks=config.max_tasks,
        validation=config.data.validation,
    )


def _random_streams(config, seed):
    names = (field.name for field in dataclasses.fields(rng.Streams))
    return rng.Streams(**{name: np.int32(seed + config.streams[name]) for name in names})


def _check_batch_size(config, task_streams):
    for stream in task_streams:
        smallest = int(stream.train_counts.min())
        if config.batch_size > smallest:
            task = int(stream.train_counts.argmin())
            raise UserError(
                f"config.batch_size: {config.batch_size} is more than the {smallest} training "
                f"images of task {task + 1} with seed {stream.seed}; there would be no batch"
            )


def model_number(task: int) -> int:
    """The number in models/ of the classifier after `task` (from 0): users count from 1."""
    return task + 1


def make_task(
    stream: TaskStream, index: int, train_labels: np.ndarray, joint: bool = False
) -> Task:
    """What compiled functions are told about task `index` (from 0) of a stream.

    Args:
      train_labels: int32 [N], the data set's own class numbers.
      joint: the images of all tasks so far are trained on.
    """
    new = stream.train_indices[index, : stream.train_counts[index]]
    images, capacity = new, stream.train_indices.shape[1]
    if joint:
        images = np.sort(stream.train_images(index))
        capacity = stream.train_indices.size
    labels = stream.label_map[train_labels[new]]
    by_class = [new[labels == k] for k in range(stream.old(index), stream.seen(index))]
    largest = np.bincount(train_labels).max()
    table = np.zeros((max(stream.task_sizes), largest), np.int32)
    counts = np.zeros(len(table), np.int32)
    for row, found in enumerate(by_class):
        table[row, : len(found)] = found
        counts[row] = len(found)
    task = Task(
        index=np.int32(index),
        old=np.int32(stream.old(index)),
        seen=np.int32(stream.seen(index)),
        past_images=np.int32(stream.train_counts[:index].sum()),
        boundaries=np.cumsum([0, *stream.task_sizes], dtype=np.int32),
        images=Subset(np.pad(images, (0, capacity - len(images))), np.int32(len(images))),
        class_images=table,
        class_image_counts=counts,
        label_map=stream.label_map,
        is_first=index == 0,
    )
    return jax.device_put(task)  # all at once; `jnp` would compile a program for every shape
