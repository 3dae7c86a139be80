"""Writes metrics.jsonl, TensorBoard events and log.txt while a run trains."""

import errno
import json
import logging
import math
import os
import time
from collections import Counter
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.console import Console

from cljax.errors import UserError
from cljax.files import plain, writing
from cljax.notes import NOTE

FLUSH_SECONDS = 10.0  # between flushes of the event file, each of which waits for the disk
_WAITING_RECORDS = 1000  # that log.txt may be behind, until there is a workdir
LABELS = ("seed", "task", "stage", "epoch", "step", "global_epoch")  # say where a row belongs


def read_rows(path: str | os.PathLike) -> list[dict]:
    """The rows of a metrics.jsonl; a last line without its newline (a killed run) is left out.

    Raises:
      UserError: no such file, or a line that is not a JSON object.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON; the file is damaged") from error
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number} is not a JSON object; the file is damaged")
        rows.append(row)
    return rows


def epoch_axis(row: dict, counts: Counter) -> int:
    """The x of a row in curves: its `global_epoch`, else how many rows its seed and stage had.

    `counts` belongs to the caller: empty at first, passed again for every row in file order.
    """
    key = (row.get("seed"), row.get("stage"))
    counts[key] += 1
    return row.get("global_epoch", counts[key])


class RunLog:
    """metrics.jsonl, a line per seed, task, stage and epoch, mirrored as TensorBoard events.

    metrics.jsonl is the truth: events are rebuilt from it whenever it is cut or opened again, so
    that a curve shows no epoch twice and lacks none. Use as a context manager, or `close` it.
    Every method raises UserError when a file cannot be written, for example on a full disk.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Opens `workdir`/metrics.jsonl for appending and drops a torn last line."""
        self.path = Path(workdir) / "metrics.jsonl"
        self._events = _EventFile(Path(workdir) / "tensorboard")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is in the file when append returns.
            self._file = self.path.open("a+b", buffering=0)
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def append(self, row: dict) -> None:
        """Writes one row, which names its "seed" and "stage"; non-finite floats become null."""
        if not self._events.is_open:
            self._events.rebuild(self.rows())
        row = plain(row)
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with writing(self.path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._events.add(row)

    def position(self) -> int:
        """Length of the file in bytes, for a checkpoint; all lines so far are on the disk then."""
        with writing(self.path):
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def truncate(self, position: int) -> None:
        """Drops every line after `position`, as a resumed run must before it appends.

        Raises:
          UserError: the file is shorter, or no line ends there: not the checkpoint's file.
        """
        self._file.seek(0)
        kept = self._file.read(position) if position else b""
        if len(kept) < position:
            raise UserError(
                f"{self.path} has {len(kept)} bytes but the checkpoint was saved at {position}; "
                "put the file back or start anew in another workdir"
            )
        if kept and not kept.endswith(b"\n"):
            raise UserError(
                f"{self.path} has no end of line at byte {position}, where the checkpoint was "
                "saved; put the file back or start anew in another workdir"
            )
        with writing(self.path):
            self._file.truncate(position)
        self._events.rebuild(self.rows())

    def rows(self) -> list[dict]:
        """All rows so far, oldest first."""
        return read_rows(self.path)

    def close(self) -> None:
        self._file.close()
        self._events.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _EventFile:
    """One TensorBoard event file with a scalar `seed0/train/loss` per number of a row.

    Written through tensorboardX's synchronous writer: its SummaryWriter hands events to a thread,
    which dies on a full disk and then blocks the run.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer = None

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def rebuild(self, rows: list[dict]) -> None:
        """Replaces the folder's event files by one that holds `rows`."""
        from tensorboardX.event_file_writer import EventsWriter  # loads protobuf: only when used

        self.close()
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("events.out.tfevents.*"):
                path.unlink()
            self._writer = EventsWriter(str(self._folder / "events"))
        self._counts = Counter()
        self._flushed = -math.inf
        for row in rows:
            self.add(row)

    def add(self, row: dict) -> None:
        """Writes a row's numbers as an event."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"seed{row['seed']}/{row['stage']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in LABELS and isinstance(value, (int, float))
        ]
        step = epoch_axis(row, self._counts)
        event = Event(step=step, wall_time=time.time(), summary=Summary(value=values))
        with writing(self._folder):
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        if self._writer is not None:
            with writing(self._folder):
                self._writer.close()
            self._writer = None


class _ConsoleHandler(logging.Handler):
    """Prints records through a rich console, which keeps a live line below them intact."""

    def __init__(self, console):
        super().__init__(NOTE)
        self.console = console

    def emit(self, record):
        """Prints one record."""
        prefix = f"{record.levelname.lower()}: " if record.levelno > NOTE else ""
        self.console.print(
            f"{prefix}{self.format(record)}",
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
        )


def log_to_console(console: Console | None = None) -> logging.Logger:
    """Sends notes and warnings of the "cljax" logger to the console; records wait for log.txt.

    Calling it again replaces the handlers of the call before.

    Args:
      console: standard error unless given. Pass the console of the progress display so that
        neither overwrites the other.
    """
    logger = logging.getLogger("cljax")
    _replace_handler(logger, "cljax.console", _ConsoleHandler(console or Console(stderr=True)))
    waiting = MemoryHandler(_WAITING_RECORDS, flushLevel=logging.CRITICAL + 1)
    _replace_handler(logger, "cljax.file", waiting)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # absl's handler on the root logger would print every line again
    return logger


def log_to_file(workdir: str | os.PathLike) -> None:
    """Sends the "cljax" logger to `workdir`/log.txt (INFO and above), with what has waited for it.

    Raises:
      UserError: log.txt cannot be written.
    """
    path = Path(workdir) / "log.txt"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cljax")
    for waiting in logger.handlers:
        if isinstance(waiting, MemoryHandler):
            waiting.setTarget(to_file)
            waiting.flush()
            waiting.setTarget(None)
    _replace_handler(logger, "cljax.file", to_file)


def _replace_handler(logger, name, handler):
    for old in [h for h in logger.handlers if h.name == name]:
        logger.removeHandler(old)
        old.close()
    handler.name = name
    logger.addHandler(handler)
