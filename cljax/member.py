"""Keeps the files of one run: what it records, its checkpoints, and its models."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from rich.console import Console

from cljax import build
from cljax.compute import processes
from cljax.compute.executor import Executor
from cljax.errors import UserError
from cljax.interop import pretrained
from cljax.output import record as record_lib
from cljax.output.checkpoints import Checkpoints
from cljax.output.models import Models
from cljax.output.record import Group, Place
from cljax.output.recorder import Cursor, Recorder
from cljax.problem import Problem
from cljax.saved import contents, first_task
from cljax.settings import Settings

T = TypeVar("T")


class Restored(NamedTuple):
    """Where a run stands when it starts.

    Attributes:
      groups: all its seeds, each group at its place.
      resumes: whether there was a checkpoint.
      grown: what the run has more than the checkpoint, in words; "" for nothing.
    """

    groups: list[Group]
    resumes: bool
    grown: str


class Member:
    """One of the runs that train together, mostly the only one: its seeds and its files.

    Only the first process writes files.

    Attributes:
      settings, directory: config and workdir.
      whole: problem of all its seeds.
      problem: problem of the seeds that train now.
      waiting: the other seeds, if some were added.
      recorder: its metrics, accuracies and times.
      undone: what the last task would be followed from, see `record.undone`.
    """

    def __init__(
        self,
        settings: Settings,
        problem: Problem,
        directory: Path,
        executor: Executor,
        console: Console,
    ):
        self.settings = settings
        self.directory = directory
        self.problem = self.whole = problem
        self.waiting: list[Group] = []
        self.recorder = Recorder(settings, problem, executor, directory, console)
        self.undone: dict[str, np.ndarray] = {}
        self._checkpoints = self._models = None
        if processes.is_main():
            self._checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint.keep)
            facts = contents.make_record(problem.dataset, problem.fingerprint)
            self._models = Models(directory / "models", facts)

    @property
    def seeds(self) -> list[int]:
        """The seeds that train now."""
        return [stream.seed for stream in self.problem.streams]

    def close(self) -> None:
        """Closes all files."""
        for opened in (self._checkpoints, self._models, self.recorder.log):
            if opened:
                opened.close()

    def take(self, groups: list[Group], place: Place) -> list[Any]:
        """Takes the seeds that are at a place as those that train; the others wait.

        Args:
          groups: all seeds, those at the place first.
          place: as `Group.place`.

        Returns:
          The states of the seeds that train.
        """
        here = [group for group in groups if group.place == place]
        others = groups[len(here) :]
        self.waiting = [other._replace(states=jax.device_get(other.states)) for other in others]
        if here:
            self.problem = self.whole.of_seeds(here[0].seeds)
        return [state for group in here for state in group.states]

    def restore(self) -> Restored:
        """Takes the state of the newest good checkpoint; new seeds start.

        Raises:
          UserError: the checkpoint does not fit the run.
        """
        restored = processes.on_main(lambda: _written(self._checkpoints).restore())
        restored = processes.broadcast_from_main(restored)
        if not restored:
            self.recorder.load_state_dict(None, [])
            return Restored([Group(self.seeds, Cursor(), self.whole.states)], False, "")
        arrays, record = restored
        with processes.raise_together():
            given = self.settings, self.whole, list(self.recorder.correct), self.directory
            record_lib.check(record, arrays, *given)
            groups = record_lib.read(record, arrays, self.whole, self.directory)
            seeds = record_lib.seeds_of(record, arrays)
            new = [seed for seed in self.settings.seeds if seed not in seeds]
            if new:
                started = start(build.of_seeds(self.settings, new), self.whole.of_seeds(new))
                groups.append(Group(new, Cursor(), started.states))
            self.recorder.load_state_dict(record["recorder"], seeds)
            if self._models:
                done = {seed: self.recorder.tasks_done([seed]) for seed in seeds}
                finished = [
                    [seed for seed in seeds if done[seed] > task]
                    for task in range(len(record["models"]))
                ]
                self._models.restore(record["models"], finished)
        words = [f"seeds {', '.join(map(str, new))}"] if new else []
        before = len(record["class_orders"][0]["task_sizes"])
        if before < self.whole.num_tasks:
            words.append(f"tasks {before + 1} to {self.whole.num_tasks}")
        else:
            self.undone = record_lib.undone_of(arrays)
        groups = record_lib.merge(groups, self.settings.seeds)
        return Restored(groups, True, " and ".join(words))

    def announce(self, restored: Restored) -> None:
        """Tells what runs, and mends what is gone or damaged of what earlier starts wrote."""
        cursor = restored.groups[0].cursor
        self.recorder.announce(cursor, restored.resumes, restored.grown)
        latest = {}
        for group in restored.groups:
            done = group.cursor.task
            if done and group.cursor.is_task_start and not group.is_within_epoch:
                latest.setdefault(done, {}).update(self._kept_after(done - 1, group))
        _written(self._models).mend(latest)
        if cursor.task == self.whole.num_tasks:
            self.recorder.mend()

    def adopt_first_task(self, states: list[Any]) -> first_task.Adopted:
        """Takes the first task's networks from another run."""
        settings = build.of_seeds(self.settings, self.seeds)
        return first_task.adopt_first_task(settings, self.problem, states)

    def note_end(self, before: list[Any], after: list[Any]) -> None:
        """Notes what the end of the last task changes, as a longer run would go on before it.

        Args:
          before, after: states of the seeds that train.
        """
        groups = (Group(self.seeds, Cursor(), states) for states in (before, after))
        self.undone |= record_lib.undone(*map(record_lib.flatten_group, groups))

    def save_model(self, task: int, states: list[Any]) -> None:
        """Saves the classifiers, and generators, after a task, for other programs and people.

        Raises:
          UserError: they are not finite, or cannot be written.
        """
        arrays = self._kept_after(task, Group(self.seeds, Cursor(task), states))
        _check_finite(arrays, task)
        _written(self._models).save(task, arrays, self.seeds)

    def save_checkpoint(self, cursor: Cursor, states: list[Any]) -> None:
        """Saves all that a start from here needs.

        Raises:
          UserError: the state is not finite, or cannot be written.
        """
        group = Group(self.seeds, cursor, states)
        arrays = record_lib.flatten_group(group)
        _check_finite(arrays, cursor.task)
        for waiting in self.waiting:
            arrays |= record_lib.flatten_group(waiting)
        record = {
            "format": record_lib.FORMAT,
            "cursor": dataclasses.asdict(cursor),
            "metrics": record_lib.describe(group)["metrics"],
            "recorder": self.recorder.state_dict(),
            "data": self.whole.fingerprint,
            "class_orders": record_lib.class_orders(self.whole),
            "models": _written(self._models).checksums,
            "seeds": list(self.settings.seeds),
            "waiting": [record_lib.describe(waiting) for waiting in self.waiting],
        }
        _written(self._checkpoints).save(arrays | self.undone, record)

    def _kept_after(self, task, group):
        method, tasks = self.whole.method, self.whole.num_tasks
        kept = [contents.kept(method, state, task, tasks) for state in group.states]
        return record_lib.flatten_group(group._replace(states=kept))


def start(settings: Settings, problem: Problem) -> Problem:
    """Gives the seeds of a problem the weights of a file, or checks the run they would start from.

    Raises:
      UserError: the file in config.model.pretrained or the run in config.first_task_from is wrong.
    """
    if settings.first_task_from:
        first_task.adopt_first_task(settings, problem, problem.states)
    elif settings.model.pretrained:
        states = pretrained.start_from(
            settings.model.pretrained,
            problem.method.classifier,
            problem.states,
            problem.dataset.train_images.shape[-1],
        )
        return dataclasses.replace(problem, states=states)
    return problem


def _check_finite(arrays: dict[str, np.ndarray], task: int) -> None:
    """Refuses weights that are not finite; a last step may spoil them after a finite loss."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise UserError(
                f"task {task + 1}: the state is not finite ({name}); the last good checkpoint is "
                "kept; try a lower config.optimizer.lr in another --workdir"
            )


def _written(kept: T | None) -> T:
    """What the first process writes; no other one has it."""
    assert kept is not None
    return kept
