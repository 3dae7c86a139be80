"""Prints a report, and writes it as Markdown, CSV and HTML."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cljax.files import write_atomically
from cljax.report import html, published
from cljax.report import runs as runs_lib
from cljax.report.cells import FOOTNOTES, LEFT_COLUMNS, cells, describe_group, grouped
from cljax.report.runs import HEADLINES, Run

# In the terminal, where width is dear.
HEADINGS = {
    "exemplars": "exem-\nplars",
    "final accuracy (%)": "final\naccuracy\n(%)",
    "published (%)": "published\n(%)",
    "average incremental accuracy (%)": "average\nincremental\naccuracy (%)",
    "forgetting (points)": "forgetting\n(points)",
}
LEFT_OUT_WHEN_NARROW = (
    "device",
    "time",
    "seeds",
    "forgetting (points)",
    "average incremental accuracy (%)",
)
CSV_COLUMNS = (
    "workdir",
    "data_set",
    "split",
    "method",
    "learner",
    "exemplars",
    "tasks_done",
    "tasks_total",
    "num_seeds",
    "seeds",
    *(f"{key}_{part}" for key in HEADLINES for part in ("mean", "std")),
    "published_final_accuracy_mean",
    "published_final_accuracy_std",
    "seconds",
    "marks",
    "device",
    "versions",
)


def write_report(
    workdirs: Sequence[Path], out: Path | None = None, console: Console | None = None
) -> list[Path]:
    """Prints the comparison of runs, and writes it as report.md, report.csv and report.html.

    Args:
      workdirs: of runs, or directories with runs in them.
      out: where the files go, made when missing; by default as `default_folder` says.

    Returns:
      The paths of the files.

    Raises:
      UserError: a directory holds no run or a damaged one, and nothing is written; or a file cannot
        be written.
    """
    console = console or Console()
    runs = runs_lib.collect(workdirs)
    out = out or default_folder(workdirs[0])
    contents = {
        "report.md": markdown(runs),
        "report.csv": csv_text(runs),
        "report.html": html.page(runs),
    }
    print_table(runs, console)
    for name, text in contents.items():
        write_atomically(out / name, text.encode())
    paths = [out / name for name in contents]
    written = f"Written: {', '.join(map(str, paths))}"
    console.print(written, markup=False, emoji=False, highlight=False, soft_wrap=True)
    return paths


def default_folder(workdir: Path) -> Path:
    """The directory itself if it is one of runs; that of a run is left as it is: its parent."""
    return workdir.resolve().parent if runs_lib.is_workdir(workdir) else workdir


def print_table(runs: Sequence[Run], console: Console) -> None:
    """One table with a section for each data set and split; details of the marks below.

    On a narrow console some columns are left out, the ones that compare least first.
    """
    for n in range(len(LEFT_OUT_WHEN_NARROW) + 1):
        table = _table(runs, {"data set", "tasks", *LEFT_OUT_WHEN_NARROW[:n]})
        unlimited = console.options.update(width=10_000)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    console.print(table)
    plain = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
    marked = [run for run in runs if run.marks]
    if marked:
        console.print("\nMarked runs are no reproductions:", style="bold yellow", **plain)
    for run in marked:
        text = f"  {run.name}, {describe_group(run)} ({run.workdir}): {describe_marks(run)}"
        console.print(text, **plain)
    console.print()
    if n:
        console.print(f"Left out for width: {', '.join(LEFT_OUT_WHEN_NARROW[:n])}.", **plain)
    console.print(f"Published: {published.SOURCE}.", style="dim", **plain)


def _table(runs, hidden) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    names = [name for name in cells(runs[0]) if name not in hidden]
    headings = [HEADINGS.get(name, name) for name in names]
    lines = max(heading.count("\n") for heading in headings)
    for name, heading in zip(names, headings, strict=True):
        heading = "\n" * (lines - heading.count("\n")) + heading  # they stand on the rule
        justify = "left" if name in LEFT_COLUMNS else "right"
        table.add_column(heading, justify=justify, no_wrap=name != "learner", overflow="fold")
    for group in grouped(runs):
        table.add_section()
        table.add_row(Text(describe_group(group[0]), "bold"))
        for run in group:
            row = cells(run)
            row["marks"] = "\n".join(mark.kind.replace("task f", "task\nf") for mark in run.marks)
            styles = {"marks": "bold yellow", "published (%)": "dim"}
            table.add_row(*(Text(row[name], styles.get(name, "")) for name in names))
    return table


def describe_marks(run: Run) -> str:
    """All marks with their details."""
    return " | ".join(map(str, run.marks))


def markdown(runs: Sequence[Run]) -> str:
    """The table, the marks and what the numbers mean, as GitHub's Markdown."""
    names = list(cells(runs[0]))
    lines = ["# Comparison of runs", "", _line(names)]
    lines.append(_line("---" if name in LEFT_COLUMNS else "---:" for name in names))
    for run in runs:
        row = {name: _escape(text) for name, text in cells(run).items()}
        row["marks"] = ", ".join(f"**{_escape(mark.kind)}**" for mark in run.marks)
        lines.append(_line(row.values()))
    marked = [run for run in runs if run.marks]
    if marked:
        lines += ["", "Marked runs are no reproductions:", ""]
    for run in marked:
        name = _escape(f"{run.name}, {describe_group(run)} ({run.workdir})")
        lines.append(f"- {name}: {_escape('; '.join(map(str, run.marks)))}")
    lines += ["", *(f"- {_escape(note)}" for note in FOOTNOTES), ""]
    return "\n".join(lines)


def _line(row) -> str:
    return f"| {' | '.join(row)} |"


def _escape(text: str) -> str:
    """Text as Markdown shows it and no table's cell breaks at."""
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", " ".join(text.split()))


def csv_text(runs: Sequence[Run]) -> str:
    """A line for each run, numbers in full precision and empty where there is none."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_record, runs))
    return buffer.getvalue()


def _record(run) -> dict:
    record = {
        "workdir": run.workdir,
        "data_set": run.dataset,
        "split": run.split,
        "method": run.method,
        "learner": run.name,
        "exemplars": run.exemplars,
        "tasks_done": run.tasks_done,
        "tasks_total": run.tasks_total or None,
        "num_seeds": len(run.seeds),
        "seeds": " ".join(map(str, run.seeds)),
        "seconds": run.seconds,
        "marks": describe_marks(run),
        "device": run.device,
        "versions": " ".join(f"{name}={version}" for name, version in run.versions),
    }
    figures = {key: getattr(run, key) for key in HEADLINES}
    for name, value in (figures | {"published_final_accuracy": run.figure}).items():
        record[f"{name}_mean"], record[f"{name}_std"] = value or (None, None)
    return record
