"""Records metrics, accuracies and times of a run, and shows its progress."""

import contextlib
import dataclasses
import logging
import math
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from cljax import files
from cljax import problem as problem_lib
from cljax.compute import device, processes
from cljax.compute.executor import Executor
from cljax.errors import UserError
from cljax.notes import note
from cljax.output import logs, metrics, plots
from cljax.output.progress import Progress, describe_metrics
from cljax.stages import Stage

logger = logging.getLogger("cljax")


@dataclasses.dataclass
class Cursor:
    """What the run does next: an epoch of a stage of a task, all counted from 0.

    How far an epoch has come is in the learners' `EpochState`.
    """

    task: int = 0
    stage: int = 0
    epoch: int = 0


class Recorder:
    """Keeps a run's numbers, shows them, and writes all files but the checkpoints.

    Only the first process shows and writes them; others keep accuracies and seconds alone.

    Attributes:
      correct: right answers [way][2][seed][t][j] as `evaluation.evaluate` counts them.
      seconds: wall time per part of the run.
    """

    def __init__(
        self,
        config,
        problem: problem_lib.Problem,
        executor: Executor,
        directory: Path,
        console: Console,
    ):
        self.config = config
        self.problem = problem
        self.executor = executor
        self.directory = directory
        self.console = console
        self.log = logs.RunLog(directory) if processes.is_main() else None
        ways = 1 + len(config.eval.read_outs)
        self.correct = [[[[] for _ in config.seeds] for _ in range(2)] for _ in range(ways)]
        names = [stage.name for _, _, stage in problem.plan()]
        parts = ["compile", *names, "evaluate", "save", "total"]
        self.seconds = dict.fromkeys(parts, 0.0)
        self._started = time.perf_counter()

    def state_dict(self) -> dict:
        """Returns what a checkpoint keeps of the recorder."""
        self._count_total()
        return {
            "correct": self.correct,
            "seconds": self.seconds,
            "metrics_position": self.log.position(),
        }

    def load_state_dict(self, state: dict | None) -> None:
        """Goes back to a checkpoint's `state_dict`, or to the start; drops later metrics."""
        if state:
            self.correct, self.seconds = state["correct"], state["seconds"]
        if self.log:
            self.log.truncate(state["metrics_position"] if state else 0)

    @contextlib.contextmanager
    def time(self, part: str):
        """Adds the block's wall time to a part of the run, and its compilation to "compile"."""
        start, compiled = time.perf_counter(), self.executor.compile_seconds
        yield
        compiled = self.executor.compile_seconds - compiled
        self.seconds["compile"] += compiled
        self.seconds[part] += time.perf_counter() - start - compiled

    @contextlib.contextmanager
    def progress(self, cursor: Cursor):
        """Shows the run's progress, from `cursor` on, while the block runs."""
        self._done = self._work_before(cursor)
        work = self._work_before(Cursor(self.problem.num_tasks))
        with Progress(work, done=self._done, console=self.console) as self._progress:
            self.executor.when_compiling = self._progress.compiling
            yield

    def start(self, part: str, cursor: Cursor, num_epochs: int | None = None) -> None:
        """Shows what begins: a stage, which has epochs, or another part of a task."""
        self._progress.start(
            task=cursor.task,
            num_tasks=self.problem.num_tasks,
            part=part,
            epoch=cursor.epoch if num_epochs else None,
            num_epochs=num_epochs,
        )

    def add_epoch(
        self, cursor: Cursor, stage: Stage, sums: list[dict], steps: list[int], seconds: float
    ) -> None:
        """Writes and shows an epoch's metrics.

        Args:
          cursor: the epoch.
          sums: per seed, the metrics summed over its steps.
          steps: per seed.
          seconds: that the epoch took, all seeds together.

        Raises:
          UserError: a metric is not finite; it is written before.
        """
        kind = _kind_of_work(stage, cursor.task)
        self._done[kind] += self.problem.num_images(cursor.task)
        rate = sum(steps) * stage.batch_size / max(seconds, 1e-9)
        earlier = sum(
            s.epochs for t, _, s in self.problem.plan(cursor.task) if s.name == stage.name
        )
        rows = {}
        for seed, total, n in zip(self.config.seeds, sums, steps, strict=True):
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
            self.log.append({**place, **fixed, **rows[seed], "images_per_second": round(rate, 1)})
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
        """Tells that a stage is passed over."""
        logger.warning(
            "task %d: stage %s has %d images, fewer than a batch of %d, so it does nothing",
            cursor.task + 1,
            stage.name,
            count,
            stage.batch_size,
        )

    def add_accuracy(self, right: list[np.ndarray]) -> None:
        """Keeps what `evaluation.evaluate` counted after a task, per seed."""
        for seed, counts in enumerate(right):
            for kinds, rows in zip(self.correct, counts.tolist(), strict=True):
                for per_seed, row in zip(kinds, rows, strict=True):
                    per_seed[seed].append(row)

    def write_samples(self, task: int, drawn: list) -> None:
        """Writes a stage's pictures, per seed (images uint8 [B, H, W, C], labels [B])."""
        names = self.problem.dataset.class_names
        for stream, pictures in zip(self.problem.streams, drawn, strict=True):
            images, labels = map(np.asarray, pictures)
            path = self.directory / "plots" / f"dreamed_task{task + 1}_seed{stream.seed}.png"
            title = f"dreamed after task {task + 1}, seed {stream.seed}"
            seen = [names[c] for c in stream.class_order[: stream.seen(task)]]
            why = "Short rows: the teacher labels few dreamed images as this class."
            plots.write_class_grid(images, labels, seen, path, title, why)

    def results(self) -> dict:
        """The content of results.json."""
        self._count_total()
        streams = self.problem.streams
        return metrics.build_results(
            method=self.config.method.name,
            dataset=self.problem.dataset.name,
            seeds=list(self.config.seeds),
            class_orders=[stream.class_order.tolist() for stream in streams],
            task_sizes=list(streams[0].task_sizes),
            test_images=[stream.eval_counts.tolist() for stream in streams],
            correct=self.correct[0][0],
            correct_within_task=self.correct[0][1],
            read_outs={
                name: kinds[0]
                for name, kinds in zip(self.config.eval.read_outs, self.correct[1:], strict=True)
            },
            seconds={name: round(value, 2) for name, value in self.seconds.items()},
            device=device.device_name(),
            versions=device.versions(),
            top_k=self.config.eval.top_k,
        )

    def write_results(self) -> None:
        """Writes results.json and the plots, and tells the newest accuracy."""
        results = self.results()
        files.write_json_atomically(self.directory / "results.json", results)
        plots.write_plots(results, self.log.rows(), self.directory / "plots")
        mean = np.mean([row[-1] for row in results["seen_accuracy"]])
        done, total = results["tasks_done"], results["tasks_total"]
        self._progress.note(f"task {done}/{total} done: {mean:.1f} % on all classes seen so far")

    def announce(self, cursor: Cursor, resumes: bool) -> None:
        """Tells log.txt what runs, and the user what may surprise."""
        config, streams = self.config, self.problem.streams
        logger.info("%s on %s", config.method.name, self.problem.dataset.name)
        logger.info("device %s; %s", device.device_name(), device.versions())
        for stream in streams:
            order = stream.class_order.tolist()
            logger.info("seed %d: class order %s, sizes %s", stream.seed, order, stream.task_sizes)
        late = tuple(m for m in config.milestones if m >= config.epochs)
        if late:
            logger.warning(
                "config.milestones %s come after the last of %d epochs, so the learning rate does "
                "not drop there; --config.schedule_scale shortens epochs and milestones together",
                late,
                config.epochs,
            )
        if cursor.task == self.problem.num_tasks:
            note("%s holds the complete run", self.directory)
        elif resumes:
            where = f"task {cursor.task + 1}, stage {cursor.stage + 1}, epoch {cursor.epoch + 1}"
            note("going on in %s with %s", self.directory, where)

    def _count_total(self):
        now = time.perf_counter()
        self.seconds["total"] += now - self._started
        self._started = now

    def _check_finite(self, cursor, stage, rows):
        for seed, row in rows.items():
            if not all(math.isfinite(value) for value in row.values()):
                terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
                raise UserError(
                    f"the loss is not finite in task {cursor.task + 1}, {stage.name} epoch "
                    f"{cursor.epoch + 1}, seed {seed}: {terms}; the last good checkpoint is kept; "
                    "try a lower learning rate in another --workdir"
                )

    def _work_before(self, cursor: Cursor) -> dict[str, int]:
        work = {}
        for task, place, stage in self.problem.plan():
            epochs = stage.epochs if (task, place) < (cursor.task, cursor.stage) else 0
            epochs = cursor.epoch if (task, place) == (cursor.task, cursor.stage) else epochs
            kind = _kind_of_work(stage, task)
            work[kind] = work.get(kind, 0) + epochs * self.problem.num_images(task)
        return work


def _kind_of_work(stage: Stage, task: int) -> str:
    """Epochs of one kind cost about as much per image of the task: those of a stage, but the first
    task's apart."""
    return f"{stage.name} of the first task" if task == 0 else stage.name
