"""Says what a checkpoint's record holds, and reads it when a run resumes or grows."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from cljax import files
from cljax.errors import UserError
from cljax.output.checkpoints import flatten, unflatten
from cljax.output.metrics import Size, TaskCost
from cljax.output.recorder import Cursor
from cljax.problem import Problem
from cljax.settings import Settings
from cljax.state import EpochState

FORMAT = 5
_UNDONE = "undone."  # prefix of what the learner was before the end of a task that ended early

Arrays = dict[str, np.ndarray]
Place = tuple[tuple[int, ...], bool]  # fields of the cursor; whether it is within an epoch
_Cursor = dict[Literal["task", "stage", "epoch"], int]


class _RecorderRecord(files.Record):
    correct: dict[str, dict[str, list[list[list[int]]]]]
    seconds: dict[str, float]
    metrics_position: Annotated[list[int], Field(min_length=2, max_length=2)]
    cost: list[TaskCost] = Field(default=[])
    carried: list[list[dict[str, Size]]] = Field(default=[])


class _ClassOrder(files.Record):
    classes: list[int]
    task_sizes: list[int] = Field(min_length=1)


class _Group(files.Record):
    seeds: list[int] = Field(min_length=1)
    cursor: _Cursor
    metrics: list[str] | None


class _CheckpointRecord(files.Record):
    """What a checkpoint says beside its arrays."""

    cursor: _Cursor
    metrics: list[str] | None
    recorder: _RecorderRecord
    data: int
    class_orders: list[_ClassOrder] = Field(min_length=1)
    models: list[int]
    seeds: list[int] = Field(default=[], min_length=1)
    waiting: list[_Group] = Field(default=[])


class Group(NamedTuple):
    """Seeds that stand at one place of a run.

    Attributes:
      seeds: the seeds, in the order of the run.
      cursor: their place.
      states: per seed, its `LearnerState`; within an epoch, its `EpochState`.
    """

    seeds: list[int]
    cursor: Cursor
    states: list[Any]

    @property
    def is_within_epoch(self) -> bool:
        """Whether the place is within an epoch."""
        return isinstance(self.states[0], EpochState)

    @property
    def place(self) -> Place:
        """The place in a form that sorts groups."""
        return dataclasses.astuple(self.cursor), self.is_within_epoch


def merge(groups: Sequence[Group], order: Sequence[int]) -> list[Group]:
    """Sorts groups by their place, the first to run first, and merges those of one place.

    Args:
      groups: groups of different seeds.
      order: all seeds, in the order of the run.
    """
    merged: dict[Place, dict[int, Any]] = {}
    for group in groups:
        merged.setdefault(group.place, {}).update(zip(group.seeds, group.states, strict=True))
    return [
        Group(seeds := sorted(states, key=order.index), Cursor(*place), [states[s] for s in seeds])
        for (place, _), states in sorted(merged.items(), key=lambda item: item[0])
    ]


def of_seeds(arrays: Arrays, seeds: Sequence[int]) -> Arrays:
    """Returns the arrays that belong to some seeds, by their names."""
    return {name: array for name, array in arrays.items() if name.startswith(prefixes(seeds))}


def prefixes(seeds: Sequence[int]) -> tuple[str, ...]:
    """Returns how the names of the arrays of some seeds begin."""
    return tuple(
        f"{undone}seed{seed}{end}" for undone in ("", _UNDONE) for seed in seeds for end in ".["
    )


def seeds_of(record: dict[str, Any], arrays: Arrays) -> list[int]:
    """Returns the seeds of a checkpoint, in the order of the lists in its record."""
    if "seeds" in record:
        return record["seeds"]
    names = (name.removeprefix("seed").partition(".")[0] for name in arrays)  # of version 0.1
    return list(map(int, dict.fromkeys(names)))


def undone(before: Arrays, after: Arrays) -> Arrays:
    """Returns what the end of the last task has changed, as it was, to go on with more tasks."""
    return {
        _UNDONE + name: array
        for name, array in before.items()
        if array.tobytes() != after[name].tobytes()
    }


def undone_of(arrays: Arrays) -> Arrays:
    """Returns the arrays of a checkpoint that `undone` had returned."""
    return {name: array for name, array in arrays.items() if name.startswith(_UNDONE)}


def read(record: dict[str, Any], arrays: Arrays, problem: Problem, directory: Path) -> list[Group]:
    """Returns the groups of a checkpoint that `check` has accepted.

    Seeds that had learned all tasks of a smaller number go on where their last task has further
    stages now. Seeds that the checkpoint does not have are left out.

    Args:
      record, arrays: the checkpoint.
      problem: problem of all seeds that the run has now.
      directory: workdir of the run, for messages.

    Raises:
      UserError: another version of cljax saved the run.
    """
    waiting = record.get("waiting", [])
    others = [seed for group in waiting for seed in group["seeds"]]
    seeds = [seed for seed in seeds_of(record, arrays) if seed not in others]
    first = {"seeds": seeds, "cursor": record["cursor"], "metrics": record["metrics"]}
    templates = {s.seed: t for s, t in zip(problem.streams, problem.states, strict=True)}
    groups = []
    for group in [first, *waiting]:
        cursor, before = Cursor(**group["cursor"]), {}
        done = len(record["class_orders"][0]["task_sizes"])
        if cursor == Cursor(done) and (stages := _early_end(problem, done, directory)):
            cursor = Cursor(done - 1, stages)
            before = _before(record, arrays, directory)
        states = [templates[seed] for seed in group["seeds"]]
        if group["metrics"] is not None:
            sums = {name: jnp.float32(0) for name in group["metrics"]}
            states = [EpochState(state, sums, jnp.int32(0)) for state in states]
        pairs = zip(group["seeds"], states, strict=True)
        try:
            states = [unflatten(state, f"seed{s}", arrays | before) for s, state in pairs]
        except UserError as error:
            raise UserError(
                f"{directory}: the run was saved by another version of cljax: {error}"
            ) from error
        groups.append(Group(group["seeds"], cursor, states))
    return groups


def _early_end(problem: Problem, done: int, directory: Path) -> int:
    """Returns after which stage of task `done` (from 1) a run of as many tasks has ended.

    0 if the task has the same stages in a longer run, or the run is not longer.
    """
    ended, now = (problem.stages(done - 1, n) for n in (done, problem.num_tasks))
    if problem.num_tasks == done or ended == now:
        return 0
    if now[: len(ended)] != ended:
        raise UserError(
            f"{directory}: config.max_tasks cannot grow, because the method's task {done} has "
            "other stages where it is the last one; use another --workdir"
        )
    return len(ended)


def ends_early(problem: Problem, task: int) -> bool:
    """Whether a task (from 0) is the last one and has further stages if the run grows by tasks."""
    stages = problem.stages
    is_last = task == problem.num_tasks - 1 < len(problem.streams[0].all_sizes) - 1
    return is_last and stages(task, task + 1) != stages(task, task + 2)


def _before(record, arrays, directory):
    if "seeds" not in record:
        raise UserError(
            f"{directory}: an earlier version of cljax finished this run, and did not save what "
            "its last task needs to be followed by others; use another --workdir"
        )
    return {name.removeprefix(_UNDONE): array for name, array in undone_of(arrays).items()}


def check(
    record: dict[str, Any],
    arrays: Arrays,
    settings: Settings,
    problem: Problem,
    read_outs: Sequence[str],
    directory: Path,
) -> None:
    """Checks that a run can resume from a checkpoint.

    Args:
      record, arrays: the checkpoint, as `Checkpoints.restore` returned it.
      settings, problem: those of the run, which may have more seeds and tasks.
      read_outs: names of the read-outs that the run's recorder counts.
      directory: workdir of the run, for messages.

    Raises:
      UserError: another version wrote the record, it is damaged, or the data are not the same.
    """
    if record.get("format") != FORMAT:
        raise UserError(
            f"{directory}: the run was saved by another version of cljax, with other files; finish "
            "it with that version, or start over in another --workdir"
        )
    try:
        files.check_record(_CheckpointRecord, record)
        _check_seeds(record, seeds_of(record, arrays), read_outs, problem)
    except ValueError as error:
        raise UserError(f"{directory}: the record of the checkpoint is damaged: {error}") from error
    for place in (record["cursor"], *(group["cursor"] for group in record.get("waiting", []))):
        _check_place(
            Cursor(**place), len(record["class_orders"][0]["task_sizes"]), problem, directory
        )
    if record["data"] != problem.fingerprint:
        raise UserError(
            f"{directory}: {settings.data.name} has other images or labels than when this run "
            "started; set --config.data.dir or --config.data.path to the data of the start"
        )
    now = dict(zip(settings.seeds, class_orders(problem), strict=True))
    for seed, before in zip(seeds_of(record, arrays), record["class_orders"], strict=True):
        if any(now[seed][key][: len(before[key])] != before[key] for key in before):
            raise UserError(
                f"{directory}: the class order, or the tasks' sizes, are not those with which this "
                "run started; put back what config.data.class_order="
                f"{settings.data.class_order} names"
            )


def _check_seeds(record, seeds, read_outs, problem):
    """Checks that all lists of a record are of the same seeds, and the run has them."""
    correct = record["recorder"]["correct"]
    kinds = [len(of_seeds) for by_kind in correct.values() for of_seeds in by_kind.values()]
    if set(kinds) != {len(seeds)} or set(correct) != set(read_outs):
        raise ValueError("recorder.correct has other read-outs or seeds")
    waiting = [seed for group in record.get("waiting", []) for seed in group["seeds"]]
    places = [*waiting, *(seed for seed in seeds if seed not in waiting)]
    known = [stream.seed for stream in problem.streams]
    if sorted(places) != sorted(seeds) or len(waiting) == len(seeds) or not {*seeds} <= {*known}:
        raise ValueError(f"it has the seeds {seeds}, of which {waiting} wait, for a run of {known}")


def _check_place(cursor, tasks, problem, directory):
    stages = problem.stages(cursor.task, tasks) if 0 <= cursor.task < tasks else ()
    at_end = cursor == Cursor(tasks)
    within = 0 <= cursor.stage <= len(stages) and cursor.epoch >= 0
    if not (at_end or (stages and within)) or tasks > problem.num_tasks:
        raise UserError(f"{directory}: the checkpoint names an impossible place, {cursor}")


def class_orders(problem: Problem) -> list[dict[str, list[int]]]:
    """Returns the classes and the sizes of the tasks of each seed, as a record has them."""
    sizes = list(problem.streams[0].task_sizes)  # the same for all seeds
    return [{"classes": order, "task_sizes": sizes} for order in problem.class_orders]


def describe(group: Group) -> dict[str, Any]:
    """Returns what a record says of a group that waits."""
    metrics = list(group.states[0].sums) if group.is_within_epoch else None
    return {"seeds": group.seeds, "cursor": vars(group.cursor), "metrics": metrics}


def flatten_group(group: Group) -> Arrays:
    """Returns the arrays of a group by their names."""
    pairs = zip(group.seeds, group.states, strict=True)
    return dict(
        itertools.chain(*(flatten(jax.device_get(t), f"seed{s}").items() for s, t in pairs))
    )
