"""Shows what classifiers take for what: tables in the terminal, and pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cljax.errors import printable
from cljax.files import write_atomically
from cljax.output.plot_style import COLOURS, plot_text, png, styled

_MOST_NUMBERS = 20  # classes whose counts are written into the picture
_MOST_TICKS = 50  # classes that are all named in it


def print_classes(results: dict[str, Any], console: Console) -> None:
    """Prints the accuracy of each class, and the confusion matrix if it fits the console.

    Args:
      results: as `scores.score` returns them.
      console: where to print.
    """
    for s, seed in enumerate(results["seeds"]):
        counts = np.array(results["confusion"][s])
        names = [printable(name) for name in results["class_names"][s][: len(counts)]]
        console.print(_class_table(results, s, counts, names, seed))
        table = _confusion_table(counts, names)
        unlimited = console.options.update(width=10_000)
        if console.measure(table, options=unlimited).maximum <= console.width:
            title = f"Images of a class (row) that are taken for a class (column), seed {seed}"
            console.print(title, style="italic", highlight=False)
            console.print(table)
        else:
            console.print(f"The confusion matrix is too wide; see {_name(seed)}.")


def _class_table(results, s, counts, names, seed) -> Table:
    table = Table(title=f"Accuracy of each class, seed {seed}", title_justify="left")
    for heading in ("task", "class", "images", "accuracy (%)", "most often taken for"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    tasks = np.repeat(np.arange(len(results["task_sizes"])), results["task_sizes"])
    for k, accuracy in enumerate(results["class_accuracy"][s]):
        others = counts[k] * (np.arange(len(counts)) != k)
        worst = int(others.argmax())
        wrong = f"{names[worst]} ({others[worst]})" if others[worst] else "-"
        shown = "-" if accuracy is None else f"{accuracy:.1f}"
        row = (str(tasks[k] + 1), names[k], str(counts[k].sum()), shown, wrong)
        table.add_row(*map(Text, row))
    return table


def _confusion_table(counts, names) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, justify="right")
    for name in names:
        table.add_column(Text(name), no_wrap=True, justify="right")
    for name, row in zip(names, counts, strict=True):
        table.add_row(Text(name), *map(str, row))
    return table


def write_pictures(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes a picture of the confusion matrix and the accuracy of each class for each seed.

    Raises:
      UserError: a file cannot be written.
    """
    paths = []
    for s, seed in enumerate(results["seeds"]):
        with styled():
            content = png(_draw(results, s))
        paths.append(folder / _name(seed))
        write_atomically(paths[-1], content)
    return paths


def _name(seed: int) -> str:
    return f"confusion_seed{seed}.png"


def _draw(results: dict[str, Any], s: int) -> Figure:
    """Draws the shares of a class's images in a row of the matrix, and the class's bar beside it.

    White lines separate the tasks.
    """
    counts = np.array(results["confusion"][s])
    classes = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(max(4.0, 1.2 + 0.42 * classes), 14.0)
    figure = Figure(figsize=(1.45 * side + 1.6, side + 0.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 0.4), sharey=True)
    image = left.imshow(shares, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    if classes <= _MOST_NUMBERS:
        for i, j in np.argwhere(counts):
            color = "white" if shares[i, j] < 60 else "black"
            left.text(j, i, str(counts[i, j]), ha="center", va="center", color=color, size=9)
    every = -(-classes // _MOST_TICKS)
    ticks = range(0, classes, every)
    names = [plot_text(results["class_names"][s][k]) for k in ticks]
    left.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, size=9)
    left.set_yticks(ticks, names, size=9)
    left.set(xlabel="predicted class", ylabel="class, in the order of the tasks")
    for end in np.cumsum(results["task_sizes"][: results["tasks_done"] - 1]):
        for line in (left.axhline, left.axvline):
            line(end - 0.5, color="white", linewidth=1.2)
        right.axhline(end - 0.5, color="0.6", linewidth=0.8)
    accuracy = [value or 0.0 for value in results["class_accuracy"][s]]
    right.barh(range(classes), accuracy, color=COLOURS[0], height=0.75)
    right.set(xlabel="accuracy of the class (%)", xlim=(0, 100))
    right.tick_params(labelleft=False, left=False)
    figure.colorbar(image, ax=left, label="share of the class's images (%)", pad=0.02)
    seed, task = results["seeds"][s], results["tasks_done"]
    title = f"{results['method']} on {results['dataset']} after task {task}, seed {seed}"
    figure.suptitle(plot_text(title), fontsize=12)
    return figure
