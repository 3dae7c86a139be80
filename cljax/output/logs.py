"""Writes metrics.jsonl, TensorBoard events and log.txt while a run trains."""

import errno
import json
import logging
import math
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from cljax.errors import EARLY_NOTES, NOTE, UserError, print_plain, printable
from cljax.files import Record, check_record, open_plain, parse_json, plain, writing
from cljax.settings import Count

FLUSH_SECONDS = 10.0  # between flushes of the event file, each of which waits for the disk
_WAITING_RECORDS = 1000  # that log.txt may be behind, until there is a workdir
Row = dict[str, Any]  # of metrics.jsonl
LABELS = ("seed", "task", "stage", "epoch", "step", "global_epoch")  # say where a row belongs


class _RowRecord(Record):
    """What plots and events take from a row of a run."""

    seed: int
    stage: str
    task: Count = 0
    global_epoch: Count = 0


def read_rows(path: str | os.PathLike) -> list[Row]:
    """Reads the rows of a metrics.jsonl; leaves out a last line without newline (a killed run).

    Raises:
      UserError: there is no such file, or a line is not a JSON object.
    """
    try:
        with open_plain(path) as file:
            lines = file.read().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{path}: line {number} is not JSON ({error}); the file is damaged"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a JSON object; the file is damaged")
        rows.append(row)
    return rows


def epoch_axis(row: Row, counts: Counter) -> int:
    """Returns the x of a row in curves: its `global_epoch`, or else a count of rows.

    Args:
      row: a row of metrics.jsonl.
      counts: rows so far of each seed and stage; pass an empty counter for the first row and the
        same one for each later row, in file order.
    """
    key = (row.get("seed"), row.get("stage"))
    counts[key] += 1
    return row.get("global_epoch", counts[key])


