"""Runs one experiment: loads data, trains and evaluates each task, saves checkpoints, results."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import ml_collections
import numpy as np
from rich.console import Console

from cljax import build, evaluation, files, training
from cljax import problem as problem_lib
from cljax import settings as settings_lib
from cljax.compute import compilation, device, host_images, processes
from cljax.compute.executor import Executor
from cljax.compute.per_seed import PerSeed
from cljax.compute.signals import StopRequest
from cljax.data import residence
from cljax.errors import UserError, print_plain
from cljax.interop import pretrained
from cljax.output import logs, summary, workdir
from cljax.output import record as record_lib
from cljax.output.checkpoints import Checkpoints, flatten, has_checkpoints
from cljax.output.models import Models
from cljax.output.record import Group
from cljax.output.recorder import Cursor, Recorder
from cljax.reuse import Reuse
from cljax.saved import contents, first_task
from cljax.settings import Settings
from cljax.stages import Stage, StepInput, TrainStage
from cljax.state import EpochState, Task

T = TypeVar("T")


class Stopped(Exception):
    """Tells that a signal ended the run, after a checkpoint; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def run(
    config: ml_collections.ConfigDict,
    directory: str | Path,
    console: Console | None = None,
    reuse: Reuse | None = None,
) -> dict:
    """Starts or resumes the run of a config.

    Args:
      config: config as the files in configs/ make it.
      directory: workdir of the run; docs/results.md lists its files.
      console: shows progress and summary; standard output by default.
      reuse: what is taken over from the run before.

    Returns:
      The content of results.json.

    Raises:
      UserError: a setting, the data or the workdir is wrong, the loss is not finite, or memory is
        used up.
      Stopped: SIGINT or SIGTERM was received; the same call resumes the run.
    """
    directory, console = files.expand(directory), processes.main_console(console)
    reuse = reuse or Reuse()
    logs.log_to_console(console)
    with processes.raise_together():
        settings = build.with_precision(settings_lib.read(config))
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
            problem = make_problem(settings, directory, reuse)
        with processes.raise_together():
            if processes.is_main():
                workdir.begin(directory, settings)
                logs.log_to_file(directory)
            executor = reuse.executor(settings, problem)
            this = Run(settings, problem, executor, directory, console)
        results = this.go()
        processes.on_main(summary.print_summary, results, directory, console)
    return results


def check(config: ml_collections.ConfigDict, directory: Path) -> Settings:
    """Reads the settings of a run, and checks them, the devices and the workdir; writes nothing.

    Raises:
      UserError: a setting is wrong, or the workdir is not fit for the run.
    """
    settings = build.with_precision(settings_lib.read(config))
    build.check(settings)
    if processes.is_main():
        workdir.check(directory, settings)
    return settings


def make_problem(settings: Settings, directory: Path, reuse: Reuse) -> problem_lib.Problem:
    """Makes the problem of a run, whose new seeds also need the weights that they start with.

    These are of a file, or of another run's first task, which is only checked here.

    Raises:
      UserError: a setting, the data, the file in config.model.pretrained or the run in
        config.first_task_from is wrong.
    """
    problem = reuse.problem(settings)
    if settings.overwrite or not has_checkpoints(directory / "checkpoints"):
        return start(settings, problem)
    if seeds := workdir.new_seeds(directory, settings):
        start(build.of_seeds(settings, seeds), problem.of_seeds(seeds))
    return problem


