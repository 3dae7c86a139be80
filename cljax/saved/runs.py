"""Opens a workdir to read its settings, results and models; writes nothing."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from cljax import settings as settings_lib
from cljax.errors import UserError
from cljax.files import Record, StrPath, expand, read_json
from cljax.output import workdir as workdir_lib
from cljax.output.checkpoints import Checkpoints
from cljax.output.metrics import FORMAT
from cljax.problem import model_number
from cljax.saved.contents import ModelRecord
from cljax.saved.first_task import check_file
from cljax.settings import Count, Positive, Settings


class ResultsRecord(Record):
    """What is read of results.json."""

    format: int
    tasks_done: Positive
    tasks_total: Positive
    task_sizes: list[Positive]
    seeds: list[int]
    class_orders: list[list[Count]]
    accuracy: list[list[list[float]]]
    seen_accuracy: list[list[float]]
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """Holds what a workdir says of its run.

    Attributes:
      workdir: the workdir.
      settings: settings of the run.
      results: content of results.json, checked.
    """

    workdir: Path
    settings: Settings
    results: dict[str, Any]

    @property
    def tasks_done(self) -> int:
        """Number of finished tasks, 1 or more."""
        return self.results["tasks_done"]

    def check_task(self, task: int | None) -> int:
        """Returns the number of a finished task, from 1; the last one for None.

        Raises:
          UserError: the task is not finished, or not there.
        """
        if task is None or 1 <= task <= self.tasks_done:
            return task or self.tasks_done
        raise UserError(
            f"task {task}: {self.workdir} has finished {self.tasks_done} of "
            f"{self.results['tasks_total']} tasks; use 1 to {self.tasks_done}"
        )

    def check_seed(self, seed: int | None) -> int:
        """Returns a seed of the run; the first one for None.

        Raises:
          UserError: the run does not have it.
        """
        seeds = self.settings.seeds
        if seed is None or seed in seeds:
            return seeds[0] if seed is None else seed
        raise UserError(f"seed {seed}: {self.workdir} has seeds {', '.join(map(str, seeds))}")

    def read_models(self, task: int) -> tuple[dict[str, np.ndarray], ModelRecord]:
        """Reads what was kept after a task, from 1: the arrays of all seeds, and their record.

        Raises:
          UserError: it is absent or damaged.
        """
        with _without_warnings():
            saved = Checkpoints(self.workdir / "models", keep=None, read_only=True)
            try:
                arrays, record = saved.read(model_number(task - 1))
            finally:
                saved.close()
        check_file(record, ModelRecord, self.workdir / "models" / str(task))
        return arrays, ModelRecord.model_validate(record)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keeps Orbax from warning of what reading alone means."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def open_run(workdir: StrPath) -> SavedRun:
    """Opens the workdir of a run that has finished a task.

    Raises:
      UserError: there is no run, it has finished no task, or a file is damaged or of another
        version.
    """
    workdir = expand(workdir)
    config, results = workdir / "config.json", workdir / "results.json"
    if not _is_there(config):
        raise UserError(f"{workdir}: not a workdir of cljax (it has no config.json)")
    if not _is_there(results):
        raise UserError(f"{workdir}: its run has not finished a task yet; run its command again")
    settings = _read_settings(config)
    content = read_json(results)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{results}: of another program or version: format {content.get('format')} instead of "
            f"{FORMAT}"
        )
    check_file(content, ResultsRecord, results)
    _check_shapes(content, settings, results)
    return SavedRun(workdir, settings, content)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # such as a name that is too long
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_settings(path: Path) -> Settings:
    try:
        return settings_lib.read(workdir_lib.with_added(read_json(path)))
    except UserError as error:
        if str(path) in str(error):
            raise
        reason = str(error.args[0])
        raise UserError(
            f"{path}: damaged, or written by another version of cljax: {reason}"
        ) from error


def _check_shapes(results: dict[str, Any], settings: Settings, path: Path) -> None:
    """Checks that lists of results.json have an entry for each seed and task."""
    seeds, done, sizes = len(settings.seeds), results["tasks_done"], results["task_sizes"]
    is_whole = (
        tuple(results["seeds"]) == settings.seeds
        and done <= len(sizes) == results["tasks_total"]
        and [len(order) for order in results["class_orders"]] == [sum(sizes)] * seeds
        and [len(row) for row in results["seen_accuracy"]] == [done] * seeds
        and len(results["accuracy"]) == seeds
    )
    if not is_whole:
        raise UserError(
            f"{path}: damaged: seeds, tasks, classes and accuracies contradict each other or "
            "config.json"
        )
