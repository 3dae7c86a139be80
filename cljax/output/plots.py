"""Draws the plots of a run and grids of images, without a display and without global state."""

import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from cljax.files import write_atomically
from cljax.output.logs import LABELS, Row, epoch_axis
from cljax.output.plot_style import COLOURS, DASHES, MARKERS, plot_text, png, styled

# Keys of a row of metrics.jsonl that are not losses.
NOT_LOSSES = {
    *LABELS,
    "learning_rate",
    "accuracy",
    "dreamed_accuracy",
    "test_accuracy",
    "validation_accuracy",
    "images_per_second",
    "seconds",
}

# What `write_plots` writes.
PLOTS = ("accuracy_after_each_task.png", "accuracy_matrix.png", "loss_curves.png")

# Image grids, in pixels. A power of two as dots per inch keeps sizes whole after the division.
GRID_DPI, GAP, LINE, IMAGE_PIXELS = 128, 10, 4, 64


def mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Computes the mean over seeds of accuracy matrices [seed][t][j]."""
    return [
        [statistics.fmean(cells) for cells in zip(*rows, strict=True)]
        for rows in zip(*matrices, strict=True)
    ]


def write_plots(
    results: dict[str, Any], rows: Sequence[Row], folder: str | os.PathLike
) -> list[Path]:
    """Writes the plots of a run and returns their paths.

    Args:
      results: as `metrics.build_results` returns them.
      rows: the rows of metrics.jsonl.
      folder: directory of `PLOTS`; made if absent. A plot without data (no finished task, no loss)
        is not written.

    Raises:
      UserError: a file cannot be written.
    """
    folder = Path(folder)
    figures = {}
    with styled():
        if results["tasks_done"]:
            figures[PLOTS[0]] = _draw_accuracy(results)
            figures[PLOTS[1]] = _draw_matrix(results)
        curves = loss_curves(rows)
        if curves:
            figures[PLOTS[2]] = _draw_losses(curves, results)
        for name, figure in figures.items():
            write_atomically(folder / name, png(figure))
    return [folder / name for name in figures]


def is_whole(path: Path) -> bool:
    """Whether a picture is there and undamaged."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError):  # Pillow calls a broken PNG a syntax error
        return False
    return True


def accuracy_name(results: dict[str, Any]) -> str:
    """Returns "accuracy", or for example "top-5 accuracy" for config.eval.top_k=5."""
    return "accuracy" if results["top_k"] == 1 else f"top-{results['top_k']} accuracy"


def _title(results):
    seeds = len(results["seeds"])
    many = f", mean of {seeds} seeds" if seeds > 1 else ""
    return plot_text(f"{results['method']} on {results['dataset']}{many}")


