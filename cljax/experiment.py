"""Runs one experiment: loads data, trains and evaluates each task, saves checkpoints, results."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from rich.console import Console

from cljax import build, evaluation, files, first_task, training
from cljax import problem as problem_lib
from cljax import settings as settings_lib
from cljax.compute import compilation, device, host_images, processes
from cljax.compute.per_seed import PerSeed
from cljax.compute.signals import StopRequest
from cljax.errors import UserError, note, print_plain
from cljax.interop import pretrained
from cljax.output import logs, summary, workdir
from cljax.output import record as record_lib
from cljax.output.checkpoints import (
    Checkpoints,
    checksum,
    flatten,
    has_checkpoints,
    unflatten,
)
from cljax.output.recorder import Cursor, Recorder
from cljax.settings import Settings
from cljax.stages import Stage, StepInput
from cljax.state import EpochState, Task

logger = logging.getLogger("cljax")


class Stopped(Exception):
    """Tells that a signal ended the run, after a checkpoint; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def run(
    config: ml_collections.ConfigDict, directory: str | Path, console: Console | None = None
) -> dict:
    """Starts or resumes the run of a config.

    Args:
      config: config as the files in configs/ make it.
      directory: workdir of the run; docs/results.md lists its files.
      console: shows progress and summary; standard output by default.

    Returns:
      The content of results.json.

    Raises:
      UserError: a setting, the data or the workdir is wrong, the loss is not finite, or memory is
        used up.
      Stopped: SIGINT or SIGTERM was received; the same call resumes the run.
    """
    directory, console = files.expand(directory), processes.main_console(console)
    logs.log_to_console(console)
    with processes.raise_together():
        settings = settings_lib.read(config)
        build.check(settings)
        compilation.enable_compilation_cache(settings.compilation_cache, console)
    fixed = device.fixed_settings(build.matmul_precision(settings))
    mistakes = host_images.reporting_mistakes()
    with device.reporting_memory(), mistakes, fixed, contextlib.ExitStack() as claims:
        # Mistakes must show here, before anything is written or removed.
        with processes.raise_together():
            if processes.is_main():
                claims.enter_context(workdir.claim(directory, settings))
            names = settings.data.name, settings.method.name
            line = "loading dataset {}, setting up method {}".format(*names)
            print_plain(console, line)
            problem = make_problem(settings, directory)
        with processes.raise_together():
            if processes.is_main():
                workdir.begin(directory, settings)
                logs.log_to_file(directory)
            this = Run(settings, problem, directory, console)
        results = this.go()
        processes.on_main(summary.print_summary, results, directory, console)
    return results


def check(config: ml_collections.ConfigDict, directory: Path) -> Settings:
    """Reads the settings of a run, and checks them, the devices and the workdir; writes nothing.

    Raises:
      UserError: a setting is wrong, or the workdir is not fit for the run.
    """
    settings = settings_lib.read(config)
    build.check(settings)
    if processes.is_main():
        workdir.check(directory, settings)
    return settings


def make_problem(settings: Settings, directory: Path) -> problem_lib.Problem:
    """Makes the problem of a run; a first start also needs the weights that it starts with.

    These are of a file, or of another run's first task, which is only checked here.

    Raises:
      UserError: a setting, the data, the file in config.model.pretrained or the run in
        config.first_task_from is wrong.
    """
    problem = problem_lib.make_problem(settings)
    if not settings.overwrite and has_checkpoints(directory / "checkpoints"):
        return problem
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


