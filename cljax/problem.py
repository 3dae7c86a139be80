"""Puts a run's problem together: data, task streams, method and first states."""

import dataclasses
import functools
import logging
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cljax import build, rng
from cljax.build import make_method
from cljax.data import residence, sources
from cljax.data import streams as streams_lib
from cljax.data.sources import Dataset
from cljax.data.streams import TaskStream
from cljax.errors import UserError, printable
from cljax.methods.base import Finetune
from cljax.settings import Settings
from cljax.stages import Stage
from cljax.state import Data, LearnerState, Subset, Task

logger = logging.getLogger("cljax")
_NAMES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Problem:
    """Holds the data, tasks, method and first states of a run.

    Attributes:
      dataset: dataset on the host.
      data: the same, as compiled functions take it.
      residence: line that says where its images are, and why.
      streams: task stream of each seed, padded to one size.
      method: the method.
      states: learner state of each seed before the first task.
      fingerprint: checksum of all images and labels.
    """

    dataset: Dataset
    data: Data
    residence: str
    streams: list[TaskStream]
    method: Finetune
    states: list[LearnerState]
    fingerprint: int

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return self.streams[0].num_tasks

    @property
    def class_orders(self) -> list[list[int]]:
        """Class id of each label, for each seed: [seed][k]."""
        return [stream.class_order.tolist() for stream in self.streams]

    @property
    def class_names(self) -> list[list[str]]:
        """Name of the class of each label, for each seed: [seed][k]."""
        names = self.dataset.class_names
        return [[names[label] for label in order] for order in self.class_orders]

    def of_seeds(self, seeds: Sequence[int]) -> "Problem":
        """Returns the problem of some of the seeds, in the order of `streams`."""
        pairs = zip(self.streams, self.states, strict=True)
        kept = [pair for pair in pairs if pair[0].seed in seeds]
        streams, states = map(list, zip(*kept, strict=True))
        return dataclasses.replace(self, streams=streams, states=states)

    def tasks(self, index: int) -> list[Task]:
        """Makes task `index` (from 0) of each seed."""
        labels, joint = self.dataset.train_labels, self.method.is_joint
        return [make_task(stream, index, labels, joint) for stream in self.streams]

    def num_images(self, task: int) -> int:
        """Counts the training images of a task (joint training: of all tasks so far), all seeds."""
        tasks = slice(0 if self.method.is_joint else task, task + 1)
        return sum(int(stream.train_counts[tasks].sum()) for stream in self.streams)

    def stages(self, task: int, num_tasks: int | None = None) -> tuple[Stage, ...]:
        """Lists the stages of a task (from 0) of this run, or of one of `num_tasks` tasks."""
        listed = self.method.stages(task, self.num_tasks if num_tasks is None else num_tasks)
        return tuple(stage.of_task(task) for stage in listed)

    def plan(self, num_tasks: int | None = None) -> Iterator[tuple[int, int, Stage]]:
        """Yields (task, position in the task, stage) for the first `num_tasks` tasks, or all."""
        for task in range(self.num_tasks if num_tasks is None else num_tasks):
            for place, stage in enumerate(self.stages(task)):
                yield task, place, stage


def make_problem(
    settings: Settings, dataset: Dataset | None = None, before: Problem | None = None
) -> Problem:
    """Loads the dataset, unless it is given, splits it into tasks, and builds the method.

    Args:
      settings: those of the run.
      dataset: the dataset.
      before: a problem of the same dataset, whose arrays are taken over.

    Raises:
      UserError: the data are missing or wrong, the split is impossible, or a setting is wrong.
    """
    dataset = before.dataset if before else dataset or sources.load(settings.data)
    task_streams = make_streams(settings, dataset)
    if settings.eval.top_k > dataset.num_classes:
        raise UserError(
            f"config.eval.top_k={settings.eval.top_k}: the dataset has only {dataset.num_classes} "
            "classes; use at most as many"
        )
    method = make_method(settings, dataset)
    _check_batch_size(settings, method, task_streams)
    method.check_tasks(task_streams[0].task_sizes)
    _warn_of_lonely_classes(settings, method, task_streams[0])
    _warn_of_absent_classes(dataset, task_streams)
    if "nme" in settings.eval.read_outs and not method.memory.size:
        raise UserError(
            "config.eval.read_outs: 'nme' needs exemplars; set config.exemplars.total or "
            ".per_class, or remove 'nme'"
        )
    if before:
        data, line, checksum = before.data, before.residence, before.fingerprint
    else:
        data, line = residence.place(
            dataset, settings.data.residence, settings.data.validation, build.make_mesh(settings)
        )
        checksum = fingerprint(dataset)
    init, shape = _compiled_init(), dataset.image_shape
    states = [init(method, random_streams(settings, seed), shape) for seed in settings.seeds]
    return Problem(dataset, data, line, task_streams, method, states, checksum)


@functools.cache
def _compiled_init():
    # With all optimizations, a CPU would compile this for seconds to run it for milliseconds.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    return jax.jit(_init, static_argnums=2, compiler_options=options)


def _init(method, random_streams, image_shape):
    state = method.init(random_streams, image_shape)
    return state.replace(opt_state=method.training.optimizer.init(state.params))


