"""Runs one experiment: data, tasks, training, evaluation, checkpoints and results."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from cljax import build, first_task, training
from cljax import problem as problem_lib
from cljax.compute import compilation, processes
from cljax.compute.signals import StopRequest
from cljax.errors import UserError
from cljax.evaluation import Evaluator, Settings
from cljax.output import logs, summary, workdir
from cljax.output.checkpoints import Checkpoints, flatten, unflatten, unflatten_dict
from cljax.output.metrics import FORMAT
from cljax.output.recorder import Cursor, Recorder
from cljax.stages import Stage


class Stopped(Exception):
    """A signal ended the run; everything is saved. `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def run(config, directory: str | Path, console: Console | None = None) -> dict:
    """Runs, or goes on with, the experiment of `config` in `directory`.

    Args:
      config: a config as the files in configs/ make them.
      directory: the workdir; see docs/results.md for what is left there.
      console: where progress and summary are shown; standard output by default.

    Returns:
      The content of results.json.

    Raises:
      UserError: something is wrong with the config, the data or the directory, or the loss is not
        finite.
      Stopped: by SIGINT or SIGTERM; the run can be continued.
    """
    directory, console = Path(directory), processes.main_console(console)
    logs.log_to_console(console)
    with processes.raise_together():
        build.check(config)
        compilation.enable_compilation_cache(config.compilation_cache, console)
    precision = jax.default_matmul_precision(build.matmul_precision(config))
    with precision, contextlib.ExitStack() as claims:
        # Mistakes show here, before anything is written or removed.
        with processes.raise_together():
            if processes.is_main():
                claims.enter_context(workdir.claim(directory, config))
            line = f"loading dataset {config.data.name}, setting up method {config.method.name}"
            console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
            problem = problem_lib.make_problem(config)
            if config.first_task_from and (
                config.overwrite or not (directory / "checkpoints").exists()
            ):
                first_task.adopt_first_task(config, problem, problem.states)
        with processes.raise_together():
            if processes.is_main():
                workdir.begin(directory, config)
                logs.log_to_file(directory)
            this = Run(config, problem, directory, console)
        results = this.go()
        processes.on_main(summary.print_summary, results, directory, console)
    return results


class Run:
    """One run, from where its last checkpoint left it.

    Attributes:
      cursor: what comes next.
      states: the learners, in the executor's packed form.
      sums: the running epoch's metrics, likewise.
    """

    def __init__(self, config, problem: problem_lib.Problem, directory: Path, console: Console):
        self.config = config
        self.directory = directory
        self.problem = problem
        self.executor = build.make_executor(config)
        self.trainer = training.Trainer(self.executor, problem.method, problem.data)
        settings = Settings(**config.eval)
        self.evaluator = Evaluator(
            self.executor, problem.method, problem.data, problem.streams, settings
        )
        self.recorder = Recorder(config, problem, self.executor, directory, console)
        self.checkpoints = self.models = None  # where others write
        if processes.is_main():
            self.checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint.keep)
            self.models = Checkpoints(directory / "models", keep=None)
        self.cursor = Cursor()
        self.states = self.sums = None

    def go(self) -> dict:
        """Runs all tasks that are left; returns the results."""
        try:
            self._restore()
            processes.on_main(self.recorder.announce, self.cursor)
            with StopRequest() as self.stop, self.recorder.progress(self.cursor):
                while self.cursor.task < self.problem.num_tasks:
                    self._run_task()
            return self.recorder.results()
        finally:
            for opened in (self.checkpoints, self.models, self.recorder.log):
                if opened:
                    opened.close()

    def _run_task(self):
        cursor = self.cursor
        tasks = self.executor.pack(self.problem.tasks(cursor.task))
        stages = self.problem.method.stages(cursor.task, self.problem.num_tasks)
        if cursor == Cursor(cursor.task):
            self.recorder.start("prepare", cursor)
            self.states = self.trainer.before_task(self.states, tasks)
            if cursor.task == 0 and self.config.first_task_from:
                self._adopt_first_task()
        while cursor.stage < len(stages):
            self._run_stage(stages, tasks)
        self.recorder.start("finish", cursor)
        self.states = self.trainer.after_task(self.states, tasks)
        self.recorder.start("evaluate", cursor)
        with self.recorder.time("evaluate"):
            self.recorder.add_accuracy(self.evaluator.evaluate(self.states, cursor.task))
        self.recorder.start("save", cursor)
        self._save_model(cursor.task)
        processes.on_main(self.recorder.write_results)
        self.cursor = Cursor(cursor.task + 1)
        self._save(True)

    def _adopt_first_task(self):
        """Takes the first task's classifier from another run, in place of the first stage."""
        states = self.executor.unpack(self.states)
        adopted = first_task.adopt_first_task(self.config, self.problem, states)
        self.states = self.executor.pack(adopted)
        self.cursor.stage = 1

    def _run_stage(self, stages: tuple[Stage, ...], tasks):
        cursor, stage = self.cursor, stages[self.cursor.stage]
        self.recorder.start(stage.name, cursor, stage.epochs)
        if cursor.epoch == 0 and cursor.reached is None:
            self.states = self.trainer.begin(stage, self.states, tasks)
        tasks, counts = self.trainer.choose_images(stage, self.states, tasks)
        if not any(stage.num_steps(0, count) for count in counts):
            processes.on_main(self.recorder.warn_of_no_batch, cursor, stage, max(counts))
            cursor.epoch = stage.epochs
        while cursor.epoch < stage.epochs:
            self._run_epoch(stage, tasks, counts)
            cursor.epoch += 1
            if cursor.epoch < stage.epochs:
                self._save(stage.save_every and cursor.epoch % stage.save_every == 0)
        if stage.has_samples:
            self.recorder.start("draw", cursor)
            drawn = self.trainer.write_samples(stage, self.states, tasks)
            drawn = self.executor.unpack(drawn)
            processes.on_main(self.recorder.write_samples, cursor.task, drawn)
        cursor.stage, cursor.epoch = cursor.stage + 1, 0
        self._save(cursor.stage < len(stages))

    def _run_epoch(self, stage: Stage, tasks, counts: list[int]):
        cursor = self.cursor
        stops = [stage.num_steps(cursor.epoch, count) for count in counts]
        starts = cursor.reached or [0] * len(stops)
        before = self.recorder.seconds[stage.name]
        with self.recorder.time(stage.name):
            if cursor.reached is None:
                self.sums = self.trainer.zero_sums(stage, self.states, tasks, len(stops))
            stop = self.stop if processes.is_alone() else lambda: False  # they would part
            self.states, self.sums, reached = self.trainer.run_epoch(
                stage, cursor.epoch, self.states, tasks, self.sums, starts, stops, stop
            )
            sums = jax.device_get(self.executor.unpack(self.sums))
        if reached != stops:
            cursor.reached = reached
            self._stop_here()
        cursor.reached = None
        seconds = self.recorder.seconds[stage.name] - before
        processes.on_main(self.recorder.add_epoch, cursor, stage, sums, stops, seconds)

    def _save_model(self, task: int):
        """The classifiers after a task, for whoever wants to use or share them."""
        variables = self.executor.each(lambda state: state.variables, self.states)
        arrays = self._flatten(variables, "seed")
        self._check_finite(arrays)
        record, number = {"data": self.problem.fingerprint}, problem_lib.model_number(task)
        processes.on_main(lambda: self.models.save(arrays, record, number))

    def _save(self, due: bool):
        """Saves a checkpoint if it is due, or if a signal to any process asks to stop here."""
        if number := processes.max_over_processes(self.stop.number or 0):
            self.stop.number = number
            self._stop_here()
        if due:
            self._write_checkpoint()

    def _stop_here(self):
        self._write_checkpoint()
        raise Stopped(self.stop.number)

    def _write_checkpoint(self):
        start = time.perf_counter()
        arrays = self._flatten(self.states, "seed")
        if self.cursor.reached is not None:
            arrays |= self._flatten(self.sums, "sums")
        self._check_finite(arrays)
        processes.on_main(self._save_checkpoint, arrays)
        self.recorder.seconds["save"] += time.perf_counter() - start

    def _save_checkpoint(self, arrays):
        record = {
            "format": FORMAT,
            "cursor": dataclasses.asdict(self.cursor),
            "recorder": self.recorder.record(),
            "data": self.problem.fingerprint,
        }
        self.checkpoints.save(arrays, record)

    def _check_finite(self, arrays: dict[str, np.ndarray]):
        """A last step may spoil the weights after a loss that was finite; they are not kept."""
        for name, array in arrays.items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise UserError(
                    f"the state is not finite in task {self.cursor.task + 1}: {name}; the last "
                    "good checkpoint is kept; try a lower learning rate in another --workdir"
                )

    def _restore(self):
        """The state of the newest good checkpoint, or the state before the first task."""
        states = self.problem.states
        restored = processes.on_main(lambda: self.checkpoints.restore())
        restored = processes.broadcast_from_main(restored)
        if restored is None:
            with processes.raise_together():
                self.recorder.restore(None)
            self.states = self.executor.pack(states)
            return
        arrays, record = restored
        with processes.raise_together():
            self._check_record(record)
            self.recorder.restore(record["recorder"])
        self.cursor = Cursor(**record["cursor"])
        pairs = zip(self.config.seeds, states, strict=True)
        try:
            self.states = self.executor.pack([unflatten(s, f"seed{n}", arrays) for n, s in pairs])
        except UserError as error:
            raise UserError(
                f"{self.directory}: saved by another version of this program: {error}"
            ) from error
        if self.cursor.reached is not None:
            self.sums = self.executor.pack(
                [unflatten_dict(f"sums{seed}", arrays) for seed in self.config.seeds]
            )

    def _check_record(self, record: dict):
        if record.get("format") != FORMAT:
            raise UserError(
                f"{self.directory}: the run was saved by another version of this program, whose "
                "files count differently; finish it with that version, or start over with "
                "--config.overwrite=True"
            )
        if record["data"] != self.problem.fingerprint:
            raise UserError(
                f"{self.directory}: the run was started on other data than "
                f"{self.config.data.name} now holds; point --config.data.dir or "
                "--config.data.path at the data of its start"
            )

    def _flatten(self, packed, prefix: str) -> dict[str, np.ndarray]:
        arrays = {}
        for seed, tree in zip(self.config.seeds, self.executor.unpack(packed), strict=True):
            arrays |= flatten(tree, f"{prefix}{seed}")
        return arrays