class Run:
    """Runs the tasks of one run, from its last checkpoint on.

    Attributes:
      cursor: position in the run: the next epoch, stage and task.
      states: learner states; within an epoch, the `EpochState`s around them.
      model_checksums: of the arrays in models/1, models/2 and so on.
    """

    def __init__(
        self, settings: Settings, problem: problem_lib.Problem, directory: Path, console: Console
    ):
        self.settings = settings
        self.directory = directory
        self.problem = problem
        self.executor = build.make_executor(settings)
        self.recorder = Recorder(settings, problem, self.executor, directory, console)
        self.checkpoints = self.models = None  # where others write
        if processes.is_main():
            self.checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint.keep)
            self.models = Checkpoints(directory / "models", keep=None)
        self.cursor = Cursor()
        self.model_checksums: list[int] = []
        self.states: PerSeed = self.executor.distribute(problem.states)

    def go(self) -> dict:
        """Runs all tasks that are left, and returns the content of results.json."""
        try:
            resumes = self._restore()
            processes.on_main(self.recorder.announce, self.cursor, resumes)
            self._check_models()
            if self.cursor.task == self.problem.num_tasks:
                self._write(self.recorder.mend)
            with StopRequest() as self.stop, self.recorder.progress(self.cursor):
                while self.cursor.task < self.problem.num_tasks:
                    self._run_task()
            return self.recorder.results()
        finally:
            for opened in (self.checkpoints, self.models, self.recorder.log):
                if opened:
                    opened.close()

    def _run_task(self):
        cursor, method, data = self.cursor, self.problem.method, self.problem.data
        tasks = self.executor.distribute(self.problem.tasks(cursor.task))
        stages = method.stages(cursor.task, self.problem.num_tasks)
        if cursor == Cursor(cursor.task) and not self.states.holds(EpochState):
            self.recorder.start("prepare", cursor)
            before_task = type(method).before_task
            self.states = self.executor.call(before_task, method, self.states, tasks, data)
            if cursor.task == 0 and self.settings.first_task_from:
                self._adopt_first_task()
        while cursor.stage < len(stages):
            self._run_stage(stages[cursor.stage], tasks)
            cursor.stage, cursor.epoch = cursor.stage + 1, 0
            self._stop_if_asked()
            if cursor.stage < len(stages):
                self._write_checkpoint()
        self.recorder.start("finish", cursor)
        after_task = type(method).after_task
        self.states = self.executor.call(after_task, method, self.states, tasks, data)
        self._evaluate()
        self.recorder.start("save", cursor)
        self._save_model(cursor.task)
        self._write(self.recorder.write_results)
        self.cursor = Cursor(cursor.task + 1)
        self._stop_if_asked()
        self._write_checkpoint()

    def _adopt_first_task(self):
        """Takes the first task's classifier from another run, in place of the first stage."""
        states = self.executor.collect(self.states)
        adopted = first_task.adopt_first_task(self.settings, self.problem, states)
        self.states = self.executor.distribute(adopted)
        self.cursor.stage = 1

    def _run_stage(self, stage: Stage, tasks: PerSeed[Task]):
        cursor, method, data = self.cursor, self.problem.method, self.problem.data
        self.recorder.start(stage.name, cursor, stage.epochs)
        if not stage.first_task_differs:
            tasks = tasks.map(lambda task: task.replace(is_first=False))
        if cursor.epoch == 0 and not self.states.holds(EpochState):
            begin = type(stage).begin
            self.states = self.executor.call(begin, stage, method, self.states, tasks, data)
        tasks, counts = self._take_images(stage, tasks)
        if not any(stage.num_steps(0, count) for count in counts):
            processes.on_main(self.recorder.warn_of_no_batch, cursor, stage, max(counts))
            cursor.epoch = stage.epochs
        while cursor.epoch < stage.epochs:
            self._run_epoch(stage, tasks, counts)
            cursor.epoch += 1
            if cursor.epoch < stage.epochs:
                self._stop_if_asked()
                if stage.save_every and cursor.epoch % stage.save_every == 0:
                    self._write_checkpoint()
        if stage.has_samples:
            self.recorder.start("draw", cursor)
            samples = self.executor.call(type(stage).samples, stage, method, self.states, tasks)
            samples = self.executor.collect(samples)
            self._write(self.recorder.write_samples, cursor.task, samples)

    def _take_images(self, stage: Stage, tasks: PerSeed[Task]) -> tuple[PerSeed[Task], list[int]]:
        """Gives the tasks the stage's images; returns them and the number of images per seed."""
        learners = self.states
        if learners.holds(EpochState):
            learners = learners.map(lambda state: state.learner)
        choose, problem = type(stage).training_set, self.problem
        images = self.executor.call(choose, stage, problem.method, learners, tasks, problem.data)
        counts = self.executor.collect(images.map(lambda found: found.count))
        tasks = tasks.map(lambda task, found: task.replace(images=found), images)
        return tasks, [int(count) for count in counts]

    def _run_epoch(self, stage: Stage, tasks: PerSeed[Task], counts: list[int]):
        cursor, problem = self.cursor, self.problem
        stops = [stage.num_steps(cursor.epoch, count) for count in counts]
        before = self.recorder.seconds[stage.name]
        with self.recorder.time(stage.name):
            epoch = jax.device_put(np.int32(cursor.epoch))
            inputs = StepInput(
                problem.method,
                stage,
                problem.data,
                tasks,  # pyright: ignore[reportArgumentType]  # here for all seeds
                epoch,
            )
            # With several processes, only the end of an epoch is a common point to stop.
            stop = self.stop if processes.is_alone() else lambda: False
            self.states = training.run_epoch(self.executor, inputs, self.states, stops, stop)
            measured = self.executor.collect(self.states.map(lambda s: (s.sums, s.step)))
            measured = jax.device_get(measured)
        if [int(step) for _, step in measured] != stops:
            self._stop_here()
        self.states = self.states.map(lambda state: state.learner)
        sums = [sums for sums, _ in measured]
        seconds = self.recorder.seconds[stage.name] - before
        self._write(self.recorder.add_epoch, cursor, stage, sums, stops, seconds)

    def _evaluate(self):
        problem, cursor = self.problem, self.cursor
        self.recorder.start("evaluate", cursor)
        with self.recorder.time("evaluate"):
            correct = evaluation.evaluate(
                self.executor,
                problem.method,
                problem.data,
                problem.streams,
                self.states,
                cursor.task,
                evaluation.Evaluation.from_settings(self.settings.eval),
            )
            self.recorder.add_accuracy(correct)

    def _save_model(self, task: int):
        """Saves the classifiers after a task, for other programs and people."""
        arrays = self._flatten(self.states.map(lambda state: state.variables))
        self._check_finite(arrays)
        self.model_checksums.append(checksum(arrays))
        self._write(self._save_arrays, arrays, problem_lib.model_number(task))

    def _save_arrays(self, arrays: dict[str, np.ndarray], number: int):
        _written(self.models).save(arrays, {"data": self.problem.fingerprint}, number)

    def _check_models(self):
        """Writes the latest model again if it is gone or damaged; names others that are."""
        if not self.model_checksums:  # in the first task there is nothing to gather for
            return
        within_epoch = self.states.holds(EpochState)
        latest = {} if within_epoch else self._flatten(self.states.map(lambda s: s.variables))
        self._write(self._mend_models, latest)

    def _mend_models(self, latest: dict[str, np.ndarray]):
        models = _written(self.models)
        for task, expected in enumerate(self.model_checksums):
            number = problem_lib.model_number(task)
            path = models.folder / str(number)
            if models.holds(number, expected):
                continue
            if checksum(latest) == expected:
                self._save_arrays(latest, number)
                note("%s: was gone or damaged; written again from the last checkpoint", path)
            else:
                logger.warning(
                    "%s: gone, or not what this run saved; only a run from the start makes it", path
                )

    def _write(self, function: Callable, *args):
        """Lets the first process write, unless someone has taken the workdir away."""

        def write():
            workdir.check_present(self.directory)
            function(*args)

        processes.on_main(write)

    def _stop_if_asked(self):
        """Saves a checkpoint and stops, if a signal to any process asks for it."""
        if number := processes.max_over_processes(self.stop.number or 0):
            self.stop.number = number
            self._stop_here()

    def _stop_here(self):
        self._write_checkpoint()
        assert self.stop.number is not None, "only a signal stops a run"
        raise Stopped(self.stop.number)

    def _write_checkpoint(self):
        start = time.perf_counter()
        arrays = self._flatten(self.states)
        self._check_finite(arrays)
        self._write(self._save_checkpoint, arrays)
        self.recorder.seconds["save"] += time.perf_counter() - start

    def _save_checkpoint(self, arrays):
        state, within_epoch = self.states.groups[0], self.states.holds(EpochState)
        record = {
            "format": record_lib.FORMAT,
            "cursor": dataclasses.asdict(self.cursor),
            "metrics": list(state.sums) if within_epoch else None,
            "recorder": self.recorder.state_dict(),
            "data": self.problem.fingerprint,
            "class_orders": record_lib.class_orders(self.problem),
            "models": self.model_checksums,
        }
        _written(self.checkpoints).save(arrays, record)

    def _check_finite(self, arrays: dict[str, np.ndarray]):
        """Refuses weights that are not finite; a last step may spoil them after a finite loss."""
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise UserError(
                    f"task {self.cursor.task + 1}: the state is not finite ({name}); the last good "
                    "checkpoint is kept; try a lower config.optimizer.lr in another --workdir"
                )

    def _restore(self) -> bool:
        """Takes the state of the newest good checkpoint; False if there is none."""
        restored = processes.on_main(lambda: _written(self.checkpoints).restore())
        restored = processes.broadcast_from_main(restored)
        arrays, record = restored or (None, None)
        with processes.raise_together():
            if record is not None:
                given = self.settings, self.problem, self.recorder.correct, self.directory
                record_lib.check(record, *given)
            self.recorder.load_state_dict(record and record["recorder"])
        if record is None or arrays is None:
            return False
        self.cursor, self.model_checksums = Cursor(**record["cursor"]), record["models"]
        states = self.problem.states
        if record["metrics"] is not None:
            sums = {name: jnp.float32(0) for name in record["metrics"]}
            states = [EpochState(state, sums, jnp.int32(0)) for state in states]
        pairs = zip(self.settings.seeds, states, strict=True)
        try:
            states = [unflatten(state, f"seed{seed}", arrays) for seed, state in pairs]
        except UserError as error:
            raise UserError(
                f"{self.directory}: the run was saved by another version of cljax: {error}"
            ) from error
        self.states = self.executor.distribute(states)
        return True

    def _flatten(self, value: PerSeed) -> dict[str, np.ndarray]:
        arrays = {}
        for seed, tree in zip(self.settings.seeds, self.executor.collect(value), strict=True):
            arrays |= flatten(tree, f"seed{seed}")
        return arrays


def _written(checkpoints: Checkpoints | None) -> Checkpoints:
    """The checkpoints of the first process; no other one has any."""
    assert checkpoints is not None
    return checkpoints
