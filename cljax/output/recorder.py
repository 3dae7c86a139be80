"""Records metrics, accuracies and times of a run, and shows its progress."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from cljax import build, files
from cljax import problem as problem_lib
from cljax.compute import device, processes
from cljax.compute.executor import Executor
from cljax.compute.per_seed import PerSeed
from cljax.data.sources import CHOSEN_CLASSES
from cljax.errors import NOTE, UserError, note
from cljax.output import logs, metrics, plots
from cljax.output.cost import Costs, carried_bytes
from cljax.output.progress import Progress, describe_metrics
from cljax.settings import Settings
from cljax.stages import Stage
from cljax.state import LearnerState

logger = logging.getLogger("cljax")


@dataclasses.dataclass(order=True)
class Cursor:
    """Says what the run does next: task, stage and epoch, each from 0.

    The step within an epoch is in the `EpochState` of the learners.
    """

    task: int = 0
    stage: int = 0
    epoch: int = 0

    @property
    def is_task_start(self) -> bool:
        """Whether the next task has not begun."""
        return not (self.stage or self.epoch)


class Recorder:
    """Records metrics, accuracies and times of a run, shows them, and writes their files.

    Only the first process shows and writes them; other processes keep accuracies and seconds.

    Attributes:
      correct: correct predictions as `evaluation.evaluate` counts them, by read-out ("own" first):
        "seen" and "within_task", each [seed][t][j].
      seconds: wall time of each part of the run.
      costs: time and memory of each task.
      carried: what each learner carries on from each task, see `cost.carried_bytes`; [seed][t].
      running: problem of the seeds that run now, all unless some were added.
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
        self.problem = self.running = problem
        self.executor = executor
        self.directory = directory
        self.console = console
        self.log = logs.RunLog(directory) if processes.is_main() else None
        self.correct = {
            name: {kind: [[] for _ in settings.seeds] for kind in ("seen", "within_task")}
            for name in ("own", *settings.eval.read_outs)
        }
        names = [stage.name for _, _, stage in problem.plan()]
        parts = ["compile", *names, "evaluate", "save", "total"]
        self.seconds = dict.fromkeys(parts, 0.0)
        self.costs = Costs()
        self.carried: list[list[dict[str, int]]] = [[] for _ in settings.seeds]
        self._task = 0
        self._ran_on = {"device": device.device_name(), "versions": device.versions()}
        self._started, self._num_runs = time.perf_counter(), 1

    def state_dict(self) -> dict:
        """Returns what a checkpoint keeps of the recorder."""
        self._count_total()
        self.costs.note_peaks(self._task)
        return {
            "correct": self.correct,
            "seconds": self.seconds,
            "cost": self.costs.tasks,
            "carried": self.carried,
            "ran_on": self._ran_on,
            "metrics_position": self._written_log.position(),
        }

    def load_state_dict(self, state: dict | None, seeds: Sequence[int]) -> None:
        """Goes back to a checkpoint's `state_dict`, or to the start; drops later metrics.

        Args:
          state: the `state_dict`; None: of a run that starts.
          seeds: the seeds of the state, in its order.
        """
        if state:
            for name, kinds in state["correct"].items():
                for kind, of_seeds in kinds.items():
                    for seed, rows in zip(seeds, of_seeds, strict=True):
                        self.correct[name][kind][self.settings.seeds.index(seed)] = rows
            for seed, sizes in zip(seeds, state.get("carried", []), strict=False):
                self.carried[self.settings.seeds.index(seed)] = sizes
            self.seconds |= state["seconds"]
            self.costs.tasks = state.get("cost", [])  # earlier versions have neither
            if self.tasks_done() == self.problem.num_tasks:
                self._ran_on = state["ran_on"]  # what is shown of a complete run stays
        if self.log:
            self.log.truncate(*state["metrics_position"] if state else (0, 0))
            for seed in self.settings.seeds:
                for task in range(self.tasks_done([seed])):
                    self._log_task(seed, task)
            for path, seed, task in self._pictures():
                if plots.is_whole(path):
                    self.log.add_picture(seed, task + 1, "dreamed", path.read_bytes())

    def tasks_done(self, seeds: Sequence[int] | None = None) -> int:
        """Returns how many tasks all seeds, or some, have finished."""
        seeds = self.settings.seeds if seeds is None else seeds
        own = self.correct["own"]["seen"]
        return min(len(own[self.settings.seeds.index(seed)]) for seed in seeds)

    def follow(self, problem: problem_lib.Problem, executor: Executor, num_runs: int) -> None:
        """Records the seeds of `problem` from now on, which run by `executor`.

        Args:
          problem: theirs.
          executor: the executor.
          num_runs: number of runs that train together; each counts its share of the time.
        """
        self._count_total()
        self.running, self.executor, self._num_runs = problem, executor, num_runs

    @property
    def _written_log(self) -> logs.RunLog:
        assert self.log is not None, "only the first process writes"
        return self.log

    @contextlib.contextmanager
    def time(self, part: str):
        """Adds the wall time of the block to a part of the run; its compilation to "compile"."""
        start, compiled = time.perf_counter(), self.executor.compile_seconds
        yield
        compiled = self.executor.compile_seconds - compiled
        rest = time.perf_counter() - start - compiled
        for name, seconds in (("compile", compiled), (part, rest)):
            seconds /= self._num_runs
            self.seconds[name] += seconds
            self.costs.add_seconds(self._task, name, seconds)

    @contextlib.contextmanager
    def progress(self, cursor: Cursor):
        """Shows the progress of the run, from `cursor` on, during the block."""
        self._done = self._work_before(cursor)
        work = self._work_before(Cursor(self.problem.num_tasks))
        with Progress(work, done=self._done, console=self.console) as self._progress:
            self.executor.when_compiling = self._progress.compiling
            yield

    def start(self, part: str, cursor: Cursor, num_epochs: int | None = None) -> None:
        """Shows the start of a stage, which has epochs, or of another part of a task."""
        self._task = cursor.task
        self._progress.start(
            task=cursor.task,
            num_tasks=self.problem.num_tasks,
            part=part,
            epoch=cursor.epoch if num_epochs else None,
            num_epochs=num_epochs,
        )

    def add_epoch(
        self,
        cursor: Cursor,
        stage: Stage,
        sums: list[dict],
        steps: list[int],
        seconds: float,
        correct: list[np.ndarray] | None,
    ) -> None:
        """Writes and shows the metrics of an epoch.

        Args:
          cursor: position of the epoch.
          stage: its stage.
          sums: metrics of each seed, summed over its steps.
          steps: number of steps of each seed.
          seconds: the run's share of the wall time of the epoch, all its seeds together.
          correct: per seed int32 [task + 1], correct predictions on each task's test images after
            the epoch; None: not counted.

        Raises:
          UserError: a metric is not finite; its line is written before.
        """
        kind = _kind_of_work(stage, cursor.task)
        self._done[kind] += self.running.num_images(cursor.task)
        images = sum(steps) * stage.images_per_step
        self.costs.add_images(cursor.task, stage.name, images)
        rate = images / max(seconds, 1e-9)
        earlier = sum(
            s.epochs for t, _, s in self.problem.plan(cursor.task) if s.name == stage.name
        )
        rows = {}
        split = "validation" if self.settings.data.validation else "test"
        for i, (stream, total, n) in enumerate(zip(self.running.streams, sums, steps, strict=True)):
            seed = stream.seed
            if not n:  # fewer images than a batch, with this seed
                continue
            rows[seed] = {"loss": 0.0} | {name: float(v) / n for name, v in total.items()}
            place = {  # files count from 1
                "seed": seed,
                "task": cursor.task + 1,
                "stage": stage.name,
                "epoch": cursor.epoch + 1,
                "global_epoch": earlier + cursor.epoch + 1,
            }
            fixed = stage.log_scalars(cursor.epoch)
            if correct is not None:
                images = int(stream.eval_counts[: cursor.task + 1].sum())
                fixed[f"{split}_accuracy"] = int(correct[i].sum()) / images
            self._written_log.append(
                {**place, **fixed, **rows[seed], "images_per_second": round(rate, 1)}
            )
        self._check_finite(cursor, stage, rows)
        names = next(iter(rows.values()))
        means = {name: float(np.mean([row[name] for row in rows.values()])) for name in names}
        words = f"task {cursor.task + 1}", f"{stage.name} {cursor.epoch + 1}/{stage.epochs}"
        logger.info("%s", "  ".join([*words, *describe_metrics(means), f"{rate:,.0f} images/s"]))
        self._progress.update(
            task=cursor.task,
            num_tasks=self.problem.num_tasks,
            stage=stage.name,
            epoch=cursor.epoch,
            num_epochs=stage.epochs,
            metrics=means,
            kind=kind,
            work_done=self._done[kind],
            images_per_second=rate,
        )

    def warn_of_no_batch(self, cursor: Cursor, stage: Stage, count: int) -> None:
        """Warns that a stage is skipped."""
        logger.warning(
            'task %d: skipped stage "%s": it has %d images, less than one batch of %d; a smaller '
            "config.batch_size runs it",
            cursor.task + 1,
            stage.name,
            count,
            stage.images_per_step,
        )

    def add_carried(self, states: PerSeed[LearnerState], num_exemplars: Sequence[int]) -> None:
        """Adds what the learners that run carry on from a task.

        Args:
          states: the learners after the task.
          num_exemplars: number of exemplars of each.
        """
        shapes = jax.eval_shape(lambda state: state, states.groups[0])
        if states.stacked:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)
        image_bytes = math.prod(self.problem.dataset.image_shape)
        for stream, count in zip(self.running.streams, num_exemplars, strict=True):
            sizes = carried_bytes(self.problem.method, shapes, count, image_bytes)
            self.carried[self.settings.seeds.index(stream.seed)][self._task :] = [sizes]

    def add_accuracy(self, correct: list[np.ndarray]) -> None:
        """Adds the correct predictions that `evaluation.evaluate` counted, of each running seed."""
        for stream, counts in zip(self.running.streams, correct, strict=True):
            place = self.settings.seeds.index(stream.seed)
            for kinds, rows in zip(self.correct.values(), counts.tolist(), strict=True):
                # A task that ended early, and has further stages now, is counted again.
                kinds["seen"][place][self._task :] = [rows[0]]
                kinds["within_task"][place][self._task :] = [rows[1]]

    def write_samples(self, task: int, drawn: list) -> None:
        """Writes the samples of a stage: what `Stage.samples` returns, of each seed."""
        names = self.problem.dataset.class_names
        for stream, pictures in zip(self.running.streams, drawn, strict=True):
            images, labels, known = map(np.asarray, pictures)
            path = self._samples_path(task, stream.seed)
            title = f"dreamed in task {task + 1}, seed {stream.seed}"
            known = [names[c] for c in stream.class_order[:known]]
            why = "Short rows: the teacher labels few dreamed images as this class."
            plots.write_class_grid(images, labels, known, path, title, why)
            self._written_log.add_picture(stream.seed, task + 1, "dreamed", path.read_bytes())

    def results(self) -> dict:
        """Returns the content of results.json: of the tasks that all seeds have finished."""
        self._count_total()
        streams, done = self.problem.streams, self.tasks_done()
        correct = {
            name: {kind: [rows[:done] for rows in of_seeds] for kind, of_seeds in kinds.items()}
            for name, kinds in self.correct.items()
        }
        results = metrics.build_results(
            method=self.settings.method.name,
            dataset=self.problem.dataset.name,
            seeds=list(self.settings.seeds),
            class_orders=self.problem.class_orders,
            class_names=self.problem.class_names,
            task_sizes=list(streams[0].task_sizes),
            test_images=[stream.eval_counts.tolist() for stream in streams],
            correct=correct["own"]["seen"],
            correct_within_task=correct["own"]["within_task"],
            read_outs={name: correct[name]["seen"] for name in self.settings.eval.read_outs},
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
            **self._ran_on,
            top_k=self.settings.eval.top_k,
        )
        return results | {
            "dtype": self.settings.dtype,
            "carried_bytes": [sizes[:done] for sizes in self.carried],
            "cost": self.costs.results(done),
        }

    def write_results(self) -> None:
        """Writes results.json and the plots, and shows the latest accuracy."""
        self.costs.note_peaks(self._task)
        results = self.results()
        for stream in self.running.streams:
            self._log_task(stream.seed, self._task)
        files.write_json_atomically(self.directory / "results.json", results)
        plots.write_plots(results, self._written_log.rows(), self.directory / "plots")
        mean = np.mean([row[-1] for row in results["seen_accuracy"]])
        done, total = results["tasks_done"], results["tasks_total"]
        self._progress.note(f"task {done}/{total} done: {mean:.1f} % on all classes seen so far")

    def mend(self) -> None:
        """Writes results.json and the plots of a complete run again if gone or damaged."""
        results, path = self.results(), self.directory / "results.json"
        if not _says_the_same(path, results):
            files.write_json_atomically(path, results)
            note("%s: was gone or damaged; written again from the last checkpoint", path)
        folder = self.directory / "plots"
        whole = {name for name in plots.PLOTS if plots.is_whole(folder / name)}
        if len(whole) < len(plots.PLOTS):
            for written in plots.write_plots(results, self._written_log.rows(), folder):
                if written.name not in whole:
                    note("%s: was gone or damaged; drawn again", written)
        for path, _, _ in self._pictures():
            if not plots.is_whole(path):
                logger.warning("%s: gone or damaged; only a run from the start draws it", path)

    def _pictures(self) -> Iterator[tuple[Path, int, int]]:
        """Yields path, seed and task of every picture of samples that the whole run draws."""
        for task, _, stage in self.problem.plan():
            for seed in self.settings.seeds if stage.has_samples else ():
                yield self._samples_path(task, seed), seed, task

    def _log_task(self, seed: int, task: int) -> None:
        """Adds what a seed has reached after a task (from 0) to the TensorBoard events."""
        place, values = self.settings.seeds.index(seed), {}
        images = self.problem.streams[place].eval_counts.tolist()
        for name, kinds in self.correct.items():
            found = metrics.after_task(kinds["seen"][place][: task + 1], images)
            prefix = "" if name == "own" else f"{name}/"
            values |= {prefix + key: value for key, value in found.items()}
        self._written_log.add_task(seed, task + 1, values)

    def _samples_path(self, task: int, seed: int) -> Path:
        return self.directory / "plots" / f"dreamed_task{task + 1}_seed{seed}.png"

    def announce(self, cursor: Cursor, resumes: bool, grown: str) -> None:
        """Logs what runs, and warns of settings without effect.

        Args:
          cursor: where the run starts, the seeds that are furthest behind.
          resumes: whether it starts from a checkpoint.
          grown: what it has more than the checkpoint, such as "seeds 1, 2"; "" for nothing. The
            results of all seeds together are written then.
        """
        settings, streams = self.settings, self.problem.streams
        logger.info("%s on %s", settings.method.name, self.problem.dataset.name)
        logger.info("device %s; %s", device.device_name(), device.versions())
        logger.info("%s", self.problem.residence)
        if device.platform() == "gpu":
            logger.info("CUDA graphs: %s", build.graphs(self.settings))
        for stream, order in zip(streams, self.problem.class_orders, strict=True):
            logger.info("seed %d: class order %s, sizes %s", stream.seed, order, stream.task_sizes)
        # Of a dataset that chooses classes, the user sees which; log.txt has all names of any.
        level = NOTE if settings.data.name in CHOSEN_CLASSES else logging.INFO
        for seed, names in zip(settings.seeds, self.problem.class_names, strict=True):
            logger.log(level, "seed %d: classes in this order: %s", seed, ", ".join(names))
        late = tuple(m for m in settings.milestones if m >= settings.epochs)
        if late:
            logger.warning(
                "config.milestones=%s: not reached, because config.epochs=%d; the learning rate "
                "does not drop there; --config.schedule_scale shortens both together",
                late,
                settings.epochs,
            )
        if cursor.task == self.problem.num_tasks:
            note("%s: this run is already complete; nothing to do", self.directory)
        elif grown:
            note("%s: adds %s to this run", self.directory, grown)
            files.write_json_atomically(self.directory / "results.json", self.results())
        elif resumes:
            where = f"task {cursor.task + 1}, stage {cursor.stage + 1}, epoch {cursor.epoch + 1}"
            note("resuming %s at %s", self.directory, where)

    def _count_total(self):
        now = time.perf_counter()
        self.seconds["total"] += (now - self._started) / self._num_runs
        self._started = now

    def _check_finite(self, cursor, stage, rows):
        for seed, row in rows.items():
            if not all(math.isfinite(value) for value in row.values()):
                terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
                raise UserError(
                    f"the loss is not finite in task {cursor.task + 1}, {stage.name} epoch "
                    f"{cursor.epoch + 1}, seed {seed}: {terms}; the last good checkpoint is kept; "
                    "try a lower config.optimizer.lr in another --workdir"
                )

    def _work_before(self, cursor: Cursor) -> dict[str, int]:
        work = {}
        for task, place, stage in self.problem.plan():
            epochs = stage.epochs if (task, place) < (cursor.task, cursor.stage) else 0
            epochs = cursor.epoch if (task, place) == (cursor.task, cursor.stage) else epochs
            kind = _kind_of_work(stage, task)
            work[kind] = work.get(kind, 0) + epochs * self.running.num_images(task)
        return work


def _says_the_same(path: Path, results: dict) -> bool:
    """Whether a results.json has these results; times go on with every start."""
    try:
        found = files.read_json(path)
    except UserError:
        return False
    expected = files.plain(results)
    return found.keys() == expected.keys() and all(
        found[key] == value for key, value in expected.items() if key not in ("seconds", "cost")
    )


def _kind_of_work(stage: Stage, task: int) -> str:
    """Epochs of one kind cost about as much per image of the task: those of a stage, but the first
    task's apart."""
    return f"{stage.name} of the first task" if task == 0 else stage.name
