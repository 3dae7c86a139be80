"""Shows the progress of a run: live in a terminal, a plain line from time to time elsewhere."""

import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 10.0  # between plain lines
LIVE_SECONDS = 0.1  # between redraws of the live lines
BAR = 10  # columns


class TimeLeft:
    """Seconds a run still needs, from the mean time per unit of each kind of work.

    A kind's units cost about the same throughout, such as the batches of a stage.
    """

    def __init__(self, work: Mapping[str, float], done: Mapping[str, float] | None = None):
        """`work`: units of every kind in the whole run; `done`: those that a resumed run has."""
        self._work = dict(work)
        self._done = {stage: 0.0 for stage in work} | dict(done or {})
        self._seconds = dict.fromkeys(work, 0.0)
        self._units = dict.fromkeys(work, 0.0)
        self._compiled = set()

    def advance(self, stage: str, done: float, seconds: float) -> None:
        """Says that `stage` has `done` units in all, after `seconds` more of wall time."""
        units = done - self._done[stage]
        self._done[stage] = done
        # The first interval of a stage holds its compilation, which does not come again.
        if stage in self._compiled:
            self._seconds[stage] += seconds
            self._units[stage] += units
        self._compiled.add(stage)

    def __call__(self) -> tuple[float | None, bool]:
        """(seconds, whether they are all). Stages not yet timed are missing from the seconds.

        The seconds are None before anything has been timed, and 0 when no work is left.
        """
        waiting = {s: self._work[s] - self._done[s] for s in self._work}
        waiting = {s: units for s, units in waiting.items() if units > 0}
        timed = [s for s in waiting if self._units[s] > 0]
        if waiting and not timed:
            return None, False
        seconds = sum(waiting[s] * self._seconds[s] / self._units[s] for s in timed)
        return seconds, len(timed) == len(waiting)


class Progress:
    """Shows where a run is. Use as a context manager around the run.

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
    ):
        """Args:
        work: units of every kind of work in the whole run (see `TimeLeft`).
        done: the units that a resumed run found done.
        console: where to show; standard output unless given.
        clock: the time in seconds.
        """
        self._console = console or Console()
        self._clock = clock
        self._time_left = TimeLeft(work, done)
        self._live = None
        self._pending = None
        self._begun, self._fraction, self._told = [], 0.0, False

    def __enter__(self):
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

    def __exit__(self, *exception):
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
        """Tells the display what begins; it says so until the first `update`.

        Args:
          task, epoch: counted from 0, shown from 1.
          part: a stage, or what else takes long; only a stage has epochs.
        """
        part = part if epoch is None else f"{part} {epoch + 1}/{num_epochs}"
        self._begun = [f"task {task + 1}/{num_tasks}", part]
        self._fraction = epoch / num_epochs if epoch else 0.0
        self._told = False
        if self._live is not None:
            self._pending = None
            self._draw([*self._begun, "running"], [])

    def compiling(self, begins: bool) -> None:
        """Tells the display that a program begins to be compiled, or that it is there now.

        Elsewhere than in a terminal that is a line for all programs of what was started last.
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
        """Tells the display that an epoch (or a chunk of a stage) has ended.

        Args:
          task, epoch: counted from 0, shown from 1.
          metrics: losses; "accuracy" is a fraction and shown in percent.
          kind: of work, a key of the work that the display was made with.
          work_done: units of that kind done in the whole run so far.
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
        """Prints a line that stays, above the live one and below what came before it."""
        if self._live is None and self._pending is not None:
            self._write(self._pending)
            self._pending = None
        self._write(line)

    def _draw(self, place, numbers):
        """The live lines: where the run is, with a bar if there is room, and its numbers."""
        width = self._console.width
        first, second = Text(fit(place, width)), Text(fit(numbers, width))
        if len(first) + 1 + BAR <= width:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=BAR)
            grid.add_row(ProgressBar(total=1.0, completed=self._fraction), first)
            first = grid
        self._live.update(Group(first, second), refresh=True)

    def _write(self, line):
        self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def fit(words: Sequence[str], width: int) -> str:
    """A line of as many words as it can hold whole, the first ones first."""
    line = ""
    for word in words:
        longer = f"{line}  {word}" if line else word
        if len(longer) > width:
            break
        line = longer
    return line


def describe_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Such as ["loss 1.204", "accuracy 83.1 %", "local 0.3"]; the two first, where there are."""
    first = {name: metrics[name] for name in ("loss", "accuracy") if name in metrics}
    return [
        f"{name} {100 * value:.1f} %" if name == "accuracy" else f"{name} {value:.4g}"
        for name, value in (first | metrics).items()
    ]


def describe_time_left(seconds: float | None, all_of_it: bool) -> str:
    """Such as "1:02:33 left", or "at least 2:03 left" while some stages have not been timed."""
    if seconds is None:
        return "time left not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{clock} left" if all_of_it else f"at least {clock} left"