def fingerprint(dataset: Dataset) -> int:
    """Returns a checksum of all images and labels."""
    result = 0
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            values = getattr(dataset, f"{split}_{kind}")
            array = values if isinstance(values, np.ndarray) else values.fingerprint()
            result = zlib.crc32(np.ascontiguousarray(array).data, result)
    return result


def make_streams(settings: Settings, dataset: Dataset) -> list[TaskStream]:
    """Makes the task stream of each seed, padded to one size.

    Raises:
      UserError: the split is impossible.
    """
    found = [_make_stream(settings, dataset, seed) for seed in settings.seeds]
    return streams_lib.stack_streams(found)


def _make_stream(settings, dataset, seed):
    return streams_lib.make_stream(
        dataset,
        seed=seed,
        order_seed=seed + settings.streams.class_order,
        order=settings.data.class_order,
        num_tasks=settings.num_tasks,
        first_task_size=settings.first_task_size,
        task_sizes=settings.task_sizes,
        max_tasks=settings.max_tasks,
        validation=settings.data.validation,
    )


def random_streams(settings: Settings, seed: int) -> rng.Streams:
    """Returns the seeds int32 [] of the random streams of a seed."""
    offsets = settings.streams
    names = (field.name for field in dataclasses.fields(rng.Streams))
    seeds: dict[str, Any] = {name: np.int32(seed + getattr(offsets, name)) for name in names}
    return rng.Streams(**seeds)


def _check_batch_size(settings, method, task_streams):
    """Refuses a task whose images, exemplars included, cannot fill the one batch that it needs."""
    for stream in task_streams:
        for task, count in enumerate(stream.train_counts.tolist()):
            past = int(stream.train_counts[:task].sum())
            own = past + count if method.is_joint else count
            replayed = method.memory.most_replayed(own, past, stream.old(task))
            if not method.training.num_steps(0, own + replayed):
                exemplars = f" and at most {replayed} exemplars" if replayed else ""
                raise UserError(
                    f"config.batch_size={settings.batch_size}: task {task + 1} of seed "
                    f"{stream.seed} has only {own} training images{exemplars}; use at most as "
                    "many, or config.drop_last=False where the method supports it"
                )


def _warn_of_lonely_classes(settings, method, stream):
    """Warns of tasks whose classification loss is 0 because it compares a single class."""
    tasks = [
        task
        for task, new in enumerate(stream.task_sizes)
        if not method.has_class_loss(stream.old(task), new)
    ]
    if tasks:
        logger.warning(
            "method %r: its classification loss is always 0 in task %s, because it compares only "
            "one class there; use tasks of two or more classes",
            settings.method.name,
            ", ".join(str(task + 1) for task in tasks),
        )


def _warn_of_absent_classes(dataset, task_streams):
    """Warns of classes of the run that no evaluation image has, once for equal splits."""
    warnings = {}
    for stream in task_streams:
        labels = getattr(dataset, f"{stream.eval_split}_labels")
        found = labels[stream.eval_indices[: stream.eval_counts.sum()]]
        absent = np.setdiff1d(stream.class_order, found)
        if absent.size:
            is_test = stream.eval_split == "test"
            split = "test split" if is_test else f"validation fold of seed {stream.seed}"
            names = ", ".join(printable(dataset.class_names[c]) for c in absent[:_NAMES_SHOWN])
            if absent.size > _NAMES_SHOWN:
                names += f" and {absent.size - _NAMES_SHOWN} more"
            warnings[split, names] = None
    for split, names in warnings:
        logger.warning(
            "%s: the %s has no image of class %s; it does not count in accuracies",
            dataset.name,
            split,
            names,
        )


def model_number(task: int) -> int:
    """Returns the number in models/ of the classifier after `task` (from 0): files count from 1."""
    return task + 1


def make_task(
    stream: TaskStream, index: int, train_labels: np.ndarray, joint: bool = False
) -> Task:
    """Makes what compiled functions are told about task `index` (from 0) of a stream.

    Args:
      stream: task stream of a seed.
      index: number of the task, from 0.
      train_labels: int32 [N], class ids.
      joint: whether the task is trained on the images of all tasks so far.
    """
    new = stream.train_indices[index, : stream.train_counts[index]]
    images, capacity = new, stream.train_indices.shape[1]
    if joint:
        images = np.sort(stream.train_images(index))
        capacity *= len(stream.all_sizes)
    labels = stream.label_map[train_labels[new]]
    by_class = [new[labels == k] for k in range(stream.old(index), stream.seen(index))]
    largest = np.bincount(train_labels).max()
    table = np.zeros((max(stream.all_sizes), largest), np.int32)
    counts = np.zeros(len(table), np.int32)
    for row, found in enumerate(by_class):
        table[row, : len(found)] = found
        counts[row] = len(found)
    padded = np.pad(images, (0, capacity - len(images)))
    arrays = {
        "index": np.int32(index),
        "old": np.int32(stream.old(index)),
        "seen": np.int32(stream.seen(index)),
        "past_images": np.int32(stream.train_counts[:index].sum()),
        "boundaries": np.cumsum([0, *stream.all_sizes], dtype=np.int32),
        "class_images": table,
        "class_image_counts": counts,
        "label_map": stream.label_map,
    }
    # All at once; `jnp` would compile a program for every shape.
    arrays, subset = jax.device_put((arrays, (padded, np.int32(len(images)))))
    return Task(**arrays, images=Subset(*subset), is_first=index == 0)
