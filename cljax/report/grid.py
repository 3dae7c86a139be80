"""Shows a grid: a table and a picture of its points, and the best one by validation accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cljax.errors import UserError, print_plain, printable
from cljax.files import Record, check_record, read_json, write_atomically
from cljax.output.plot_style import COLOURS, plot_text, png, styled
from cljax.report import published
from cljax.report import runs as runs_lib
from cljax.report.cells import mean_std
from cljax.report.runs import RunRecord

PLAN = "grid.json"
_COLUMNS = {
    "average incremental accuracy (%)": "average_incremental_accuracy",
    "final accuracy (%)": "final_accuracy",
    "forgetting (points)": "forgetting",
}


class _Point(Record):
    name: str = Field(pattern=r"^\w[\w.+=,-]*$")
    values: dict[str, Any]


class _Plan(Record):
    points: list[_Point] = Field(min_length=1)


@dataclass(frozen=True)
class Point:
    """Holds a point of a grid.

    Attributes:
      name: of its workdir.
      values: value of each key that the grid varies.
      run: its run; None if it has not begun.
      validates: whether its accuracies are those of validation images.
    """

    name: str
    values: Mapping[str, Any]
    run: RunRecord | None
    validates: bool

    @property
    def is_complete(self) -> bool:
        """Whether all its tasks are finished."""
        return self.run is not None and self.run.average_incremental_accuracy is not None


def is_grid(directory: Path) -> bool:
    """Whether a grid was started in a directory."""
    return (directory / PLAN).is_file()


def write(directory: Path, out: Path, console: Console) -> None:
    """Prints the table of a grid, and writes it as grid.md and grid.png.

    Args:
      directory: directory of the grid.
      out: directory of the files.
      console: where it is printed.

    Raises:
      UserError: the plan of the grid or a run is damaged, or a file cannot be written.
    """
    points = _read(directory)
    console.print(_table(points))
    verdict = choose(points)[1]
    print_plain(console, verdict, style="bold")
    files = {"grid.md": _markdown(points).encode()}
    if any(point.is_complete for point in points):
        files["grid.png"] = draw(points)
    for name, content in files.items():
        write_atomically(out / name, content)
    print_plain(console, f"Written: {', '.join(str(out / name) for name in files)}")


def _read(directory: Path) -> list[Point]:
    plan = read_json(directory / PLAN)
    try:
        check_record(_Plan, plan)
    except ValueError as error:
        raise UserError(f"{directory / PLAN}: damaged: {error}") from error
    return [_read_point(directory, **point) for point in plan["points"]]


def _read_point(directory: Path, name: str, values: dict[str, Any]) -> Point:
    workdir = directory / name
    if not (workdir / "config.json").exists():
        return Point(name, values, None, False)
    config = read_json(workdir / "config.json")
    validates = published.lookup(config, "data.validation") is True
    return Point(name, values, runs_lib.read_run(workdir), validates)


def choose(points: Sequence[Point]) -> tuple[Point | None, str]:
    """Chooses the best point by validation accuracy on the tasks that were run.

    FACIL (Masana et al. 2022) chooses settings so, on the first tasks. Test images choose nothing.

    Returns:
      The point, or None, and a sentence that says which or why none.
    """
    incomplete = sum(not point.is_complete for point in points)
    if incomplete:
        return None, f"No best point yet: {incomplete} of {len(points)} are not complete."
    if not all(point.validates for point in points):
        return None, (
            "No best point: these are accuracies of test images, which may not choose. Set "
            "--config.data.validation=True."
        )
    best = max(points, key=_score)
    assert best.run is not None
    last, seeds = best.run.tasks_done, len(best.run.seeds)
    tasks = f"the first {last} of {best.run.num_tasks} tasks" if last > 1 else "the first task"
    if last == best.run.num_tasks:
        tasks = f"all {last} tasks"
    text = mean_std(best.run.average_incremental_accuracy, seeds)
    equals = [printable(point.name) for point in points if _score(point) == _score(best)][1:]
    also = f"; {', '.join(equals)} equal it" if equals else ""
    return best, (
        f"Best on validation images, by average incremental accuracy over {tasks}: "
        f"{printable(best.name)} ({text} %){also}"
    )


def _score(point: Point) -> float:
    assert point.run is not None and point.run.average_incremental_accuracy is not None
    return point.run.average_incremental_accuracy.mean


def _cells(points: Sequence[Point]) -> list[dict[str, str]]:
    """Formats a row of the table for each point; the best one is marked."""
    best, keys = choose(points)[0], _keys(points)
    rows = []
    for point in points:
        run, row = point.run, {key: printable(point.values.get(key, "-")) for key in keys}
        for name, key in _COLUMNS.items():
            row[name] = mean_std(getattr(run, key), len(run.seeds)) if run else "-"
        row["tasks"] = f"{run.tasks_done} of {run.num_tasks}" if run else "-"
        rows.append(row | {"": "best" if point is best else ""})
    return rows


def _keys(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(key for point in points for key in point.values))


def _table(points: Sequence[Point]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    rows = _cells(points)
    for name in rows[0]:
        heading = name.removeprefix("method.").replace(" accuracy", "\naccuracy")
        table.add_column(Text(heading), justify="right", overflow="fold")
    for row in rows:
        style = "bold" if row[""] else ""
        table.add_row(*(Text(text, style) for text in row.values()))
    return table


def _markdown(points: Sequence[Point]) -> str:
    rows = _cells(points)
    heading = [dict(zip(rows[0], rows[0], strict=True)), dict.fromkeys(rows[0], "---:")]
    lines = ["# Grid", "", *map(_line, [*heading, *rows]), "", choose(points)[1], ""]
    return "\n".join(lines)


def _line(row: Mapping[str, str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row.values())} |"


def draw(points: Sequence[Point]) -> bytes:
    """Draws average incremental accuracy: a line over one key, a heat map of two, else a list.

    Returns:
      The content of a PNG file.
    """
    keys = _keys(points)
    of_key = [list(dict.fromkeys(str(p.values.get(key)) for p in points)) for key in keys]
    is_product = len(points) == int(np.prod([len(values) for values in of_key]))
    with styled():
        if len(keys) == 2 and is_product:
            figure = _heat_map(points, keys, of_key)
        else:
            figure = _dots(points, keys[0] if len(keys) == 1 else "")
        return png(figure)


def _label(points: Sequence[Point]) -> str:
    images = "validation" if all(point.validates for point in points) else "test"
    return f"average incremental accuracy,\n{images} images (%)"


def _heat_map(points: Sequence[Point], keys: Sequence[str], of_key: Sequence[list[str]]) -> Figure:
    best = choose(points)[0]
    shape = len(of_key[0]), len(of_key[1])
    scores = np.full(shape, np.nan)
    figure = Figure(figsize=(2.5 + 1.1 * shape[1], 1.8 + 0.7 * shape[0]), layout="constrained")
    axes = figure.subplots()
    for point in points:
        row, column = (of_key[i].index(str(point.values[keys[i]])) for i in (0, 1))
        if point.is_complete:
            scores[row, column] = _score(point)
    image = axes.imshow(scores, cmap="cividis", aspect="auto")
    middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
    for (row, column), score in np.ndenumerate(scores):
        is_best = best is not None and score == _score(best)
        axes.text(
            column,
            row,
            "-" if np.isnan(score) else f"{score:.1f}{' ★' if is_best else ''}",
            ha="center",
            va="center",
            weight="bold" if is_best else "normal",
            color="white" if score <= middle else "black",
        )
    axes.set_xticks(range(shape[1]), [plot_text(value) for value in of_key[1]])
    axes.set_yticks(range(shape[0]), [plot_text(value) for value in of_key[0]])
    axes.set(xlabel=plot_text(keys[1]), ylabel=plot_text(keys[0]))
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label=_label(points))
    return figure


def _dots(points: Sequence[Point], key: str) -> Figure:
    """Draws a dot with its deviation for each complete point, in the order of the grid."""
    best, shown = choose(points)[0], [point for point in points if point.is_complete]
    figure = Figure(figsize=(7.5, 1.4 + 0.38 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, point in enumerate(shown):
        assert point.run is not None and point.run.average_incremental_accuracy is not None
        mean, std = point.run.average_incremental_accuracy
        colour, marker = (COLOURS[1], "*") if point is best else (COLOURS[0], "o")
        axes.errorbar(mean, place, xerr=std, capsize=3, markersize=8, color=colour, marker=marker)
    names = [plot_text(point.values[key] if key else point.name) for point in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel=_label(points).replace("\n", " "), ylabel=plot_text(key))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return figure
