"""The cells of a report's table, the same for terminal, Markdown and HTML."""

from collections.abc import Sequence
from itertools import groupby

from cljax.report import published
from cljax.report.published import MeanStd
from cljax.report.runs import Run

LEFT_COLUMNS = ("data set", "tasks", "learner", "device", "marks")

FOOTNOTES = (
    "Numbers are mean ± population standard deviation over seeds (divided by the number of seeds, "
    "as in the published tables); a single seed has no deviation.",
    "Final accuracy: percentage of all test images of the classes seen that are classified "
    "correctly after the last finished task, with all classes seen to choose from.",
    "Average incremental accuracy: mean of the same percentage after every finished task.",
    "Forgetting: mean over the earlier tasks of the best accuracy before the last finished task "
    "minus the one after it, in percentage points; positive is forgotten (Chaudhry et al. 2018).",
    "Time: wall time of the whole run, all seeds together, compilation and evaluation included.",
    f"Published: {published.SOURCE}. A marked run must not be read as a reproduction of it.",
)


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of the same tasks together, in order."""
    return [list(group) for _, group in groupby(runs, lambda run: run.group)]


def describe_group(run: Run) -> str:
    """Data set and tasks, such as "cifar100, 5 tasks"."""
    return f"{run.dataset}, {run.split}"


def cells(run: Run) -> dict[str, str]:
    """A row of the table by column; a dash where there is nothing. The marks without details."""
    return {
        "data set": run.dataset,
        "tasks": run.split.removesuffix(" tasks").removesuffix(" task"),
        "learner": run.name,
        "exemplars": str(run.exemplars),
        "seeds": str(len(run.seeds)),
        "final accuracy (%)": mean_std(run.final_accuracy, len(run.seeds)),
        "published (%)": mean_std(run.figure, published.SEEDS),
        "marks": ", ".join(mark.kind for mark in run.marks),  # beside the numbers that they are of
        "average incremental accuracy (%)": mean_std(
            run.average_incremental_accuracy, len(run.seeds)
        ),
        "forgetting (points)": mean_std(run.forgetting, len(run.seeds)),
        "time": clock(run.seconds),
        "device": run.device or "-",
    }


def mean_std(value: MeanStd | None, seeds: int) -> str:
    """One decimal, as in the paper's tables; without the deviation of a single seed."""
    if value is None:
        return "-"
    return f"{value.mean:.1f}" + (f" ± {value.std:.1f}" if seeds > 1 else "")


def clock(seconds: float | None) -> str:
    """h:mm:ss."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