def start(settings: Settings, problem: problem_lib.Problem) -> problem_lib.Problem:
    """Gives the seeds of a problem the weights that they start with, as `make_problem` says."""
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
      problem: problem of the seeds that run now, those which are furthest behind.
      cursor: their position in the run: the next epoch, stage and task.
      states: their learner states; within an epoch, the `EpochState`s around them.
      waiting: the other seeds, if some were added; all run together once these have caught up.
      undone: what the last task would be followed from, see `record.undone`.
    """

    def __init__(
        self,
        settings: Settings,
        problem: problem_lib.Problem,
        executor: Executor,
        directory: Path,
        console: Console,
    ):
        self.settings = settings
        self.directory = directory
        self.problem = self.whole = problem
        self.executor = executor
        self.recorder = Recorder(settings, problem, self.executor, directory, console)
        self.checkpoints = self.models = None  # where others write
        if processes.is_main():
            self.checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint.keep)
            facts = contents.make_record(problem.dataset, problem.fingerprint)
            self.models = Models(directory / "models", facts)
        self.cursor = Cursor()
        self.waiting: list[Group] = []
        self.undone: dict[str, np.ndarray] = {}
        self.states: PerSeed = self.executor.distribute(problem.states)

    def go(self) -> dict:
        """Runs all tasks that are left, and returns the content of results.json."""
        try:
            resumes, grown = self._restore()
            processes.on_main(self.recorder.announce, self.cursor, resumes, grown)
            self._check_models()
            if self.cursor.task == self.problem.num_tasks:
                self._write(self.recorder.mend)
            with StopRequest() as self.stop:
                while self.cursor.task < self.problem.num_tasks:
                    self._run_group()
            return self.recorder.results()
        finally:
            for opened in (self.checkpoints, self.models, self.recorder.log):
                if opened:
                    opened.close()

    def _run_group(self):
        """Runs the tasks of the seeds that are furthest behind, until they meet others."""
        with self.recorder.progress(self.cursor):
            self._run_task()
            ends = [Cursor(self.whole.num_tasks), *(group.cursor for group in self.waiting)]
            while self.cursor < min(ends):
                self._run_task()
        if self.waiting:
            self._choose([self._group(), *self.waiting])

    def _choose(self, groups: list[Group]):
        """Takes the seeds that are furthest behind as those that run; the others wait."""
        group, *others = record_lib.merge(groups, self.settings.seeds)
        self.waiting = [other._replace(states=jax.device_get(other.states)) for other in others]
        settings = build.of_seeds(self.settings, group.seeds)
        self.problem = self.whole.of_seeds(group.seeds)
        mesh = build.make_mesh(settings)
        if self.executor.mesh != mesh:
            self.executor = build.make_executor(settings)
        if mesh != build.make_mesh(self.settings):
            placed = settings.data.residence, settings.data.validation, mesh
            data, _ = residence.place(self.problem.dataset, *placed)
            self.problem = dataclasses.replace(self.problem, data=data)
        self.cursor = group.cursor
        self.states = self.executor.distribute(jax.device_put(group.states))
        self.recorder.follow(self.problem, self.executor)

    def _group(self) -> Group:
        """Returns the seeds that run, with their states on the host."""
        states = jax.device_get(self.executor.collect(self.states))
        return Group(self._seeds(), self.cursor, states)

    def _seeds(self) -> list[int]:
        return [stream.seed for stream in self.problem.streams]

    def _run_task(self):
        cursor, method, data = self.cursor, self.problem.method, self.problem.data
        tasks = self.executor.distribute(self.problem.tasks(cursor.task))
        stages = self.problem.stages(cursor.task)
        if cursor == Cursor(cursor.task) and not self.states.holds(EpochState):
            self.recorder.start("prepare", cursor)
            before_task = type(method).before_task
            self.states = self.executor.call(before_task, method, self.states, tasks, data)
            if cursor.task == 0 and self.settings.first_task_from:
                self._adopt_first_task(stages)
        while cursor.stage < len(stages):
            self._run_stage(stages[cursor.stage], tasks)
            cursor.stage, cursor.epoch = cursor.stage + 1, 0
            self._stop_if_asked()
            if cursor.stage < len(stages):
                self._write_checkpoint()
        self.recorder.start("finish", cursor)
        after_task = type(method).after_task
        ends_early = record_lib.ends_early(self.problem, cursor.task)
        before = self._flatten(self.states) if ends_early else {}
        self.states = self.executor.call(after_task, method, self.states, tasks, data)
        self.undone |= record_lib.undone(before, self._flatten(self.states) if ends_early else {})
        self._count_carried()
        self.recorder.start("evaluate", cursor)
        self.recorder.add_accuracy(self._evaluate(self.settings.eval.read_outs))
        self.recorder.start("save", cursor)
        self._save_model(cursor.task)
        self._write(self.recorder.write_results)
        self.cursor = Cursor(cursor.task + 1)
        self._stop_if_asked()
        self._write_checkpoint()

    def _adopt_first_task(self, stages: tuple[Stage, ...]):
        """Takes the first task's networks from another run, in place of the stages they need."""
        states, settings = self.executor.collect(self.states), self.settings
        settings = build.of_seeds(settings, self._seeds())
        adopted = first_task.adopt_first_task(settings, self.problem, states)
        self.states = self.executor.distribute(adopted.states)
        self.cursor.stage = 1
        if adopted.has_generators:
            self.cursor.epoch = stages[1].epochs  # stage `invert` only draws its pictures

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
        every = self.settings.eval.every_epochs if isinstance(stage, TrainStage) else 0
        correct = None
        if every and (cursor.epoch + 1) % every == 0:
            found = self._evaluate(("cnn",))
            correct = [of_seed[1, 0] for of_seed in found]
        self._write(self.recorder.add_epoch, cursor, stage, sums, stops, seconds, correct)

    def _count_carried(self):
        """Records what the learners carry on to the next task."""
        counts = [0] * len(self.problem.streams)
        if self.problem.states[0].exemplars is not None:
            stored = self.executor.collect(self.states.map(lambda state: state.exemplars.counts))
            counts = [int(np.asarray(of_seed).sum()) for of_seed in stored]  # compiles nothing
        self.recorder.add_carried(self.states, counts)

    def _evaluate(self, read_outs: tuple[str, ...]) -> list[np.ndarray]:
        """Counts correct predictions as `evaluation.evaluate` does."""
        problem, settings = self.problem, evaluation.Evaluation.from_settings(self.settings.eval)
        with self.recorder.time("evaluate"):
            return evaluation.evaluate(
                self.executor,
                problem.method,
                problem.data,
                problem.streams,
                self.states,
                self.cursor.task,
                dataclasses.replace(settings, read_outs=read_outs),
            )

    def _save_model(self, task: int):
        """Saves the classifiers, and generators, after a task, for other programs and people."""
        arrays = self._kept_after(task)
        self._check_finite(arrays)
        self._write(lambda: _written(self.models).save(task, arrays, self._seeds()))

    def _kept_after(self, task: int) -> dict[str, np.ndarray]:
        """Returns what models/ keeps of the seeds that run, whose newest finished task it is."""
        return self._flatten(self.states.map(lambda state: self._kept(state, task)))

    def _kept(self, state, task):
        return contents.kept(self.problem.method, state, task, self.problem.num_tasks)

    def _check_models(self):
        """Writes the latest model again if it is gone or damaged; names others that are."""
        latest = {}
        done = self.cursor.task
        if done and self.cursor.is_task_start and not self.states.holds(EpochState):
            latest[done] = self._kept_after(done - 1)
        for group in self.waiting:
            done = group.cursor.task
            if done and group.cursor.is_task_start and not group.is_within_epoch:
                kept = [self._kept(state, done - 1) for state in group.states]
                group = group._replace(states=kept)
                latest.setdefault(done, {}).update(record_lib.flatten_group(group))
        self._write(lambda: _written(self.models).mend(latest))

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
        for group in self.waiting:
            arrays |= record_lib.flatten_group(group)
        arrays |= self.undone
        record = {
            "format": record_lib.FORMAT,
            "cursor": dataclasses.asdict(self.cursor),
            "metrics": list(state.sums) if within_epoch else None,
            "recorder": self.recorder.state_dict(),
            "data": self.problem.fingerprint,
            "class_orders": record_lib.class_orders(self.whole),
            "models": _written(self.models).checksums,
            "seeds": list(self.settings.seeds),
            "waiting": [record_lib.describe(group) for group in self.waiting],
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

    def _restore(self) -> tuple[bool, str]:
        """Takes the state of the newest good checkpoint; new seeds start.

        Returns:
          Whether there is one, and in words what the run has more, "" for nothing.
        """
        restored = processes.on_main(lambda: _written(self.checkpoints).restore())
        restored = processes.broadcast_from_main(restored)
        if not restored:
            self.recorder.load_state_dict(None, [])
            return False, ""
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
            if self.models:
                done = {seed: self.recorder.tasks_done([seed]) for seed in seeds}
                finished = [
                    [seed for seed in seeds if done[seed] > task]
                    for task in range(len(record["models"]))
                ]
                self.models.restore(record["models"], finished)
        self._choose(groups)
        words = [f"seeds {', '.join(map(str, new))}"] if new else []
        before = len(record["class_orders"][0]["task_sizes"])
        if before < self.whole.num_tasks:
            words.append(f"tasks {before + 1} to {self.whole.num_tasks}")
        else:
            self.undone = record_lib.undone_of(arrays)
        return True, " and ".join(words)

    def _flatten(self, value: PerSeed) -> dict[str, np.ndarray]:
        arrays = {}
        for seed, tree in zip(self._seeds(), self.executor.collect(value), strict=True):
            arrays |= flatten(tree, f"seed{seed}")
        return arrays


def _written(kept: T | None) -> T:
    """What the first process writes; no other one has it."""
    assert kept is not None
    return kept