def _draw_accuracy(results):
    """Draws accuracy on seen classes over their number: each seed, mean and deviation."""
    seen = np.asarray(results["seen_accuracy"])  # [S, T]
    mean, std = seen.mean(0), seen.std(0)
    classes = list(accumulate(results["task_sizes"]))[: seen.shape[1]]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    if len(seen) > 1:
        for per_task in seen:
            axes.plot(classes, per_task, color=COLOURS[0], linewidth=0.8, alpha=0.4)
        axes.fill_between(classes, mean - std, mean + std, color=COLOURS[0], alpha=0.18, lw=0)
    label = "mean ± std" if len(seen) > 1 else f"seed {results['seeds'][0]}"
    axes.plot(classes, mean, marker="o", color=COLOURS[0], linewidth=2, label=label)
    text = f"{mean[-1]:.1f}"
    axes.annotate(text, (classes[-1], mean[-1]), (0, 9), textcoords="offset points", ha="center")
    axes.set(
        title=_title(results),
        xlabel="seen classes",
        ylabel=f"{accuracy_name(results)} on seen classes (%)",
        ylim=(0, 103),
        xlim=(0, 1.06 * classes[-1]),
        xticks=classes[:: -math.ceil(len(classes) / 10)],
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left")
    return figure


def _draw_matrix(results):
    """Draws the accuracy matrix as a heat map with its numbers, mean over seeds."""
    mean = mean_matrix(results["accuracy"])
    tasks = len(mean)
    matrix = np.full((tasks, tasks), np.nan)
    for t, row in enumerate(mean):
        matrix[t, : t + 1] = row
    side = max(4.2, 1.8 + 0.42 * tasks)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100)
    digits = 1 if tasks <= 10 else 0
    for t, row in enumerate(mean):
        for j, value in enumerate(row):
            colour = "white" if value < 60 else "black"
            axes.text(j, t, f"{value:.{digits}f}", ha="center", va="center", color=colour, size=9)
    ticks = range(0, tasks, 1 if tasks <= 20 else 5)
    labels = [str(tick + 1) for tick in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(
        title=_title(results),
        xlabel="test images of task",
        ylabel="after task",
    )
    figure.colorbar(
        image, ax=axes, label=f"{accuracy_name(results)} (%)", shrink=0.85, fraction=0.05, pad=0.03
    )
    return figure


class Curves(NamedTuple):
    """Holds the losses of one stage, mean over seeds.

    Attributes:
      terms: by name, global epochs and the values at them.
      task_ends: last global epoch of each task.
    """

    terms: dict[str, tuple[list[int], list[float]]]
    task_ends: list[int]


def loss_curves(rows: Sequence[Row]) -> dict[str, Curves]:
    """Collects the losses in rows of metrics.jsonl by stage, in order of first appearance."""
    values = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))  # stage, term, x: seeds
    ends = defaultdict(dict)
    counts = Counter()
    for row in rows:
        x = epoch_axis(row, counts)
        for name, value in row.items():
            if name not in NOT_LOSSES and isinstance(value, (int, float)):
                values[row["stage"]][name][x].append(value)
        ends[row["stage"]][row["task"]] = x
    curves = {}
    for stage, terms in values.items():
        means = {
            name: (sorted(at), [statistics.fmean(at[x]) for x in sorted(at)])
            for name, at in terms.items()
        }
        curves[stage] = Curves(means, list(ends[stage].values()))
    return curves


