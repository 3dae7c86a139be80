"""Reads runs from their workdirs, and marks those that do not reproduce a published result."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from cljax.errors import UserError
from cljax.files import Record, check_record, read_json
from cljax.output import metrics
from cljax.output.metrics import Size, TaskCost
from cljax.report import published
from cljax.report.published import Config, MeanStd
from cljax.settings import Count, Positive

Percentage = Annotated[float, Field(ge=0, le=100)]


class Mark(NamedTuple):
    """Holds a caveat: a reason not to compare a run with a published result.

    Attributes:
      category: "setting", "unfinished" or "seeds".
      kind: a few words, such as "shortened" or "3 of 5 tasks".
      detail: the settings concerned; "" (default) if `kind` says everything.
    """

    category: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class _Name(Record):
    name: str


class _Exemplars(Record):
    total: int = 0
    per_class: int = 0


class _ConfigRecord(Record):
    """What is read of config.json; the settings that are only compared may be anything."""

    method: _Name
    data: _Name
    seeds: list[int] = Field(min_length=1)
    num_tasks: int
    task_sizes: list[int] | None = None
    first_task_size: int = 0
    max_tasks: Count = 0
    exemplars: _Exemplars = _Exemplars()


class _Headline(Record):
    mean: float | None
    std: float | None


class _Seconds(Record):
    total: float = Field(ge=0)


class _Carried(Record):
    total: Size


class _ResultsRecord(Record):
    """What is read of results.json."""

    dataset: str
    complete: bool
    seeds: list[int]
    tasks_done: Count
    tasks_total: Count
    task_sizes: list[Positive]
    seen_accuracy: list[list[Percentage]]
    final_accuracy: _Headline
    average_incremental_accuracy: _Headline
    forgetting: _Headline
    backward_transfer: _Headline
    seconds: _Seconds
    device: str
    versions: dict[str, str]
    cost: list[TaskCost] = Field(default=[])
    carried_bytes: list[list[_Carried]] = Field(default=[])


@dataclass(frozen=True)
class RunRecord:
    """Holds one run; accuracies in percent, forgetting and backward transfer in points.

    Attributes:
      workdir: workdir of the run.
      name: name of the method, with the directory if several runs have the same method.
      method: value of config.method.name.
      exemplars: number of exemplars in all.
      dataset: name of the dataset.
      num_tasks: number of tasks.
      split: the tasks, in words.
      seeds: the seeds.
      published: published final accuracy of the experiment, or None.
      marks: caveats; empty if the run can be compared.
      tasks_done, tasks_total: finished tasks and all tasks; both 0 before the first is finished.
      final_accuracy, average_incremental_accuracy, forgetting, backward_transfer: mean and std over
        seeds; None if there is no value, or the run is not finished.
      classes: number of seen classes after each of the t finished tasks.
      seen_accuracy: float [S, t], accuracy on seen classes of each seed; None if t is 0.
      seconds: wall time of the run so far; None before the first task is finished.
      images_per_second: training images per second of stage `train`, of all seeds together.
      carried_bytes: what a learner carries on after its last finished task, the mean over seeds.
      device_bytes, host_bytes: largest peaks of memory; None where they are not known.
      device: name of the devices.
      versions: pairs of name and version.
    """

    workdir: Path
    name: str
    method: str
    exemplars: int
    dataset: str
    num_tasks: int
    split: str
    seeds: tuple[int, ...]
    published: MeanStd | None
    marks: tuple[Mark, ...]
    tasks_done: int = 0
    tasks_total: int = 0
    final_accuracy: MeanStd | None = None
    average_incremental_accuracy: MeanStd | None = None
    forgetting: MeanStd | None = None
    backward_transfer: MeanStd | None = None
    classes: tuple[int, ...] = ()
    seen_accuracy: np.ndarray | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    carried_bytes: float | None = None
    device_bytes: int | None = None
    host_bytes: int | None = None
    device: str = ""
    versions: tuple[tuple[str, str], ...] = ()

    @property
    def group(self) -> tuple[str, int, str]:
        """Dataset, number of tasks and split, equal for runs that learn the same tasks."""
        return self.dataset, self.num_tasks, self.split


HEADLINES = ("final_accuracy", "average_incremental_accuracy", "forgetting", "backward_transfer")


def collect(directories: Sequence[Path]) -> list[RunRecord]:
    """Reads all runs in directories and sorts them for the report.

    Runs are sorted by dataset and tasks, then without and with exemplars, then in the order of the
    paper's tables. A run that is found twice is read once.

    Args:
      directories: workdirs, or directories that contain workdirs.

    Raises:
      UserError: there is no run in a directory, or a file is damaged.
    """
    workdirs = {w.resolve(): w for d in directories for w in find_workdirs(d)}
    return _tell_apart(sorted(map(read_run, workdirs.values()), key=_place))


def find_workdirs(directory: Path) -> list[Path]:
    """Returns a directory if it is a workdir, otherwise the workdirs directly below it.

    Raises:
      UserError: there is no workdir.
    """
    try:
        if is_workdir(directory):
            return [directory]
        below = sorted(path for path in directory.iterdir() if is_workdir(path))
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror}") from error
    if not below:
        raise UserError(
            f"{directory}: neither it nor the directories in it are workdirs (no config.json)"
        )
    return below


def is_workdir(directory: Path) -> bool:
    """Whether a run was started in this directory."""
    return (directory / "config.json").is_file()


def _place(run):
    order = list(published.NAMES)
    rank = order.index(run.method) if run.method in order else len(order)
    learner = rank, run.method, run.exemplars
    return *run.group, run.exemplars > 0, *learner, str(run.workdir)


def _tell_apart(runs):
    """Adds directories to the names of runs that would otherwise have equal rows."""
    for more in (lambda run: run.workdir.resolve().name, lambda run: run.workdir):
        counts = Counter((run.group, run.name, run.exemplars) for run in runs)
        runs = [
            replace(run, name=f"{published.display_name(run.method, run.exemplars)} ({more(run)})")
            if counts[run.group, run.name, run.exemplars] > 1
            else run
            for run in runs
        ]
    return runs


def read_run(workdir: Path) -> RunRecord:
    """Reads a run from its config.json and, once a task is finished, results.json.

    Raises:
      UserError: a file cannot be read or was not written by cljax.
    """
    path = workdir / "config.json"
    config = read_json(path)
    try:
        check_record(_ConfigRecord, config)
        run = _from_config_only(workdir, config)
        shortcuts = _shortcuts(config, run)
        path = workdir / "results.json"
        if not path.exists():
            return replace(run, marks=(Mark("unfinished", "no task finished"), *shortcuts))
        results = read_json(path)
        if results["format"] not in metrics.READABLE_RESULTS:
            raise ValueError(f"format {results['format']} instead of {metrics.FORMAT}")
        check_record(_ResultsRecord, results)
        run, wanted = _with_results(run, results), _tasks_wanted(config, run.num_tasks)
        progress = _progress(run, results, wanted)
        if progress:
            run = replace(run, **dict.fromkeys(HEADLINES))
        if per_class := published.lookup(config, "exemplars.per_class"):
            run = replace(run, exemplars=per_class * sum(results["task_sizes"]))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{path}: damaged, or written by another version of cljax: {reason}"
        ) from error
    return replace(run, marks=(*progress, *shortcuts))


def _tasks_wanted(config: Config, num_tasks: int) -> int:
    """Returns how many tasks the config asks for, which may be more than results.json knows of."""
    return min(published.lookup(config, "max_tasks") or num_tasks, num_tasks)


def _from_config_only(workdir: Path, config: Config) -> RunRecord:
    method, exemplars = published.method_key(config)
    split, num_tasks = _split(config)
    return RunRecord(
        workdir=workdir,
        name=published.display_name(method, exemplars),
        method=method,
        exemplars=int(exemplars),
        dataset=str(config["data"]["name"]),
        num_tasks=num_tasks,
        split=split,
        seeds=tuple(config["seeds"]),
        published=published.result(config),
        marks=(),
    )


def _split(config: Config) -> tuple[str, int]:
    """Returns the tasks in words and their number; max_tasks only stops early, so is ignored."""
    if sizes := published.lookup(config, "task_sizes"):
        return f"tasks of {', '.join(map(str, sizes))} classes", len(sizes)
    tasks = int(config["num_tasks"])
    words = f"{tasks} tasks" if tasks > 1 else "1 task"
    if first := published.lookup(config, "first_task_size"):
        words += f", the first of {first} classes"
    return words, tasks


def _with_results(run: RunRecord, results: dict[str, Any]) -> RunRecord:
    done = results["tasks_done"]
    seen = np.array(results["seen_accuracy"], float)
    seeds = results["seeds"]  # before the first task of seeds that were added, only the others
    if seen.shape != (len(seeds), done) or not np.isfinite(seen).all():
        raise ValueError(f"seen_accuracy is not {done} numbers for each of {len(seeds)} seeds")
    classes = tuple(accumulate(results["task_sizes"]))
    if len(classes) != results["tasks_total"] or done > len(classes):
        raise ValueError(f"{done} of {results['tasks_total']} tasks, sizes of {len(classes)}")
    return replace(
        run,
        dataset=results["dataset"],
        tasks_done=done,
        tasks_total=results["tasks_total"],
        classes=classes[:done],
        seen_accuracy=seen,
        seconds=float(results["seconds"]["total"]),
        device=str(results["device"]),
        versions=tuple((str(k), str(v)) for k, v in results["versions"].items()),
        **_costs(results),
        **{key: _mean_std(results[key]) for key in HEADLINES},
    )


def _costs(results: dict[str, Any]) -> dict[str, Any]:
    """Returns speed, storage and memory of a run; versions without them give none."""
    cost, carried = results.get("cost", []), results.get("carried_bytes", [])
    images = sum(of_task["images"].get("train", 0) for of_task in cost)
    seconds = sum(of_task["seconds"].get("train", 0.0) for of_task in cost)
    peaks = (
        max((of_task[name] or 0 for of_task in cost), default=0) or None
        for name in ("peak_device_bytes", "peak_host_bytes")
    )
    last = [of_seed[-1]["total"] for of_seed in carried if of_seed]
    return {
        "images_per_second": images / seconds if images and seconds else None,
        "carried_bytes": statistics.fmean(last) if last else None,
        **dict(zip(("device_bytes", "host_bytes"), peaks, strict=True)),
    }


def _mean_std(value) -> MeanStd | None:
    if value["mean"] is None:
        return None
    return MeanStd(float(value["mean"]), float(value["std"]))


def _progress(run: RunRecord, results: dict[str, Any], wanted: int) -> list[Mark]:
    """Returns a caveat if seeds or tasks are missing that the config asks for."""
    if not run.tasks_done:
        return [Mark("unfinished", "no task finished")]
    so_far = ""
    if run.final_accuracy:
        so_far = f"{run.final_accuracy.mean:.1f} % so far, on the classes of these tasks"
    if missing := set(run.seeds) - set(results["seeds"]):
        done = len(run.seeds) - len(missing)
        return [Mark("unfinished", f"{done} of {len(run.seeds)} seeds", so_far)]
    if results["complete"] and run.tasks_done >= wanted:
        return []
    return [Mark("unfinished", f"{run.tasks_done} of {wanted} tasks", so_far)]


def _shortcuts(config: Config, run: RunRecord) -> list[Mark]:
    differences = published.differences(config, published.setting(config))
    marks = []
    if differences:
        kind = "shortened" if any(d.shortens for d in differences) else "changed"
        marks.append(Mark("setting", kind, "; ".join(map(str, differences))))
    if run.published and len(run.seeds) < published.SEEDS:
        kind = "1 seed" if len(run.seeds) == 1 else f"{len(run.seeds)} seeds"
        marks.append(Mark("seeds", kind))
    return marks
