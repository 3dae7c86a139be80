"""Computes the metrics of a run from counts of correct predictions.

An accuracy matrix is a list of rows. Row t (after task t) has t+1 percentages: entry j is the
accuracy on the test images of task j, with predictions over all seen classes. Tasks count from 0.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from cljax.files import Record

# Version of the files in a workdir; raise it when a number in them changes its meaning. Version 1
# counted tasks and epochs from 0; results.json, whose lists are by position, is the same in both.
FORMAT = 2
READABLE_RESULTS = (1, 2)

# Read-outs other than the method's own, in words; a summary must not load JAX to print them.
READ_OUTS = {
    "cnn": "logits of the classifier",
    "nme": "nearest mean of exemplars",
    "ncm": "nearest class mean of all training images (an oracle)",
}
Size = Annotated[int, Field(ge=0)]  # of any number of bits


class TaskCost(Record):
    """What is read of the cost of a task, which `cost.Costs` measures."""

    seconds: dict[str, Annotated[float, Field(ge=0)]]
    images: dict[str, Size]
    peak_device_bytes: Size | None
    peak_host_bytes: Size | None


Matrix = Sequence[Sequence[float]]
Counts = Sequence[Sequence[int]]  # row t, entry j: images of task j after task t


def accuracy_matrix(correct: Counts, images: Sequence[int]) -> list[list[float]]:
    """Computes the accuracy matrix in percent.

    Args:
      correct: row t, entry j: correct predictions on images of task j after task t, for j <= t.
      images: [T], number of test images of each task.

    Raises:
      ValueError: rows do not grow by one, a task has no test images, or a count is impossible.
    """
    rows = []
    for t, row in enumerate(correct):
        counts = images[: t + 1]
        if len(row) != t + 1 or len(counts) != t + 1:
            raise ValueError(f"row {t} has {len(row)} entries for {len(counts)} tasks, not {t + 1}")
        if any(not 0 <= hits <= n or n == 0 for hits, n in zip(row, counts, strict=True)):
            raise ValueError(f"row {t}: correct {list(row)} of {list(counts)} test images")
        rows.append([100.0 * float(hits) / float(n) for hits, n in zip(row, counts, strict=True)])
    return rows


def seen_accuracy(correct: Counts, images: Sequence[int]) -> list[float]:
    """Computes the accuracy on all seen classes after each task in percent; images weigh equally.

    Args:
      correct, images: as in `accuracy_matrix`.
    """
    return [100.0 * float(sum(row)) / float(sum(images[: t + 1])) for t, row in enumerate(correct)]


def mean_over_tasks(row: Sequence[float]) -> float:
    """Computes the mean of a row of the accuracy matrix in percent; tasks weigh equally.

    This is `global` in the ABD reference code. It equals `seen_accuracy` if all tasks have the same
    number of test images.
    """
    return statistics.fmean(row)


def final_accuracy(seen: Sequence[float]) -> float | None:
    """Returns the accuracy on seen classes after the last finished task, or None without one."""
    return seen[-1] if seen else None


def average_incremental_accuracy(seen: Sequence[float]) -> float | None:
    """Computes the mean over tasks of `seen_accuracy` (Rebuffi et al. 2017); None without tasks."""
    return statistics.fmean(seen) if seen else None


def forgetting(accuracy: Matrix) -> float | None:
    """Computes the forgetting after the last row l of an accuracy matrix (Chaudhry et al. 2018).

    This is the mean over tasks j < l of (max over j <= i < l of accuracy[i][j]) - accuracy[l][j].

    Returns:
      Percentage points: positive if accuracy was lost, negative if previous tasks are better than
      ever before. None with fewer than two rows.
    """
    last = len(accuracy) - 1
    if last < 1:
        return None
    best = [max(accuracy[i][j] for i in range(j, last)) for j in range(last)]
    return statistics.fmean(best[j] - accuracy[last][j] for j in range(last))


def backward_transfer(accuracy: Matrix) -> float | None:
    """Computes the backward transfer after the last row l (Lopez-Paz & Ranzato 2017).

    This is the mean over tasks j < l of accuracy[l][j] - accuracy[j][j].

    Returns:
      Percentage points, negative if accuracy was lost. None with fewer than two rows.
    """
    last = len(accuracy) - 1
    if last < 1:
        return None
    return statistics.fmean(accuracy[last][j] - accuracy[j][j] for j in range(last))


def after_task(correct: Counts, images: Sequence[int]) -> dict[str, float]:
    """Returns the metrics of one seed after its last finished task, those of every task included.

    Args:
      correct, images: as in `accuracy_matrix`; at least one row.
    """
    matrix = accuracy_matrix(correct, images)
    values = {
        "seen_accuracy": seen_accuracy(correct, images)[-1],
        "mean_over_tasks": mean_over_tasks(matrix[-1]),
        **{f"accuracy_on_task_{j}": value for j, value in enumerate(matrix[-1], start=1)},
    }
    lost = {"forgetting": forgetting(matrix), "backward_transfer": backward_transfer(matrix)}
    return values | {name: value for name, value in lost.items() if value is not None}


def summarise(per_seed: Sequence[float | None]) -> dict[str, Any]:
    """Computes mean and population standard deviation over seeds, as in the ABD paper's tables.

    Returns:
      {"mean", "std", "per_seed"}. Mean and std are None if any seed has no value, so a mean always
      stands for all listed seeds.
    """
    values = [value for value in per_seed if value is not None]
    if not values or len(values) < len(per_seed):
        return {"mean": None, "std": None, "per_seed": list(per_seed)}
    return {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "per_seed": values,
    }


def build_results(
    *,
    method: str,
    dataset: str,
    seeds: Sequence[int],
    class_orders: Sequence[Sequence[int]],
    class_names: Sequence[Sequence[str]],
    task_sizes: Sequence[int],
    test_images: Sequence[Sequence[int]],
    correct: Sequence[Counts],
    correct_within_task: Sequence[Counts],
    seconds: Mapping[str, float],
    device: str,
    versions: Mapping[str, str],
    read_outs: Mapping[str, Sequence[Counts]] | None = None,
    top_k: int = 1,
) -> dict[str, Any]:
    """Builds the content of results.json after any number of finished tasks.

    Args:
      method, dataset: their names.
      seeds: the seeds.
      class_orders: [seed][k], class id of label k.
      class_names: [seed][k], name of that class in the dataset.
      task_sizes: [T], number of classes of each task, unfinished tasks included.
      test_images: [seed][j], number of test images of task j.
      correct: [seed][t][j], correct predictions on images of task j, j <= t, after task t, with
        predictions over all seen classes; equal numbers of rows for all seeds.
      correct_within_task: the same, with predictions over the classes of task j only.
      seconds: wall time by kind of work, such as {"compile": ..., "train": ..., "total": ...}.
      device: name of the devices.
      versions: of the program and its packages, by name.
      read_outs: `correct` of other read-outs, by name.
      top_k: a prediction is correct if the class of the image is among the k likeliest.

    Raises:
      ValueError: counts contradict each other.
    """
    tasks_done = len(correct[0])
    for name, per_seed in (("correct", correct), ("correct_within_task", correct_within_task)):
        if [len(rows) for rows in per_seed] != [tasks_done] * len(seeds):
            raise ValueError(f"{name} needs {tasks_done} rows for each of {len(seeds)} seeds")
    own = _accuracies(correct, test_images)
    within = [
        accuracy_matrix(rows, images)
        for rows, images in zip(correct_within_task, test_images, strict=True)
    ]
    return {
        "format": FORMAT,
        "method": method,
        "dataset": dataset,
        "complete": tasks_done == len(task_sizes),
        "tasks_done": tasks_done,
        "tasks_total": len(task_sizes),
        "seeds": list(seeds),
        **own,
        "task_sizes": list(task_sizes),
        "class_orders": [list(order) for order in class_orders],
        "class_names": [list(names) for names in class_names],
        "test_images": [list(images) for images in test_images],
        "top_k": top_k,
        "accuracy_within_task": within,
        "read_outs": {
            name: _accuracies(rows, test_images) for name, rows in (read_outs or {}).items()
        },
        "seconds": dict(seconds),
        "device": device,
        "versions": dict(versions),
    }


def _accuracies(correct: Sequence[Counts], test_images: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Computes all metrics of one read-out."""
    pairs = list(zip(correct, test_images, strict=True))
    accuracy = [accuracy_matrix(rows, images) for rows, images in pairs]
    seen = [seen_accuracy(rows, images) for rows, images in pairs]
    return {
        "final_accuracy": summarise([final_accuracy(row) for row in seen]),
        "average_incremental_accuracy": summarise(
            [average_incremental_accuracy(row) for row in seen]
        ),
        "forgetting": summarise([forgetting(matrix) for matrix in accuracy]),
        "backward_transfer": summarise([backward_transfer(matrix) for matrix in accuracy]),
        "seen_accuracy": seen,
        "mean_over_tasks": [[mean_over_tasks(row) for row in matrix] for matrix in accuracy],
        "accuracy": accuracy,
    }
