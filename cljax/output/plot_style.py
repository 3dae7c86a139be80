"""Defines the style of all plots and of text in them, and saves them as PNG."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from cljax.errors import printable

# Okabe and Ito's palette, which is distinct with every kind of color vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Lines also differ without color. Broken ones are drawn over solid ones, which show through.
MARKERS = "os^Dv<>pX"
DASHES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)), (0, (8, 2, 1, 2, 1, 2)))

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
}


@contextlib.contextmanager
def styled(**settings: Any) -> Iterator[None]:
    """Gives plots of the block our style and these rcParams, whatever the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        params: dict[Any, Any] = {**STYLE, **settings}
        matplotlib.rcParams.update(params)
        yield


def plot_text(name: object) -> str:
    r"""Returns text that Matplotlib draws as it is: "$" starts no formula, "\x1b" is four letters.

    A legend leaves out labels that begin with "_"; here a character without width comes before it.
    """
    text = printable(name).replace("$", r"\$")
    return f"\u2060{text}" if text.startswith("_") else text


def png(figure: Figure, dpi: int = 150) -> bytes:
    """Returns the content of a PNG file of a figure, the same for the same data."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # Without matplotlib's version in it.
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
