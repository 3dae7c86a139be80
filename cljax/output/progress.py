"""Shows the progress of a run: live in a terminal, otherwise a plain line from time to time."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cljax.errors import print_plain, printable

PLAIN_SECONDS = 10.0  # between plain lines
LIVE_SECONDS = 0.1  # between redraws of the live lines
BAR = 10  # columns


class TimeLeft:
    """Estimates the time left in a run from the mean time per unit of each kind of work.

    All units of one kind should take about the same time, such as the batches of a stage.
    """

    def __init__(self, work: Mapping[str, float], done: Mapping[str, float] | None = None) -> None:
        """Starts the estimate.

        Args:
          work: number of units in the whole run, by kind of work.
          done: number of units that a resumed run has done already, by kind of work.
        """
        self._work = dict(work)
        self._done = {stage: 0.0 for stage in work} | dict(done or {})
        self._seconds = dict.fromkeys(work, 0.0)
        self._units = dict.fromkeys(work, 0.0)
        self._compiled = set()

    def advance(self, stage: str, done: float, seconds: float) -> None:
        """Records the units of a kind of work done so far, and the time since the last call.

        Args:
          stage: kind of work.
          done: number of units of that kind in the whole run so far.
          seconds: wall time since the last call.
        """
        units = done - self._done[stage]
        self._done[stage] = done
        # The first interval of a stage includes its compilation, which happens only once.
        if stage in self._compiled:
            self._seconds[stage] += seconds
            self._units[stage] += units
        self._compiled.add(stage)

    def __call__(self) -> tuple[float | None, bool]:
        """Estimates the time left.

        Returns:
          The seconds left, None before anything has been timed, 0 if no work is left. And whether
          they include all kinds of work; kinds that have not been timed yet are missing.
        """
        waiting = {s: self._work[s] - self._done[s] for s in self._work}
        waiting = {s: units for s, units in waiting.items() if units > 0}
        timed = [s for s in waiting if self._units[s] > 0]
        if waiting and not timed:
            return None, False
        seconds = sum(waiting[s] * self._seconds[s] / self._units[s] for s in timed)
        return seconds, len(timed) == len(waiting)


class Progress:
    """Shows how far a run is. Use it as a context manager around the run.

    with Progress({"train": 500, "invert": 40}) as progress:
        progress.start(task=0, num_tasks=5, part="train", epoch=3, num_epochs=100)
        progress.update(task=0, num_tasks=5, stage="train", epoch=3, num_epochs=100,
                        metrics={"loss": 1.2, "accuracy": 0.83}, kind="train", work_done=4,
                        images_per_second=41000.0)
    """

    def __init__(
        self,
        work: Mapping[str, float],
        *,
        done: Mapping[str, float] | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares the display.

        Args:
          work, done: as in `TimeLeft`.
          console: standard output by default.
          clock: returns the time in seconds.
        """
        self._console = console or Console()
        self._clock = clock
        self._time_left = TimeLeft(work, done)
        self._live: Live | None = None
        self._pending: str | None = None
        self._begun, self._fraction, self._told = [], 0.0, False

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._updated = self._clock()
        self._shown = None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._pending is not None:
            self._write(self._pending)

    def start(
        self,
        *,
        task: int,
        num_tasks: int,
        part: str,
        epoch: int | None = None,
        num_epochs: int | None = None,
    ) -> None:
        """Shows what begins until the first `update`.

        Args:
          task, epoch: counted from 0, shown from 1.
          num_tasks: number of tasks of the run.
          part: a stage, or other work that takes long; only a stage has epochs.
          num_epochs: number of epochs of the stage.
        """
        part = part if epoch is None else f"{part} {epoch + 1}/{num_epochs}"
        self._begun = [f"task {task + 1}/{num_tasks}", part]
        self._fraction = epoch / num_epochs if epoch and num_epochs else 0.0
        self._told = False
        if self._live is not None:
            self._pending = None
            self._draw([*self._begun, "running"], [])

    def compiling(self, begins: bool) -> None:
        """Shows that the compilation of a program begins or has ended.

        Outside a terminal, one line stands for all programs since the last `start`.
        """
        if self._live is not None:
            self._draw([*self._begun, "compiling" if begins else "running"], [])
        elif begins and not self._told:
            self.note("  ".join([*self._begun, "compiling"]))
            self._told = True

    def update(
        self,
        *,
        task: int,
        num_tasks: int,
        stage: str,
        epoch: int,
        num_epochs: int,
        metrics: Mapping[str, float],
        kind: str,
        work_done: float,
        images_per_second: float | None = None,
    ) -> None:
        """Shows that an epoch has ended.

        Args:
          task, epoch: counted from 0, shown from 1.
          num_tasks: number of tasks of the run.
          stage: name of the stage.
          num_epochs: number of epochs of the stage.
          metrics: losses, and "accuracy", a fraction that is shown in percent.
          kind: kind of work, a key of `work`.
          work_done: number of units of that kind in the whole run so far.
          images_per_second: training speed, if known.
        """
        now = self._clock()
        self._time_left.advance(kind, work_done, now - self._updated)
        self._updated = now
        # What matters most comes first, because a narrow terminal has no room for the rest.
        place = [f"task {task + 1}/{num_tasks}", f"{stage} {epoch + 1}/{num_epochs}"]
        place.append(describe_time_left(*self._time_left()))
        numbers = describe_metrics(metrics)
        if images_per_second is not None:
            main = [name for name in ("loss", "accuracy") if name in metrics]
            numbers.insert(len(main), f"{images_per_second:,.0f} images/s")
        self._pending = "  ".join(place + numbers)
        self._fraction = (epoch + 1) / num_epochs
        period = PLAIN_SECONDS if self._live is None else LIVE_SECONDS
        if self._shown is not None and now - self._shown < period:
            return
        self._shown = now
        if self._live is None:
            self._write(self._pending)
            self._pending = None
        else:
            self._draw(place, numbers)

    def note(self, line: str) -> None:
        """Prints a permanent line above the live lines."""
        if self._live is None and self._pending is not None:
            self._write(self._pending)
            self._pending = None
        self._write(line)

    def _draw(self, place: Sequence[str], numbers: Sequence[str]) -> None:
        # Two lines: where the run is, with a bar if there is room, and its numbers.
        assert self._live is not None
        width = self._console.width
        first, second = (Text(fit([*map(printable, w)], width)) for w in (place, numbers))
        if len(first) + 1 + BAR <= width:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=BAR)
            grid.add_row(ProgressBar(total=1.0, completed=self._fraction), first)
            first = grid
        self._live.update(Group(first, second), refresh=True)

    def _write(self, line):
        print_plain(self._console, line)


def fit(words: Sequence[str], width: int) -> str:
    """Joins the first words to a line of at most `width` columns; cuts no word."""
    line = ""
    for word in words:
        longer = f"{line}  {word}" if line else word
        if len(longer) > width:
            break
        line = longer
    return line


def describe_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Formats metrics, such as ["loss 1.204", "accuracy 83.1 %", "local 0.3"], these two first."""
    first = {name: metrics[name] for name in ("loss", "accuracy") if name in metrics}
    return [
        f"{name} {100 * value:.1f} %" if name.endswith("accuracy") else f"{name} {value:.4g}"
        for name, value in {**first, **metrics}.items()
    ]


def describe_time_left(seconds: float | None, all_of_it: bool) -> str:
    """Formats the time left, such as "1:02:33 left", or "at least 2:03 left" if parts are unknown.

    Args:
      seconds, all_of_it: as `TimeLeft` returns them.
    """
    if seconds is None:
        return "time left not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{clock} left" if all_of_it else f"at least {clock} left"