class RunLog:
    """Writes metrics.jsonl, a line per seed, task, stage and epoch, and TensorBoard events.

    The events are rebuilt from metrics.jsonl whenever it is cut or opened again. So a curve shows
    each epoch exactly once. Whoever cuts it adds tasks and pictures again. Use it as a context
    manager, or `close` it. Every method raises UserError if a file cannot be written, for example
    on a full disk.
    """

    def __init__(self, workdir: str | os.PathLike) -> None:
        """Opens `workdir`/metrics.jsonl; the first `append` drops a torn last line."""
        self.path = Path(workdir) / "metrics.jsonl"
        self._events = _EventFile(Path(workdir) / "tensorboard")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is in the file when append returns.
            self._file = self.path.open("a+b", buffering=0)

    def append(self, row: Row) -> None:
        """Writes one row, which must have "seed" and "stage"; non-finite floats become null."""
        if not self._events.is_open:
            with writing(self.path):
                self._file.truncate(self._read().rfind(b"\n") + 1)
            self._events.rebuild(self.rows())
        row = plain(row)
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with writing(self.path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._events.add(row)

    def add_task(self, seed: int, task: int, values: Mapping[str, float]) -> None:
        """Adds to the events what a seed has reached after a task (from 1), unless they have it."""
        prefix = f"seed{seed}/after_task/"
        if self._events.is_new(prefix, task):
            self._events.add_scalars({prefix + name: v for name, v in values.items()}, task)

    def add_picture(self, seed: int, task: int, name: str, png: bytes) -> None:
        """Adds a picture of a seed and a task (from 1) to the events, unless they have it."""
        if self._events.is_new(f"seed{seed}/{name}", task):
            self._events.add_picture(f"seed{seed}/{name}", png, task)

    def position(self) -> tuple[int, int]:
        """Writes all lines so far to the disk; returns their length in bytes and their CRC-32."""
        with writing(self.path):
            os.fsync(self._file.fileno())
            content = self._read()
        return len(content), zlib.crc32(content)

    def truncate(self, position: int, checksum: int) -> None:
        """Removes all lines after a position; a resumed run must do so before it appends.

        Args:
          position: length in bytes, as `position` returned it for the checkpoint.
          checksum: CRC-32 of these bytes, from there too.

        Raises:
          UserError: the file is shorter, or differs before `position`; it stays as it is.
        """
        kept = self._read()[:position]
        if len(kept) < position:
            raise UserError(
                f"{self.path}: has {len(kept)} bytes, but the checkpoint was saved at {position}; "
                "put the file back, or start over in another --workdir"
            )
        if zlib.crc32(kept) != checksum:
            raise UserError(
                f"{self.path}: its first {position} bytes are not those of the checkpoint; put the "
                "file back, or start over in another --workdir"
            )
        with writing(self.path):
            self._file.truncate(position)
        self._events.rebuild(self.rows())

    def rows(self) -> list[Row]:
        """Reads all rows so far, oldest first.

        Raises:
          UserError: a row lacks what `append` demands, or an entry is of another type.
        """
        rows = read_rows(self.path)
        for number, row in enumerate(rows, start=1):
            try:
                check_record(_RowRecord, row)
            except ValueError as error:
                raise UserError(f"{self.path}: line {number}: {error}") from error
        return rows

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()


class _EventFile:
    """Writes a TensorBoard event file with a scalar `seed0/train/loss` for each number of a row.

    It uses tensorboardX's synchronous writer: SummaryWriter hands events to a thread, which dies on
    a full disk and then blocks the run.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer = None

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def rebuild(self, rows: list[Row]) -> None:
        """Replaces the event files in the directory by one with `rows`."""
        from tensorboardX.event_file_writer import EventsWriter  # loads protobuf: only when used

        self.close()
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("events.out.tfevents.*"):
                path.unlink()
            self._writer = EventsWriter(str(self._folder / "events"))
        self._counts = Counter()
        self._once = set()
        self._flushed = -math.inf
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Writes the numbers of a row as an event."""
        tags = {
            f"seed{row['seed']}/{row['stage']}/{name}": value
            for name, value in row.items()
            if name not in LABELS and isinstance(value, (int, float))
        }
        self.add_scalars(tags, epoch_axis(row, self._counts))

    def is_new(self, tag: str, step: int) -> bool:
        """Whether this is the first call with a tag and a step since the events were rebuilt."""
        count = len(self._once)
        self._once.add((tag, step))
        return len(self._once) > count

    def add_scalars(self, tags: Mapping[str, float], step: int) -> None:
        """Writes numbers by their tags as an event."""
        values = [{"tag": printable(tag), "simple_value": value} for tag, value in tags.items()]
        self._write(values, step)

    def add_picture(self, tag: str, png: bytes, step: int) -> None:
        """Writes a PNG file as an event."""
        width, height = struct.unpack(">II", png[16:24])
        image = {"width": width, "height": height, "colorspace": 4, "encoded_image_string": png}
        self._write([{"tag": tag, "image": image}], step)

    def _write(self, values, step):
        # protobuf makes these classes when the modules are imported.
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        assert self._writer is not None  # `rebuild` has made it
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
        print_plain(self.console, f"{prefix}{self.format(record)}")


class _LineFormatter(logging.Formatter):
    """Formats a record as one line that can be encoded."""

    def format(self, record):
        """Formats one record."""
        return printable(super().format(record))


def log_to_console(console: Console | None = None) -> logging.Logger:
    """Sends notes and warnings of the "cljax" logger to the console; stores records for log.txt.

    A second call replaces the handlers of the first. The first one also sends the notes on the
    config, which was read before there was a console.

    Args:
      console: standard error by default. Pass the console of the progress display so that neither
        overwrites the other.
    """
    logger = logging.getLogger("cljax")
    _replace_handler(logger, "cljax.console", _ConsoleHandler(console or Console(stderr=True)))
    waiting = MemoryHandler(_WAITING_RECORDS, flushLevel=logging.CRITICAL + 1)
    _replace_handler(logger, "cljax.file", waiting)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # absl's handler on the root logger would print every line again
    early, EARLY_NOTES.buffer = EARLY_NOTES.buffer, []
    for record in early:
        logger.handle(record)
    return logger


def log_to_file(workdir: str | os.PathLike) -> None:
    """Sends the "cljax" logger (INFO and above) to `workdir`/log.txt, stored records first.

    Raises:
      UserError: log.txt cannot be written.
    """
    path = Path(workdir) / "log.txt"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(message)s"))
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
