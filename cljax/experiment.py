"""The story of a run: data, tasks, training, evaluation, saving, report."""

import dataclasses
import itertools
import logging
import math
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from cljax import configure, logs, metrics, plots, report, setup, training, workdir
from cljax.checkpoints import Checkpoints, flatten, unflatten
from cljax.errors import UserError
from cljax.evaluation import Evaluator, Settings
from cljax.progress import Progress
from cljax.signals import StopRequest
from cljax.stages import Stage

logger = logging.getLogger("cljax")


class Stopped(Exception):
    """A signal ended the run; everything is saved. `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclasses.dataclass
class Cursor:
    """What the run does next: an epoch of a stage of a task, all counted from 0.

    `reached` holds the step that each seed has reached within the epoch, None at its start.
    """

    task: int = 0
    stage: int = 0
    epoch: int = 0
    reached: list[int] | None = None


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
    directory, console = Path(directory), console or Console()
    setup.check(config)
    with workdir.claim(directory, config):
        logs.setup_logging(directory, console)
        with jax.default_matmul_precision(configure.matmul_precision(config)):
            results = Run(config, directory, console).go()
        report.print_summary(results, directory, console)
    return results


class Run:
    """One run, from where its last checkpoint left it."""

    def __init__(self, config, directory: Path, console: Console):
        self.config = config
        self.directory = directory
        self.console = console
        self.problem = problem = setup.make_problem(config)
        self.method, self.streams = problem.method, problem.streams
        self.num_tasks = self.streams[0].num_tasks
        self.executor = setup.make_executor(config)
        self.trainer = training.Trainer(self.executor, self.method, problem.data)
        settings = Settings(config.eval.batch_size, config.eval.top_k)
        self.evaluator = Evaluator(self.executor, self.method, problem.data, self.streams, settings)
        self.checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint.keep)
        self.models = Checkpoints(directory / "models", keep=None)
        self.log = logs.RunLog(directory)
        self.cursor = Cursor()
        self.states = self.sums = None
        self.correct = [[[] for _ in config.seeds] for _ in range(2)]  # seen classes, within task
        self.seconds = {"compile": 0.0, "train": 0.0, "evaluate": 0.0, "save": 0.0, "total": 0.0}
        self._clock = time.perf_counter()

    def go(self) -> dict:
        """Runs all tasks that are left; returns the results."""
        try:
            self._restore()
            with StopRequest() as self.stop, self._progress() as self.progress:
                while self.cursor.task < self.num_tasks:
                    self._run_task()
            return self._results()
        finally:
            self.log.close()
            self.checkpoints.close()
            self.models.close()

    def _run_task(self):
        cursor = self.cursor
        tasks = self.executor.pack([setup.make_task(s, cursor.task) for s in self.streams])
        stages = self.method.stages(cursor.task, self.num_tasks)
        if cursor == Cursor(cursor.task):
            self.states = self.executor.call(training.before_task, self.method, self.states, tasks)
            if cursor.task == 0 and self.config.first_task_from:
                self.states = self._adopt_first_task()
                cursor.stage = 1
        while cursor.stage < len(stages):
            self._run_stage(stages, tasks)
        self.states = self.executor.call(training.after_task, self.method, self.states, tasks)
        self._evaluate()
        self.cursor = Cursor(cursor.task + 1)
        self._save_task(cursor.task)

    def _run_stage(self, stages, tasks):
        cursor, stage = self.cursor, stages[self.cursor.stage]
        if cursor.epoch == 0 and cursor.reached is None:
            self.states = self.trainer.begin(stage, self.states)
        while cursor.epoch < stage.epochs:
            self._run_epoch(stage, tasks)
            cursor.epoch += 1
            due = stage.save_every and cursor.epoch % stage.save_every == 0
            if cursor.epoch == stage.epochs:
                due = cursor.stage + 1 < len(stages)
                if stage.has_pictures:
                    self._draw_pictures(stage, tasks)
                cursor.stage, cursor.epoch = cursor.stage + 1, 0
                self._save(due)
                return
            self._save(due)

    def _run_epoch(self, stage: Stage, tasks):
        cursor = self.cursor
        start, compiled = time.perf_counter(), self.executor.compile_seconds
        counts = [int(stream.train_counts[cursor.task]) for stream in self.streams]
        stops = [stage.num_steps(cursor.epoch, count) for count in counts]
        starts = cursor.reached or [0] * len(stops)
        if cursor.reached is None:
            self.sums = self._zero_sums(stage, tasks)
        self.states, self.sums, reached = self.trainer.run_epoch(
            stage, cursor.epoch, self.states, tasks, self.sums, starts, stops, self.stop
        )
        sums = jax.device_get(self.executor.unpack(self.sums))
        compiled = self.executor.compile_seconds - compiled
        seconds = time.perf_counter() - start - compiled
        self.seconds["compile"] += compiled
        self.seconds[stage.name] = self.seconds.get(stage.name, 0.0) + seconds
        if reached != stops:
            cursor.reached = reached
            self._stop_here()
        cursor.reached = None
        self.done[stage.name] += sum(stops)
        images = (sum(stops) - sum(starts)) * stage.batch_size
        self._report_epoch(stage, sums, stops, images / max(seconds, 1e-9))

    def _zero_sums(self, stage, tasks):
        state, task = self.executor.unpack(self.states)[0], self.executor.unpack(tasks)[0]
        zeros = [self.trainer.zero_sums(stage, state, task) for _ in self.streams]
        return self.executor.pack(zeros)

    def _report_epoch(self, stage, sums, steps, images_per_second):
        cursor = self.cursor
        earlier = sum(
            s.epochs
            for t in range(cursor.task)
            for s in self.method.stages(t, self.num_tasks)
            if s.name == stage.name
        )
        rows = []
        for seed, total, n in zip(self.config.seeds, sums, steps, strict=True):
            rows.append({"loss": 0.0} | {name: float(value) / n for name, value in total.items()})
            self.log.append(
                {
                    "seed": seed,
                    "task": cursor.task,
                    "stage": stage.name,
                    "epoch": cursor.epoch,
                    "global_epoch": earlier + cursor.epoch,
                    **stage.describe(cursor.epoch),
                    **rows[-1],
                    "images_per_second": round(images_per_second, 1),
                }
            )
        self._check_finite(stage, rows)
        self.progress.update(
            task=cursor.task,
            num_tasks=self.num_tasks,
            stage=stage.name,
            epoch=cursor.epoch,
            num_epochs=stage.epochs,
            metrics={name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
            images_per_second=images_per_second,
            work_done=self.done[stage.name],
        )

    def _check_finite(self, stage, rows):
        for seed, row in zip(self.config.seeds, rows, strict=True):
            if not all(math.isfinite(value) for value in row.values()):
                terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
                raise UserError(
                    f"the loss is not finite in task {self.cursor.task}, {stage.name} epoch "
                    f"{self.cursor.epoch} (from 0), seed {seed}: {terms}; the last good checkpoint "
                    "is kept; try a lower --config.optimizer.lr in another --workdir"
                )

    def _draw_pictures(self, stage, tasks):
        drawn = self.executor.call(training.draw_pictures, (self.method, stage), self.states, tasks)
        names = self.problem.dataset.class_names
        for stream, pictures in zip(self.streams, self.executor.unpack(drawn), strict=True):
            images, labels = map(np.asarray, pictures)
            task = self.cursor.task
            path = self.directory / "plots" / f"dreamed_task{task}_seed{stream.seed}.png"
            title = f"dreamed after task {task + 1}, seed {stream.seed}"
            seen = [names[c] for c in stream.class_order[: stream.seen(task)]]
            plots.write_class_grid(images, labels, seen, path, title)

    def _evaluate(self):
        start, compiled = time.perf_counter(), self.executor.compile_seconds
        for seed, right in enumerate(self.evaluator.evaluate(self.states, self.cursor.task)):
            for per_seed, row in zip(self.correct, right.tolist(), strict=True):
                per_seed[seed].append(row)
        compiled = self.executor.compile_seconds - compiled
        self.seconds["compile"] += compiled
        self.seconds["evaluate"] += time.perf_counter() - start - compiled

    def _results(self):
        now = time.perf_counter()
        self.seconds["total"] += now - self._clock
        self._clock = now
        return metrics.build_results(
            method=self.config.method.name,
            dataset=self.problem.dataset.name,
            seeds=list(self.config.seeds),
            class_orders=[stream.class_order.tolist() for stream in self.streams],
            task_sizes=list(self.streams[0].task_sizes),
            test_images=[stream.eval_counts.tolist() for stream in self.streams],
            correct=self.correct[0],
            correct_within_task=self.correct[1],
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
            device=setup.device_name(),
            versions=setup.versions(),
            top_k=self.config.eval.top_k,
        )

    def _save_task(self, task: int):
        states = self.executor.unpack(self.states)
        variables = [flatten(s.variables, f"seed{n}") for n, s in self._by_seed(states)]
        self.models.save(dict(itertools.chain(*map(dict.items, variables))), {}, number=task)
        results = self._results()
        logs.write_json_atomically(self.directory / "results.json", results)
        plots.write_plots(results, self.log.rows(), self.directory / "plots")
        seen = results["seen_accuracy"]
        mean = np.mean([row[-1] for row in seen])
        self.progress.note(
            f"task {task + 1}/{self.num_tasks} done: {mean:.1f} % on all classes seen so far"
        )
        self._save(True)

    def _save(self, due: bool):
        """Saves a checkpoint if it is due or the run was asked to stop, and stops if so."""
        if self.stop():
            self._stop_here()
        if due:
            self._write_checkpoint()

    def _stop_here(self):
        self._write_checkpoint()
        raise Stopped(self.stop.number)

    def _write_checkpoint(self):
        start = time.perf_counter()
        arrays = {}
        for seed, state in self._by_seed(self.executor.unpack(self.states)):
            arrays |= flatten(state, f"seed{seed}")
        if self.cursor.reached is not None:
            for seed, sums in self._by_seed(self.executor.unpack(self.sums)):
                arrays |= flatten(sums, f"sums{seed}")
        self._results()
        record = {
            "cursor": dataclasses.asdict(self.cursor),
            "correct": self.correct,
            "seconds": self.seconds,
            "metrics_position": self.log.position(),
            "data": self.problem.fingerprint,
        }
        self.checkpoints.save(arrays, record)
        self.seconds["save"] += time.perf_counter() - start

    def _restore(self):
        """The state of the newest good checkpoint, or the state before the first task."""
        states = self.problem.states
        restored = self.checkpoints.restore()
        if restored is None:
            self.log.truncate(0)
            self.states = self.executor.pack(states)
            return
        arrays, record = restored
        if record["data"] != self.problem.fingerprint:
            raise UserError(
                f"{self.directory}: the run was started on other data than {self.config.data.name} "
                "now holds; point --config.data.dir or --config.data.path at the data of its start"
            )
        self.cursor = Cursor(**record["cursor"])
        self.correct, self.seconds = record["correct"], record["seconds"]
        self.log.truncate(record["metrics_position"])
        pairs = self._by_seed(states)
        self.states = self.executor.pack([unflatten(s, f"seed{n}", arrays) for n, s in pairs])
        if self.cursor.reached is not None:
            stage = self.method.stages(self.cursor.task, self.num_tasks)[self.cursor.stage]
            task = setup.make_task(self.streams[0], self.cursor.task)
            zeros = self.trainer.zero_sums(stage, states[0], task)
            sums = [unflatten(zeros, f"sums{n}", arrays) for n in self.config.seeds]
            self.sums = self.executor.pack(sums)
        if self.cursor.task < self.num_tasks:
            logger.log(logs.NOTE, "going on in %s with %s", self.directory, self._where())

    def _where(self) -> str:
        cursor = self.cursor
        stages = self.method.stages(cursor.task, self.num_tasks)
        stage = stages[cursor.stage].name if cursor.stage < len(stages) else "evaluation"
        return f"task {cursor.task + 1}, {stage} epoch {cursor.epoch + 1}"

    def _by_seed(self, per_seed):
        return list(zip(self.config.seeds, per_seed, strict=True))

    def _adopt_first_task(self):
        states = self.executor.unpack(self.states)
        return self.executor.pack(setup.adopt_first_task(self.config, self.streams, states))

    def _progress(self):
        self.done = self._work(self.cursor)
        work = self._work(Cursor(self.num_tasks))
        return Progress(work, done=self.done, console=self.console)

    def _work(self, cursor: Cursor) -> dict[str, int]:
        """Steps of all seeds before `cursor`, per stage name."""
        work = {}
        for task in range(self.num_tasks):
            for place, stage in enumerate(self.method.stages(task, self.num_tasks)):
                epochs = stage.epochs if (task, place) < (cursor.task, cursor.stage) else 0
                epochs = cursor.epoch if (task, place) == (cursor.task, cursor.stage) else epochs
                counts = [int(stream.train_counts[task]) for stream in self.streams]
                steps = [stage.num_steps(e, n) for n in counts for e in range(epochs)]
                work[stage.name] = work.get(stage.name, 0) + sum(steps)
        return work