def _draw_losses(curves, results):
    """Draws a panel per stage with its losses over global epochs; vertical lines end tasks.

    The loss is a broad gray line, each of its terms a thin line with its own marker. So all lines
    can be seen, even if a term is all of the loss or two terms are equal.
    """
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), squeeze=False)[:, 0]
    for axes, (stage, (terms, task_ends)) in zip(panels, curves.items(), strict=True):
        parts = [name for name in terms if name != "loss"]
        for name, (x, values) in terms.items():
            breaks = [(end + 0.5, math.nan) for end in task_ends]  # no line from task to task
            points = np.array(sorted([*zip(x, values, strict=True), *breaks]))
            style = {"color": "0.78", "linewidth": 6, "marker": "o" if len(x) == 1 else ""}
            if name != "loss":
                style = _part_style(parts.index(name), len(parts), len(points))
            axes.plot(*points.T, label=plot_text(name), **style)
        for end in task_ends[:-1]:
            axes.axvline(end + 0.5, color="0.6", linewidth=0.8)
        if _spans_decades([v for _, values in terms.values() for v in values]):
            axes.set_yscale("log", nonpositive="mask")
        axes.set(title=plot_text(stage), ylabel="loss")
        axes.set_xlabel(plot_text(f"epoch of {stage}, all tasks"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, handlelength=3.5)
    figure.suptitle(_title(results), fontsize=12)
    return figure


def _part_style(place, many, points):
    # Markers of different lines are at different epochs.
    every = max(1, points // 10)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place % len(DASHES)],
        "linewidth": 2.5 - 1.3 * place / many,  # a later line is thinner than an equal earlier one
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 5,
        "markevery": (place * every // many, every),
    }


def _spans_decades(values) -> bool:
    # Whether values spread over more than two decades; a loss of zero is then not drawn.
    positive = [value for value in values if value > 0]
    return bool(positive) and min(values) >= 0 and max(positive) > 100 * min(positive)


def write_image_grid(
    images: np.ndarray,
    path: str | os.PathLike,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Writes a PNG of rows of images, each enlarged to 64 pixels or more by whole factors.

    Args:
      images: uint8 [rows, columns, H, W, C] with C 1 (gray) or 3 (RGB).
      path: path of the file.
      row_labels: a name for each row, such as its class or task.
      title, caption: lines above and below.

    Raises:
      UserError: the file cannot be written.
      ValueError: `images` has another shape or dtype, or there is not one label per row.
    """
    if images.ndim != 5 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 [rows, columns, H, W, 1 or 3], not {images.dtype} "
            f"{list(images.shape)}"
        )
    labels = [plot_text(label) for label in row_labels or ()]
    title, caption = plot_text(title or ""), plot_text(caption or "")
    if labels and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} rows of images")
    grid = _tile(images)
    height, width = grid.shape[:2]
    with styled(**{"font.size": 8}):
        left = GAP + (_text_width(labels) + GAP if labels else 0)
        top, bottom = (4 * GAP if line else GAP for line in (title, caption))
        width = max(width, _text_width([title, caption]))
        size = np.array([left + width + GAP, top + height + bottom])
        figure = Figure(figsize=tuple(size / GRID_DPI), dpi=GRID_DPI)
        figure.figimage(grid, xo=left, yo=bottom)
        for r, label in enumerate(labels):
            centre = bottom + height * (1 - (r + 0.5) / len(labels))
            x, y = [left - GAP, centre] / size
            figure.text(x, y, label, ha="right", va="center")
        for line, middle in ((title, bottom + height + top / 2), (caption, bottom / 2)):
            if line:
                x, y = [left, middle] / size
                figure.text(x, y, line, va="center")
        write_atomically(path, png(figure, GRID_DPI))


def write_class_grid(
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike,
    title: str | None = None,
    why_empty: str | None = None,
    shape: tuple[int, int] = (10, 10),
) -> None:
    """Writes a PNG with a row of images for each class, drawn by `write_image_grid`.

    Args:
      images: uint8 [B, H, W, C].
      labels: int [B], class of each image.
      names: names of the classes 0, 1, ...; with more classes than rows, evenly spaced ones are
        shown.
      path: path of the file.
      title: line above the images.
      why_empty: caption that is written if a class has fewer images than there are columns.
      shape: (maximum number of rows, number of columns); cells without an image are white.

    Raises:
      UserError: the file cannot be written.
    """
    rows, columns = shape
    shown = np.linspace(0, len(names) - 1, min(rows, len(names))).round().astype(int)
    grid = np.full((len(shown), columns, *images.shape[1:]), 255, np.uint8)
    has_empty = False
    for row, label in zip(grid, shown, strict=True):
        found = images[labels == label][:columns]
        row[: len(found)] = found
        has_empty |= len(found) < columns
    caption = why_empty if has_empty else None
    write_image_grid(grid, path, [names[int(label)] for label in shown], title, caption)


def _tile(images):
    """Joins uint8 [R, N, H, W, C] to one image [height, width, 3] with white lines in between."""
    rows, columns, h, w, channels = images.shape
    scale = -(-IMAGE_PIXELS // max(h, w))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3).repeat(3 // channels, axis=4)
    cell = np.pad(images, ((0, 0), (0, 0), (0, LINE), (0, LINE), (0, 0)), constant_values=255)
    grid = cell.swapaxes(1, 2).reshape(rows * (scale * h + LINE), columns * (scale * w + LINE), 3)
    return grid[:-LINE, :-LINE]


def _text_width(texts):
    """Measures the longest of the texts in a grid, in pixels."""
    figure = Figure(dpi=GRID_DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    widths = [figure.text(0, 0, text).get_window_extent(renderer).width for text in texts]
    return math.ceil(max(widths))
