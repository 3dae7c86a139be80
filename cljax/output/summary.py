"""Prints the summary of a finished run."""

import os
import statistics
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cljax.errors import print_plain
from cljax.output.metrics import READ_OUTS
from cljax.output.plots import accuracy_name, mean_matrix

HEADLINES = {
    "final_accuracy": "final accuracy (%)",
    "average_incremental_accuracy": "average incremental accuracy (%)",
    "forgetting": "forgetting (points)",
    "backward_transfer": "backward transfer (points)",
}


def print_summary(
    results: dict[str, Any], workdir: str | os.PathLike, console: Console | None = None
) -> None:
    """Prints accuracies, metrics and times of a run, and the files in its workdir.

    Args:
      results: content of results.json.
      workdir: workdir of the run.
      console: standard output by default.
    """
    console = console or Console()
    state = "" if results["complete"] else ", unfinished"
    tasks = f"{results['tasks_done']} of {results['tasks_total']} tasks{state}"
    seeds = ", ".join(str(seed) for seed in results["seeds"])
    title = f"{results['method']} on {results['dataset']}: {tasks}, seeds {seeds}"
    print_plain(console, title, style="bold")
    if results["tasks_done"]:
        console.print(_accuracy_table(results))
        _print_matrix(mean_matrix(results["accuracy"]), console)
        console.print(_headline_table(results))
        if results["read_outs"]:
            console.print(_read_out_table(results))
    seconds = (f"{name} {value:,.1f} s" for name, value in results["seconds"].items())
    print_plain(console, f"Time: {', '.join(seconds)}")
    console.print("Files:", style="bold")
    for path in sorted(Path(workdir).iterdir()):
        if not path.name.startswith("."):
            name = f"  {path}{os.sep if path.is_dir() else ''}"
            if path.name == "plots":
                name += ": " + ", ".join(sorted(picture.name for picture in path.iterdir()))
            print_plain(console, name)


def _accuracy_table(results):
    table = Table(title_justify="left")
    table.title = f"{accuracy_name(results).capitalize()} after each task (%)"
    on = ("on seen classes", "on current task", "mean of previous tasks")
    for name in ("task", "seen classes", *on):
        table.add_column(name, justify="right")
    classes = list(accumulate(results["task_sizes"]))
    for t in range(results["tasks_done"]):
        rows = [matrix[t] for matrix in results["accuracy"]]
        earlier = [statistics.fmean(row[:-1]) for row in rows] if t else []
        seen = _mean_std([per_task[t] for per_task in results["seen_accuracy"]])
        new = _mean_std([row[-1] for row in rows])
        table.add_row(str(t + 1), str(classes[t]), seen, new, _mean_std(earlier))
    return table


def _print_matrix(matrix, console):
    """Prints the accuracy matrix [T][T] with the digits that fit the width of the console."""
    label = f"after {len(matrix)}"
    for digits in (1, 0):
        cells = [[f"{value:.{digits}f}" for value in row] for row in matrix]
        column = 1 + max(len(cell) for row in cells for cell in row)
        if len(label) + len(matrix) * column <= console.width:
            break
    else:
        console.print("The accuracy matrix is too wide; see plots/accuracy_matrix.png.")
        return
    console.print("Accuracy matrix (%), mean over seeds", style="italic", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("task", no_wrap=True, justify="right")
    for j in range(len(matrix)):
        table.add_column(str(j + 1), no_wrap=True, justify="right", min_width=column - 1)
    for t, row in enumerate(cells):
        table.add_row(f"after {t + 1}", *row)
    console.print(table)


def _headline_table(results):
    table = Table("seed", title="Results", title_justify="left")
    for name in HEADLINES.values():
        table.add_column(name, justify="right", max_width=19)
    columns = [results[key]["per_seed"] for key in HEADLINES]
    for s, seed in enumerate(results["seeds"]):
        table.add_row(str(seed), *(_mean_std([column[s]]) for column in columns))
    if len(results["seeds"]) > 1:
        table.add_section()
        table.add_row("mean ± std", *(_mean_std(column) for column in columns))
    return table


def _read_out_table(results):
    table = Table("classifier", title="Read-outs", title_justify="left")
    keys = ("final_accuracy", "average_incremental_accuracy")
    for key in keys:
        table.add_column(HEADLINES[key], justify="right", max_width=19)
    for name, found in {"": results, **results["read_outs"]}.items():
        row = READ_OUTS.get(name, "read-out of the method")
        table.add_row(row, *(_mean_std(found[key]["per_seed"]) for key in keys))
    return table


def _mean_std(values) -> str:
    # The deviation is the population's; a single seed has none.
    if not values or None in values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.pstdev(values):.2f}"
