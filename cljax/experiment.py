"""Runs one experiment: loads data, trains and evaluates each task, saves checkpoints, results."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
from cljax.errors import UserError, note, print_plain, printable
from cljax.member import Member, start
from cljax.output import logs, summary, workdir
from cljax.output import record as record_lib
from cljax.output.checkpoints import has_checkpoints
from cljax.output.record import Group
from cljax.output.recorder import Cursor
from cljax.reuse import Reuse
from cljax.settings import Settings
from cljax.stages import Stage, StepInput, TrainStage
from cljax.state import Data, EpochState, Task


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
    (outcome,) = run_first([(config, directory)], console, reuse)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def run_first(
    runs: Sequence[tuple[ml_collections.ConfigDict, str | Path]],
    console: Console | None = None,
    reuse: Reuse | None = None,
) -> list[dict | UserError]:
    """Starts or resumes the first of some runs, and with it those that can train together with it.

    These are the next ones, as long as their methods differ in traced values alone, such as loss
    weights and rates, if seeds share a program or the devices of a mesh: then the seeds of all of
    them do. Otherwise the first one runs alone. If one of several fails, each goes on alone.

    Args:
      runs: config and workdir of each; all configs have the same data, tasks, seeds and evaluation.
      console, reuse: as in `run`.

    Returns:
      Of each run that was taken, the content of results.json, or the error that ended it.

    Raises:
      Stopped: as in `run`.
    """
    console, reuse = processes.main_console(console), reuse or Reuse()
    runs = [(config, files.expand(directory)) for config, directory in runs]
    logs.log_to_console(console)
    taken: list[Path] = []
    try:
        return list(_run_first(runs, taken, console, reuse))
    except UserError as error:
        if len(taken) < 2:
            return [error]
        note("%s; each of the %d runs goes on alone", error, len(taken))
    reuse.forget()  # arrays that the error may hold
    return [outcome for one in runs[: len(taken)] for outcome in run_first([one], console, reuse)]


def _run_first(runs, taken, console, reuse):
    """As `run_first`, but raises; fills `taken` with the workdirs of the runs."""
    with processes.raise_together():
        settings = build.with_precision(settings_lib.read(runs[0][0]))
        build.check(settings)
        compilation.enable_compilation_cache(settings.compilation_cache, console)
    fixed = device.fixed_settings(build.matmul_precision(settings))
    mistakes = host_images.reporting_mistakes()
    with device.reporting_memory(), mistakes, fixed, contextlib.ExitStack() as claims:
        parts = list(_take(runs, claims, console, reuse))
        seeds = [stream.seed for _, problem, _ in parts for stream in problem.streams]
        executor = reuse.executor(build.of_seeds(settings, seeds), parts[0][1])
        consoles = [console, *(Console(quiet=True) for _ in parts[1:])]
        taken += [directory for *_, directory in parts]
        with processes.raise_together():
            members = [Member(*part, executor, c) for part, c in zip(parts, consoles, strict=True)]
        if len(members) > 1:
            names = ", ".join(printable(directory.name) for directory in taken)
            print_plain(console, f"training together: {names}")
        results = Run(members, executor).go()
        for directory, of_run in zip(taken, results, strict=True):
            processes.on_main(summary.print_summary, of_run, directory, console)
    return results


def _take(runs, claims, console, reuse):
    """Opens the workdirs of the runs that train together; yields settings, problem, directory."""
    key_of_first = None
    for config, directory in runs:
        with contextlib.ExitStack() as claim:
            # Mistakes must show here, before anything is written or removed.
            with processes.raise_together():
                settings = build.with_precision(settings_lib.read(config))
                if processes.is_main():
                    claim.enter_context(workdir.claim(directory, settings))
                names = settings.data.name, settings.method.name
                print_plain(console, "loading dataset {}, setting up method {}".format(*names))
                problem = make_problem(settings, directory, reuse)
            key = settings.first_task_from, *reuse.program_key(settings, problem)
            if key_of_first not in (None, key):
                return
            with processes.raise_together():
                if processes.is_main():
                    workdir.begin(directory, settings)
                    logs.log_to_file(directory)
            claims.enter_context(claim.pop_all())
        yield settings, problem, directory
        key_of_first = key
        if not build.shares_devices(settings):
            return


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


class Run:
    """Runs the tasks of one run, or of some that train together, from the last checkpoints on.

    Attributes:
      members: the runs.
      running: those with seeds that train now, the ones that are furthest behind.
      cursor: the position of these seeds: the next epoch, stage and task.
      states: their learner states; within an epoch, the `EpochState`s around them.
      method: their method; a `PerSeed` if there are several runs, each with its own.
      data: the dataset, where their executor needs it.
    """

    def __init__(self, members: list[Member], executor: Executor):
        self.members = self.running = members
        self.executor = executor
        self.num_tasks = members[0].whole.num_tasks
        self.cursor = Cursor()
        self.states: PerSeed
        self.method: Any
        self.data: Data

    def go(self) -> list[dict]:
        """Runs all tasks that are left, and returns the content of results.json of each run."""
        try:
            restored = [member.restore() for member in self.members]
            self._write(Member.announce, restored)
            self._choose([found.groups for found in restored])
            with StopRequest() as self.stop:
                while self.cursor.task < self.num_tasks:
                    self._run_group()
            return [member.recorder.results() for member in self.members]
        finally:
            for member in self.members:
                member.close()

    def _run_group(self):
        """Runs the tasks of the seeds that are furthest behind, until they meet others."""
        with contextlib.ExitStack() as shown:
            for member in reversed(self.running):
                shown.enter_context(member.recorder.progress(self.cursor))
            self._run_task()
            waiting = [group for member in self.members for group in member.waiting]
            ends = [Cursor(self.num_tasks), *(group.cursor for group in waiting)]
            while self.cursor < min(ends):
                self._run_task()
        if waiting:
            for member, states in zip(self.running, self._collect(self.states), strict=True):
                member.waiting.append(Group(member.seeds, self.cursor, jax.device_get(states)))
            self._choose([member.waiting for member in self.members])

    def _choose(self, groups: list[list[Group]]):
        """Takes the seeds that are furthest behind as those that train; the others wait.

        Args:
          groups: of each member, all its seeds.
        """
        pairs = [
            (member, record_lib.merge(own, member.settings.seeds))
            for member, own in zip(self.members, groups, strict=True)
        ]
        first = min(own[0].place for _, own in pairs)
        states = [member.take(own, first) for member, own in pairs]
        self.running = [member for member, own in pairs if own[0].place == first]
        self.cursor = Cursor(*first[0])
        problem, settings = self.running[0].problem, self.running[0].settings
        seeds = [seed for member in self.running for seed in member.seeds]
        of_seeds = build.of_seeds(settings, seeds)
        mesh = build.make_mesh(of_seeds)
        if self.executor.mesh != mesh:
            self.executor = build.make_executor(of_seeds)
        self.data = problem.data
        if mesh != build.make_mesh(settings):
            placed = settings.data.residence, settings.data.validation, mesh
            self.data, _ = residence.place(problem.dataset, *placed)
        self.states = self.executor.distribute(jax.device_put([s for own in states for s in own]))
        self.method = self._of_seeds([member.problem.method for member in self.running])
        for member in self.running:
            member.recorder.follow(member.problem, self.executor, len(self.running))

    def _run_task(self):
        cursor, method, data = self.cursor, self.method, self.data
        of_seeds = [task for member in self.running for task in member.problem.tasks(cursor.task)]
        tasks = self.executor.distribute(of_seeds)
        stages = list(zip(*(m.problem.stages(cursor.task) for m in self.running), strict=True))
        if cursor == Cursor(cursor.task) and not self.states.holds(EpochState):
            self._start("prepare")
            before_task = type(self.running[0].problem.method).before_task
            self.states = self.executor.call(before_task, method, self.states, tasks, data)
            if cursor.task == 0 and self.running[0].settings.first_task_from:
                self._adopt_first_task(stages)
        while cursor.stage < len(stages):
            self._run_stage(stages[cursor.stage], tasks)
            cursor.stage, cursor.epoch = cursor.stage + 1, 0
            self._stop_if_asked()
            if cursor.stage < len(stages):
                self._write_checkpoint()
        self._start("finish")
        after_task = type(self.running[0].problem.method).after_task
        ends_early = record_lib.ends_early(self.running[0].problem, cursor.task)
        before = self._collect(self.states) if ends_early else []
        self.states = self.executor.call(after_task, method, self.states, tasks, data)
        if ends_early:
            found = self.running, before, self._collect(self.states)
            for member, *own in zip(*found, strict=True):
                member.note_end(*own)
        self._count_carried()
        self._start("evaluate")
        found = self._evaluate(self.running[0].settings.eval.read_outs)
        for member, correct in zip(self.running, found, strict=True):
            member.recorder.add_accuracy(correct)
        self._start("save")
        task, states = cursor.task, self._collect(self.states)
        self._write(lambda member, states: member.save_model(task, states), states)
        self._write(lambda member: member.recorder.write_results())
        self.cursor = Cursor(cursor.task + 1)
        self._stop_if_asked()
        self._write_checkpoint()

    def _adopt_first_task(self, stages: Sequence[Sequence[Stage]]):
        """Takes the first task's networks from another run, in place of the stages they need."""
        states = self._collect(self.states)
        adopted = [m.adopt_first_task(own) for m, own in zip(self.running, states, strict=True)]
        self.states = self.executor.distribute([s for own in adopted for s in own.states])
        self.cursor.stage = 1
        if adopted[0].has_generators:
            self.cursor.epoch = stages[1][0].epochs  # stage `invert` only draws its pictures

    def _run_stage(self, stages: Sequence[Stage], tasks: PerSeed[Task]):
        """Runs a stage, of which each running member has a form: they differ in traced values."""
        cursor, method, stage = self.cursor, self.method, stages[0]
        of_seeds = self._of_seeds(stages)
        self._start(stage.name, stage.epochs)
        if not stage.first_task_differs:
            tasks = tasks.map(lambda task: task.replace(is_first=False))
        if cursor.epoch == 0 and not self.states.holds(EpochState):
            given = of_seeds, method, self.states, tasks, self.data
            self.states = self.executor.call(type(stage).begin, *given)
        tasks, counts = self._take_images(stage, of_seeds, tasks)
        if not any(stage.num_steps(0, count) for count in counts):
            self._write(lambda m: m.recorder.warn_of_no_batch(cursor, stage, max(counts)))
            cursor.epoch = stage.epochs
        while cursor.epoch < stage.epochs:
            self._run_epoch(stages, of_seeds, tasks, counts)
            cursor.epoch += 1
            if cursor.epoch < stage.epochs:
                self._stop_if_asked()
                if stage.save_every and cursor.epoch % stage.save_every == 0:
                    self._write_checkpoint()
        if stage.has_samples:
            self._start("draw")
            samples = self.executor.call(type(stage).samples, of_seeds, method, self.states, tasks)
            self._write(
                lambda member, drawn: member.recorder.write_samples(cursor.task, drawn),
                self._collect(samples),
            )

    def _take_images(self, stage, of_seeds, tasks) -> tuple[PerSeed[Task], list[int]]:
        """Gives the tasks the stage's images; returns them and the number of images per seed."""
        learners = self.states
        if learners.holds(EpochState):
            learners = learners.map(lambda state: state.learner)
        choose = type(stage).training_set
        images = self.executor.call(choose, of_seeds, self.method, learners, tasks, self.data)
        counts = self.executor.collect(images.map(lambda found: found.count))
        tasks = tasks.map(lambda task, found: task.replace(images=found), images)
        return tasks, [int(count) for count in counts]

    def _run_epoch(self, stages, of_seeds, tasks: PerSeed[Task], counts: list[int]):
        cursor, stage = self.cursor, stages[0]
        stops = [stage.num_steps(cursor.epoch, count) for count in counts]
        recorders = [member.recorder for member in self.running]
        before = [recorder.seconds[stage.name] for recorder in recorders]
        with self._time(stage.name):
            epoch = jax.device_put(np.int32(cursor.epoch))
            inputs = StepInput(
                self.method,
                of_seeds,
                self.data,
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
        seconds = [r.seconds[stage.name] - b for r, b in zip(recorders, before, strict=True)]
        every = self.running[0].settings.eval.every_epochs if isinstance(stage, TrainStage) else 0
        correct: list[Any] = [None] * len(self.running)
        if every and (cursor.epoch + 1) % every == 0:
            found = self._evaluate(("cnn",))
            correct = [[of_seed[1, 0] for of_seed in own] for own in found]
        sums = self._split([sums for sums, _ in measured])
        self._write(
            lambda member, *own: member.recorder.add_epoch(cursor, *own),
            *(stages, sums, self._split(stops), seconds, correct),
        )

    def _count_carried(self):
        """Records what the learners carry on to the next task."""
        counts = [[0] * len(member.seeds) for member in self.running]
        if self.running[0].problem.states[0].exemplars is not None:
            stored = self._collect(self.states.map(lambda state: state.exemplars.counts))
            # NumPy's sum compiles nothing.
            counts = [[int(np.asarray(of_seed).sum()) for of_seed in own] for own in stored]
        for member, own in zip(self.running, counts, strict=True):
            member.recorder.add_carried(self.states, own)

    def _evaluate(self, read_outs: tuple[str, ...]) -> list[list[np.ndarray]]:
        """Counts correct predictions as `evaluation.evaluate` does, for each running member."""
        settings = evaluation.Evaluation.from_settings(self.running[0].settings.eval)
        streams = [stream for member in self.running for stream in member.problem.streams]
        with self._time("evaluate"):
            correct = evaluation.evaluate(
                self.executor,
                self.method,
                self.data,
                streams,
                self.states,
                self.cursor.task,
                dataclasses.replace(settings, read_outs=read_outs),
            )
        return self._split(correct)

    def _start(self, part: str, num_epochs: int | None = None):
        for member in self.running:
            member.recorder.start(part, self.cursor, num_epochs)

    @contextlib.contextmanager
    def _time(self, part: str):
        with contextlib.ExitStack() as timed:
            for member in self.running:
                timed.enter_context(member.recorder.time(part))
            yield

    def _of_seeds(self, of_members: Sequence[Any]) -> Any:
        """A value of each running member, as functions of one seed are given it."""
        if len(self.members) == 1:
            return of_members[0]  # the same for all seeds
        pairs = zip(self.running, of_members, strict=True)
        return self.executor.distribute([value for m, value in pairs for _ in m.seeds])

    def _collect(self, value: PerSeed) -> list[list[Any]]:
        """Returns the values of the seeds that train, as a list for each running member."""
        return self._split(self.executor.collect(value))

    def _split(self, of_seeds: Sequence[Any]) -> list[list[Any]]:
        found = iter(of_seeds)
        return [list(itertools.islice(found, len(member.seeds))) for member in self.running]

    def _write(self, write: Callable, *of_members: Sequence[Any]):
        """Lets the first process write for each running member: `write(member, *its values)`."""

        def write_all():
            for member, *own in zip(self.running, *of_members, strict=True):
                workdir.check_present(member.directory)
                if len(self.members) > 1:
                    logs.log_to_file(member.directory)
                write(member, *own)

        processes.on_main(write_all)

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
        begun, states = time.perf_counter(), self._collect(self.states)
        self._write(lambda member, own: member.save_checkpoint(self.cursor, own), states)
        seconds = time.perf_counter() - begun
        for member in self.running:
            member.recorder.seconds["save"] += seconds / len(self.running)
