"""Makes task streams: the class order of a seed and the images of each task."""

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from cljax.data.sources import Dataset
from cljax.errors import UserError
from cljax.files import open_plain, parse_json, read_array

_FOLDS = 5  # of the training images; one of them is the validation split
_KEY = "config.data.class_order"
_LONGEST_ID = 18  # digits
_LIST = re.compile(r"[(\[]?\s*-?\d+(\s*,\s*-?\d+)*\s*,?\s*[)\]]?")
_ORDER_FORMS = (
    '"shuffled", "sequential", "numpy:SEED", "numpy:SEED:runs", a list such as "3,1,2", or a '
    ".json, .txt or .npy file"
)


@dataclass(frozen=True, eq=False)
class TaskStream:
    """Holds the tasks of one seed as indices into a `Dataset`.

    Attributes:
      seed: seed of the run.
      class_order: int32 [classes of the run], class ids, task after task.
      task_sizes: number of classes of each of the T tasks of the run.
      all_sizes: the same with the tasks after them, which `max_tasks` leaves out.
      label_map: int32 [K], from class id to label, the position in the class order; -1: in no task.
      train_indices: int32 [T, capacity], training images of each task in file order, padded with 0.
      train_counts: int32 [T], number of images in each row.
      eval_split: "test", or "train" where a part of the training images is held out instead.
      eval_indices: int32 [M], images of that split by task, then in file order; padded with 0 at
        the end.
      eval_counts: int32 [T], number of evaluation images of each task.
      capacities: bounds of the images of a task and of the evaluation images, equal for all seeds
        and any number of tasks.
    """

    seed: int
    class_order: np.ndarray
    task_sizes: tuple[int, ...]
    all_sizes: tuple[int, ...]
    label_map: np.ndarray
    train_indices: np.ndarray
    train_counts: np.ndarray
    eval_split: str
    eval_indices: np.ndarray
    eval_counts: np.ndarray
    capacities: tuple[int, int]

    @property
    def num_tasks(self) -> int:
        """Number of tasks T."""
        return len(self.task_sizes)

    def seen(self, task: int) -> int:
        """Counts the classes of tasks 0..task; `task` counts from 0."""
        return sum(self.task_sizes[: task + 1])

    def old(self, task: int) -> int:
        """Counts the classes of tasks 0..task-1."""
        return sum(self.task_sizes[:task])

    def train_images(self, task: int) -> np.ndarray:
        """Returns the training images of tasks 0..task, int32 [number], task after task."""
        rows = zip(self.train_indices, self.train_counts[: task + 1], strict=False)
        return np.concatenate([row[:count] for row, count in rows])


def class_order(spec: str, num_classes: int, seed: int) -> np.ndarray:
    """Returns the order in which the classes are learned.

    Args:
      spec: "shuffled": by Python's generator seeded with `seed`, as the ABD reference code orders
        CIFAR and Tiny-ImageNet. "numpy:SEED": by NumPy's legacy generator, the same for every
        `seed`; "numpy:1993" is the ABD reference code's order of ImageNet and LUCIR's order.
        "numpy:SEED:runs": shuffle number `seed` of that generator, from 0, as LUCIR's runs.
        "sequential": by class id. Otherwise class ids as text, "3,1,2", or the path of a file: a
        .json list, .txt (spaces or commas) or .npy.
      num_classes: K.
      seed: of "shuffled" and "numpy:SEED:runs".

    Returns:
      Class ids, int32 [num_classes], or fewer if a list or a file has fewer.

    Raises:
      UserError: `spec` is none of these, or is not a list of distinct class ids.
    """
    if spec == "sequential":
        return np.arange(num_classes, dtype=np.int32)
    if spec == "shuffled":
        order = list(range(num_classes))
        random.Random(seed).shuffle(order)
        return np.array(order, np.int32)
    if match := re.fullmatch(r"numpy:0*(\d+)(:runs)?", spec):
        if len(match[1]) > 10 or int(match[1]) >= 2**32:
            raise UserError(f"{_KEY}={spec}: a seed of NumPy must be below 2**32")
        generator = np.random.RandomState(int(match[1]))
        for _ in range(seed if match[2] else 0):
            generator.shuffle(np.arange(num_classes, dtype=np.int32))
        order = np.arange(num_classes, dtype=np.int32)
        generator.shuffle(order)
        return order
    if _LIST.fullmatch(spec.strip()):
        numbers = re.findall(r"-?\d+", spec)
        if max(map(len, numbers)) > _LONGEST_ID:
            raise UserError(f"{_KEY}: names a class id of more than {_LONGEST_ID} digits")
        ids = [int(number) for number in numbers]
    else:
        ids = _read_order_file(spec)
    return _check_order(ids, num_classes, spec)


