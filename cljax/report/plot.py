"""Draws the accuracy curves of many runs in one plot."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from cljax.output.plot_style import COLOURS, DASHES, MARKERS, plot_text, png, styled
from cljax.report import published
from cljax.report.cells import group_title, grouped, mean_std
from cljax.report.runs import RunRecord

# One color for each name in the published tables. With more names colors repeat, but not together
# with markers and dashes, whose numbers are different.
PALETTE = (*COLOURS, "#882255", "#8C8C8C", "#997700")
PANEL = (9.8, 4.4)  # inches, legend included


def draw(runs: Sequence[RunRecord]) -> bytes | None:
    """Draws accuracy on seen classes over the number of seen classes, a panel for each group.

    Lines are means over seeds, bands are ± std. A published final accuracy is a star in the color
    of its run, next to the last point. A method has the same color, marker and dashes in all
    panels; with exemplars its marker is hollow. Later lines are thinner, so that equal lines can
    all be seen.

    Returns:
      The content of a PNG file; None if no run has finished a task.
    """
    panels = [[run for run in group if run.tasks_done] for group in grouped(runs)]
    panels = [panel for panel in panels if panel]
    if not panels:
        return None
    looks = {}  # a name's place gives its colour, marker and dashes
    for run in runs:
        looks.setdefault(run.name, len(looks))
    with styled():
        width, height = PANEL
        layout = ConstrainedLayoutEngine(hspace=0.06, h_pad=0.08)
        figure = Figure(figsize=(width, height * len(panels)), layout=layout)
        for axes, panel in zip(
            figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
        ):
            _draw_panel(axes, panel, looks)
        return png(figure, dpi=160)


def _draw_panel(axes, runs, looks):
    last = max(run.classes[-1] for run in runs)
    if any(run.published for run in runs):
        last = published.CLASSES[runs[0].dataset]
    for n, run in enumerate(runs):
        _draw_run(axes, run, looks[run.name], n / len(runs), last)
    handles = axes.get_legend_handles_labels()[0]
    if any(run.published for run in runs):
        handles.append(_star("0.4", "published final accuracy"))
    if any(run.marks for run in runs):
        handles.append(Line2D([], [], linestyle="", label="† has a caveat, see the table"))
    ticks = max((run.classes for run in runs), key=len)
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9.5, handlelength=4
    )
    axes.set(
        xlabel="seen classes",
        ylabel="accuracy on seen classes (%)",
        xlim=(0, 1.07 * last),
        ylim=(0, 103),
        xticks=ticks[:: -math.ceil(len(ticks) / 10)],
    )
    axes.set_title(plot_text(group_title(runs[0])), loc="left", weight="bold")
    axes.grid(axis="y", alpha=0.3)


def _draw_run(axes, run, place, before, last):
    # `place` among the names gives the look; `before` is the fraction of lines drawn before.
    colour = PALETTE[place % len(PALETTE)]
    mean, std = run.seen_accuracy.mean(0), run.seen_accuracy.std(0)
    kept = f", {run.exemplars} exemplars" if run.exemplars else ""
    final = mean_std(run.final_accuracy, len(run.seeds))
    label = f"{run.name}{kept}: {final}{' †' if run.marks else ''}"
    if len(run.seeds) > 1:
        axes.fill_between(run.classes, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    axes.plot(
        run.classes,
        mean,
        color=colour,
        marker=MARKERS[place % len(MARKERS)],
        markersize=9 - 5 * before,
        markerfacecolor="white" if run.exemplars else colour,
        linewidth=3.2 - 2 * before,
        linestyle=DASHES[place % len(DASHES)],
        label=plot_text(label),
    )
    if run.published:
        place = 1.035 * last  # next to the curve's end, which it would hide
        axes.errorbar(place, *run.published, color=colour, capsize=3, elinewidth=1.2, zorder=4)
        axes.add_line(_star(colour, x=[place], y=[run.published.mean]))


def _star(colour, label=None, x=(), y=()):
    return Line2D(
        x,
        y,
        linestyle="",
        marker="*",
        markersize=11,
        markerfacecolor="white",
        markeredgecolor=colour,
        markeredgewidth=1.3,
        zorder=5,
        label=label,
    )
