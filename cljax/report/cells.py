"""Formats the cells of the report's table, the same for terminal, Markdown and HTML."""

from collections.abc import Sequence
from itertools import groupby

from cljax.errors import printable
from cljax.report import published
from cljax.report.published import MeanStd
from cljax.report.runs import RunRecord

LEFT_COLUMNS = ("data set", "tasks", "learner", "device", "marks")

FOOTNOTES = (
    "Numbers are mean ± population standard deviation over seeds (divided by the number of seeds, "
    "as in the published tables). A single seed has no deviation.",
    "Final accuracy: percentage of the test images of all seen classes that are classified "
    "correctly after the last finished task, with predictions over all seen classes.",
    "Average incremental accuracy: mean of that percentage over all finished tasks.",
    "Forgetting: mean over the previous tasks of the best accuracy before the last finished task "
    "minus the accuracy after it, in percentage points. Positive: forgotten (Chaudhry et al. "
    "2018).",
    "A run that is not finished has no accuracy and no forgetting here; its caveat says what it "
    "has reached.",
    "Time: wall time of the whole run with all seeds, compilation and evaluation included.",
    "Carried: megabytes (1,000,000 bytes) that a learner carries from one task to the next: "
    "classifier, teacher, generator, importance, means, and the pixels of its exemplars; after the "
    "last finished task, mean over seeds.",
    "Images/s: training images of stage train per second, all seeds together. Device and host "
    "memory: largest peak of the run, in gigabytes; a CPU has no device memory.",
    f"Published: {published.SOURCE}. A run with a caveat (column marks) does not reproduce it.",
)


def grouped(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Groups runs of the same tasks, in order."""
    return [list(group) for _, group in groupby(runs, lambda run: run.group)]


def group_title(run: RunRecord) -> str:
    """Formats the dataset and the tasks of a run, such as "cifar100, 5 tasks"."""
    return printable(f"{run.dataset}, {run.split}")


def cells(run: RunRecord) -> dict[str, str]:
    """Formats a row of the table by column: "-" for no value, marks without their details."""
    row = {
        "data set": run.dataset,
        "tasks": run.split.removesuffix(" tasks").removesuffix(" task"),
        "learner": run.name,
        "exemplars": str(run.exemplars),
        "seeds": str(len(run.seeds)),
        "final accuracy (%)": mean_std(run.final_accuracy, len(run.seeds)),
        "published (%)": mean_std(run.published, published.SEEDS),
        "marks": ", ".join(mark.kind for mark in run.marks),  # next to the numbers they concern
        "average incremental accuracy (%)": mean_std(
            run.average_incremental_accuracy, len(run.seeds)
        ),
        "forgetting (points)": mean_std(run.forgetting, len(run.seeds)),
        "carried (MB)": scaled(run.carried_bytes, 1e6),
        "images/s": scaled(run.images_per_second, 1, 0),
        "device memory (GB)": scaled(run.device_bytes, 1e9),
        "host memory (GB)": scaled(run.host_bytes, 1e9),
        "time": clock(run.seconds),
        "device": run.device or "-",
    }
    return {name: printable(text) for name, text in row.items()}


def mean_std(value: MeanStd | None, seeds: int) -> str:
    """Formats with one decimal, as in the paper's tables; a single seed gets no deviation."""
    if value is None:
        return "-"
    has_deviation = seeds > 1 and value.std is not None
    return f"{value.mean:.1f}" + (f" ± {value.std:.1f}" if has_deviation else "")


def scaled(value: float | None, unit: float, digits: int = 2) -> str:
    """Formats a number in a unit."""
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def clock(seconds: float | None) -> str:
    """Formats seconds as h:mm:ss."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
