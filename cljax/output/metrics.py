"""Every number that a run reports, each defined once, from counts of correctly classified images.

An accuracy matrix is a list of rows: row t (after task t) holds t+1 percentages, entry j for the
test images of task j with all classes seen so far to choose from. Tasks count from 0.
"""

import statistics
from collections.abc import Sequence

# Of the files in a workdir; grows when a number in them changes its meaning. Up to 1 they counted
# tasks and epochs from 0; results.json, whose lists are by position, is the same in both.
FORMAT = 2
READABLE_RESULTS = (1, 2)

# Read-outs other than the method's own, in words; a summary must not load JAX to print them.
READ_OUTS = {
    "cnn": "the network's own logits",
    "nme": "nearest mean of exemplars",
    "ncm": "nearest class mean of all training images (an oracle)",
}

Matrix = Sequence[Sequence[float]]


def accuracy_matrix(correct: Sequence[Sequence[int]], images: Sequence[int]) -> list[list[float]]:
    """Percentages from counts.

    Args:
      correct: row t, entry j: images of task j classified correctly after task t, for j <= t.
      images: [T] test images of every task.

    Raises:
      ValueError: rows that do not grow by one, a task without test images or an impossible count.
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


def seen_accuracy(correct: Sequence[Sequence[int]], images: Sequence[int]) -> list[float]:
    """Percent of all test images of the classes seen after each task t; every image weighs one."""
    return [100.0 * float(sum(row)) / float(sum(images[: t + 1])) for t, row in enumerate(correct)]


def mean_over_tasks(row: Sequence[float]) -> float:
    """Unweighted mean of a row of the accuracy matrix: every task weighs one.

    The original code's `global`. Equals `seen_accuracy` where all tasks have as many test images.
    """
    return statistics.fmean(row)


def final_accuracy(seen: Sequence[float]) -> float | None:
    """Seen accuracy after the last finished task, percent; None before the first."""
    return seen[-1] if seen else None


def average_incremental_accuracy(seen: Sequence[float]) -> float | None:
    """Mean over the tasks t of the seen accuracy after task t, percent (Rebuffi et al. 2017)."""
    return statistics.fmean(seen) if seen else None


def forgetting(accuracy: Matrix) -> float | None:
    """Mean over earlier tasks of the best accuracy before the last task minus the one after it.

    With l the last row: mean over j < l of max over j <= i < l of accuracy[i][j], less
    accuracy[l][j] (Chaudhry et al. 2018). Percentage points; positive is forgotten, and negative
    when old tasks are better than ever. None with fewer than two tasks.
    """
    last = len(accuracy) - 1
    if last < 1:
        return None
    best = [max(accuracy[i][j] for i in range(j, last)) for j in range(last)]
    return statistics.fmean(best[j] - accuracy[last][j] for j in range(last))


def backward_transfer(accuracy: Matrix) -> float | None:
    """Mean over earlier tasks of the accuracy now minus the one just after the task was learned.

    With l the last row: mean over j < l of accuracy[l][j] - accuracy[j][j] (Lopez-Paz & Ranzato
    2017). Percentage points; negative is forgotten. None with fewer than two tasks.
    """
    last = len(accuracy) - 1
    if last < 1:
        return None
    return statistics.fmean(accuracy[last][j] - accuracy[j][j] for j in range(last))


def summarise(per_seed: Sequence[float | None]) -> dict:
    """Mean and population standard deviation (as the paper's tables) over seeds.

    Returns {"mean", "std", "per_seed"}; mean and std are None when any seed has no value, so that
    a mean never stands for fewer seeds than are listed.
    """
    values = list(per_seed)
    if not values or any(value is None for value in values):
        return {"mean": None, "std": None, "per_seed": values}
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
    task_sizes: Sequence[int],
    test_images: Sequence[Sequence[int]],
    correct: Sequence[Sequence[Sequence[int]]],
    correct_within_task: Sequence[Sequence[Sequence[int]]],
    seconds: dict[str, float],
    device: str,
    versions: dict[str, str],
    read_outs: dict[str, Sequence[Sequence[Sequence[int]]]] | None = None,
    top_k: int = 1,
) -> dict:
    """The content of results.json after any number of finished tasks.

    Args:
      class_orders: [seed][k] the data set's label of the k-th class to arrive.
      task_sizes: [T] classes of every task, the unfinished ones included.
      test_images: [seed][j] test images of task j.
      correct: [seed][t][j] images of task j, j <= t, classified correctly after task t among all
        seen classes; as many rows for every seed.
      correct_within_task: the same, with only task j's classes to choose from.
      read_outs: `correct` of other ways to classify, by name.
      seconds: wall time per kind of work, such as {"compile": ..., "train": ..., "total": ...}.
      top_k: an image counts as correct when its class is among the k likeliest.

    Raises:
      ValueError: counts that contradict each other.
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


def _accuracies(correct, test_images):
    """All that follows from counts [seed][t][j] of one way to classify."""
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
