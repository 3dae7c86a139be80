"""Prints a report, and writes it as Markdown, CSV and HTML."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cljax.errors import print_plain, printable
from cljax.files import write_atomically
from cljax.report import html, published
from cljax.report import runs as runs_lib
from cljax.report.cells import FOOTNOTES, LEFT_COLUMNS, cells, group_title, grouped
from cljax.report.runs import HEADLINES, RunRecord

# Broken lines save width in the terminal.
HEADINGS = {
    "exemplars": "exem-\nplars",
    "final accuracy (%)": "final\naccuracy\n(%)",
    "published (%)": "published\n(%)",
    "average incremental accuracy (%)": "average\nincremental\naccuracy (%)",
    "forgetting (points)": "forgetting\n(points)",
    "carried (MB)": "carried\n(MB)",
    "device memory (GB)": "device\nmemory\n(GB)",
    "host memory (GB)": "host\nmemory\n(GB)",
}
_MARKED = "Runs with a caveat are not reproductions of a published result"
# Of runs of earlier versions they are not known, and not shown in the terminal.
COST_COLUMNS = ("host memory (GB)", "device memory (GB)", "images/s", "carried (MB)")
LEFT_OUT_WHEN_NARROW = (
    *COST_COLUMNS,
    "device",
    "time",
    "seeds",
    "forgetting (points)",
    "average incremental accuracy (%)",
)
COSTS = ("images_per_second", "carried_bytes", "device_bytes", "host_bytes")
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
    *COSTS,
    "marks",
    "device",
    "versions",
)


def write_report(
    workdirs: Sequence[Path], out: Path | None = None, console: Console | None = None
) -> list[Path]:
    """Prints the comparison of runs, and writes it as report.md, report.csv and report.html.

    Args:
      workdirs: workdirs of runs, or directories that contain workdirs.
      out: directory of the files, made if absent; `default_folder` of the first workdir by default.
      console: standard output by default.

    Returns:
      The paths of the files.

    Raises:
      UserError: there is no run in a directory, a run is damaged, or a file cannot be written. In
        the first two cases nothing is written.
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
    print_plain(console, written)
    return paths


def default_folder(workdir: Path) -> Path:
    """Returns the parent of a workdir; any other directory itself."""
    return workdir.resolve().parent if runs_lib.is_workdir(workdir) else workdir


def print_table(runs: Sequence[RunRecord], console: Console) -> None:
    """Prints a table with a section for each dataset and split, and the details of the marks.

    On a narrow console some columns are hidden, the least important first.
    """
    table, hidden = _fit_table(runs, console)
    console.print(table)
    marked = [run for run in runs if run.marks]
    if marked:
        console.print()
        print_plain(console, f"{_MARKED}:", style="bold yellow")
    for run in marked:
        text = f"  {run.name}, {group_title(run)} ({run.workdir}): {describe_marks(run)}"
        print_plain(console, text)
    console.print()
    if hidden:
        columns = ", ".join(hidden)
        print_plain(
            console, f"Hidden in this narrow terminal: {columns}. See report.md for all columns."
        )
    print_plain(console, f"Published: {published.SOURCE}.", style="dim")


def _fit_table(runs: Sequence[RunRecord], console: Console) -> tuple[Table, Sequence[str]]:
    """Returns the widest table that fits the console, and the columns hidden for it."""
    unlimited = console.options.update(width=10_000)
    rows = [cells(run) for run in runs]
    unknown = {name for name in COST_COLUMNS if all(row[name] == "-" for row in rows)}
    for n in range(len(LEFT_OUT_WHEN_NARROW)):
        hidden = [name for name in LEFT_OUT_WHEN_NARROW[:n] if name not in unknown]
        table = _table(runs, {"data set", "tasks", *hidden, *unknown})
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table, hidden
    return _table(runs, {"data set", "tasks", *LEFT_OUT_WHEN_NARROW}), LEFT_OUT_WHEN_NARROW


def _table(runs: Sequence[RunRecord], hidden: set[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    names = [name for name in cells(runs[0]) if name not in hidden]
    headings = [HEADINGS.get(name, name) for name in names]
    lines = max(heading.count("\n") for heading in headings)
    for name, heading in zip(names, headings, strict=True):
        heading = "\n" * (lines - heading.count("\n")) + heading  # aligned at the bottom
        justify = "left" if name in LEFT_COLUMNS else "right"
        table.add_column(heading, justify=justify, no_wrap=name != "learner", overflow="fold")
    for group in grouped(runs):
        table.add_section()
        table.add_row(Text(group_title(group[0]), "bold"))
        for run in group:
            row = cells(run)
            row["marks"] = "\n".join(mark.kind.replace("task f", "task\nf") for mark in run.marks)
            styles = {"marks": "bold yellow", "published (%)": "dim"}
            table.add_row(*(Text(row[name], styles.get(name, "")) for name in names))
    return table


def describe_marks(run: RunRecord) -> str:
    """Formats all marks of a run with their details."""
    return " | ".join(map(str, run.marks))


def markdown(runs: Sequence[RunRecord]) -> str:
    """Formats the table, the marks and the definitions of the numbers as GitHub's Markdown."""
    names = list(cells(runs[0]))
    lines = ["# Comparison of runs", "", _line(names)]
    lines.append(_line("---" if name in LEFT_COLUMNS else "---:" for name in names))
    for run in runs:
        row = {name: _escape(text) for name, text in cells(run).items()}
        row["marks"] = ", ".join(f"**{_escape(mark.kind)}**" for mark in run.marks)
        lines.append(_line(row.values()))
    marked = [run for run in runs if run.marks]
    if marked:
        lines += ["", f"{_MARKED}:", ""]
    for run in marked:
        name = _escape(f"{run.name}, {group_title(run)} ({run.workdir})")
        lines.append(f"- {name}: {_escape('; '.join(map(str, run.marks)))}")
    lines += ["", *(f"- {_escape(note)}" for note in FOOTNOTES), ""]
    return "\n".join(lines)


def _line(row) -> str:
    return f"| {' | '.join(row)} |"


def _escape(text: str) -> str:
    """Escapes text so that Markdown shows it as it is, also in a cell of a table."""
    text = printable(" ".join(text.split()))
    return re.sub(r"([\\`*<>\[\]|$~&]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def csv_text(runs: Sequence[RunRecord]) -> str:
    """Formats one line of CSV per run, with numbers in full precision; no value is empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_record, runs))
    return buffer.getvalue()


def _record(run: RunRecord) -> dict[str, Any]:
    record: dict[str, Any] = {
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
        **{name: getattr(run, name) for name in COSTS},
        "marks": describe_marks(run),
        "device": run.device,
        "versions": " ".join(f"{name}={version}" for name, version in run.versions),
    }
    values = {key: getattr(run, key) for key in HEADLINES}
    for name, value in (values | {"published_final_accuracy": run.published}).items():
        record[f"{name}_mean"], record[f"{name}_std"] = value or (None, None)
    return {name: _csv_cell(value) for name, value in record.items()}


def _csv_cell(value: Any) -> Any:
    """Writes text so that no spreadsheet takes it for a formula; numbers stay."""
    if not isinstance(value, (str, Path)):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