def _read_order_file(spec: str) -> list:
    path = Path(spec)
    if path.suffix not in (".json", ".txt", ".npy") or not os.path.isfile(path):
        raise UserError(f"{_KEY}={spec!r}: no such file; use {_ORDER_FORMS}")
    try:
        with open_plain(path) as file:
            if path.suffix == ".npy":
                ids = read_array(file, path.stat().st_size).tolist()
            elif path.suffix == ".json":
                ids = parse_json(file.read())
            else:
                ids = [int(word) for word in file.read().decode().replace(",", " ").split()]
    except (ValueError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{_KEY}={spec}: not a list of class ids: {reason}") from error
    if not isinstance(ids, list) or any(type(label) is not int for label in ids):
        raise UserError(f"{_KEY}={spec}: must be one flat list of integer class ids")
    return ids


def _check_order(ids: list[int], num_classes: int, spec: str) -> np.ndarray:
    outside = [label for label in ids if not 0 <= label < num_classes]
    if outside:
        raise UserError(
            f"{_KEY}={spec}: the dataset has no class {outside[0]}; use class ids 0 to "
            f"{num_classes - 1}"
        )
    repeated = [label for label in ids if ids.count(label) > 1]
    if repeated:
        raise UserError(f"{_KEY}={spec}: class {repeated[0]} occurs more than once")
    if not ids:
        raise UserError(f"{_KEY}={spec}: the list is empty; name at least one class id")
    return np.array(ids, np.int32)


def split_sizes(
    num_classes: int,
    num_tasks: int,
    first_task_size: int = 0,
    task_sizes: Sequence[int] = (),
    max_tasks: int = -1,
) -> tuple[int, ...]:
    """Returns the number of classes of each task.

    Args:
      num_classes: number of classes to split.
      num_tasks: number of tasks, the first task included.
      first_task_size: classes of the first task, the later tasks share the rest equally; 0: all
        tasks are equal.
      task_sizes: every size, in place of the two above; classes left over are unused.
      max_tasks: number of tasks to keep; 0 or less: all.

    Raises:
      UserError: the classes cannot be split in this way.
    """
    if task_sizes:
        sizes = tuple(task_sizes)
        if min(sizes) < 1 or sum(sizes) > num_classes:
            raise UserError(
                f"config.task_sizes={sizes}: each must be 1 or more and their sum, {sum(sizes)}, "
                f"at most the {num_classes} classes"
            )
    else:
        sizes = _equal_sizes(num_classes, num_tasks, first_task_size)
    return sizes[:max_tasks] if max_tasks > 0 else sizes


def _equal_sizes(num_classes: int, num_tasks: int, first: int) -> tuple[int, ...]:
    """Sizes of `num_tasks` tasks, equal but for the first if `first` is not 0."""
    if num_tasks < 1 or first < 0:
        raise UserError(
            f"config.num_tasks={num_tasks}, config.first_task_size={first}: must be 1 or more and "
            "0 or more"
        )
    head = (first,) if first else ()
    rest, tasks = num_classes - first, num_tasks - len(head)
    if rest == 0 and tasks == 0:
        return head
    if rest < 1 or tasks < 1 or rest % tasks:
        fitting = [n + len(head) for n in range(1, rest + 1) if rest % n == 0]
        after = f" after a first task of {first}" if first else ""
        raise UserError(
            f"config.num_tasks={num_tasks}: {num_classes} classes cannot be split into equal tasks"
            f"{after}; "
            + (f"use {', '.join(map(str, fitting))}, or " if fitting else "")
            + "set config.task_sizes"
        )
    return head + (rest // tasks,) * tasks


def make_stream(
    dataset: Dataset,
    *,
    seed: int,
    order_seed: int,
    num_tasks: int,
    order: str = "shuffled",
    first_task_size: int = 0,
    task_sizes: Sequence[int] = (),
    max_tasks: int = -1,
    validation: bool = False,
) -> TaskStream:
    """Makes the tasks of one seed.

    Args:
      dataset: the images.
      seed: seed of the run; selects the fold if `validation`.
      order_seed: seed of the class order, see `class_order`.
      num_tasks, first_task_size, task_sizes, max_tasks: see `split_sizes`.
      order: see `class_order`.
      validation: evaluates on 20 % of the training images and leaves them out of training: fold
        `seed` of five, after a permutation by NumPy's legacy generator seeded with `seed`.

    Raises:
      UserError: order or split are impossible, `seed` has no fold, a class has no training image,
        or a task has no evaluation image.
    """
    ids = class_order(order, dataset.num_classes, order_seed)
    all_sizes = split_sizes(len(ids), num_tasks, first_task_size, task_sizes)
    sizes = split_sizes(len(ids), num_tasks, first_task_size, task_sizes, max_tasks)
    ids = ids[: sum(sizes)]
    label_map = np.full(dataset.num_classes, -1, np.int32)
    label_map[ids] = np.arange(len(ids))
    train, held_out, eval_labels = _split_images(dataset, seed, validation)
    train_rows = _by_task(train, label_map[dataset.train_labels[train]], sizes)
    eval_rows = _by_task(held_out, label_map[eval_labels[held_out]], sizes)
    train_counts, eval_counts = ([len(row) for row in rows] for rows in (train_rows, eval_rows))
    _check_images(dataset.name, ids, dataset.train_labels[train], eval_counts)
    return TaskStream(
        seed=seed,
        class_order=ids,
        task_sizes=sizes,
        all_sizes=all_sizes,
        label_map=label_map,
        train_indices=_padded(train_rows),
        train_counts=np.array(train_counts, np.int32),
        eval_split="train" if validation else "test",
        eval_indices=np.concatenate(eval_rows).astype(np.int32),
        eval_counts=np.array(eval_counts, np.int32),
        capacities=_capacities(dataset, max(all_sizes), validation),
    )


def _capacities(dataset: Dataset, largest: int, validation: bool) -> tuple[int, int]:
    """Bounds of the images of a task of `largest` classes and of the evaluation images."""
    counts = np.sort(np.bincount(dataset.train_labels))[::-1]
    held_out = -(-len(dataset.train_labels) // _FOLDS)
    return int(counts[:largest].sum()), held_out if validation else len(dataset.test_labels)


def _split_images(dataset: Dataset, seed: int, validation: bool):
    """Indices to train on, indices to evaluate on, and the labels that the latter point into."""
    count = len(dataset.train_labels)
    if not validation:
        return np.arange(count), np.arange(len(dataset.test_labels)), dataset.test_labels
    if not 0 <= seed < _FOLDS:
        raise UserError(
            f"config.data.validation=True: seed {seed} has no fold; use seeds 0 to {_FOLDS - 1}"
        )
    folds = np.array_split(np.random.RandomState(seed).permutation(count), _FOLDS)
    held_out = folds.pop(seed)
    return np.sort(np.concatenate(folds)), np.sort(held_out), dataset.train_labels


def _check_images(name: str, ids: np.ndarray, train_labels: np.ndarray, eval_counts) -> None:
    """Raises UserError if a class has nothing to train on or a task nothing to evaluate on."""
    missing = np.setdiff1d(ids, train_labels)
    if missing.size:
        raise UserError(f"{name}: class {missing[0]} has no training image; leave it out of {_KEY}")
    if 0 in eval_counts:
        raise UserError(
            f"{name}: task {eval_counts.index(0) + 1} has no evaluation image; use larger tasks, "
            f"or leave its classes out of {_KEY}"
        )


def _by_task(indices: np.ndarray, labels: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    bounds = np.cumsum((0, *sizes))
    return [indices[(labels >= low) & (labels < high)] for low, high in pairwise(bounds)]


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """int32 [rows, longest], filled up with 0."""
    table = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for task, row in enumerate(rows):
        table[task, : len(row)] = row
    return table


def stack_streams(streams: Sequence[TaskStream]) -> list[TaskStream]:
    """Pads streams so that arrays of the same name have the same shape.

    The shapes do not depend on the seeds and, but for the rows, on the number of tasks. So programs
    and numbers of a seed are the same whatever seeds are added and however many tasks follow.

    Args:
      streams: of all seeds; `train_indices` and `eval_indices` are padded with 0, counts stay.

    Raises:
      ValueError: the streams differ in task sizes or evaluation split.
    """
    kinds = {(stream.task_sizes, stream.eval_split, stream.capacities) for stream in streams}
    if len(kinds) > 1:
        raise ValueError("streams of different task sizes or evaluation splits cannot be stacked")
    capacity, length = streams[0].capacities
    return [
        replace(
            stream,
            train_indices=np.pad(
                stream.train_indices, ((0, 0), (0, capacity - stream.train_indices.shape[1]))
            ),
            eval_indices=np.pad(stream.eval_indices, (0, length - len(stream.eval_indices))),
        )
        for stream in streams
    ]
