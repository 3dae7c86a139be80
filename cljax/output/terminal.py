"""Lets a command work whatever its terminal is, and ends it in one line at Ctrl-C.

Imports the standard library only: a command enters `ready` before anything that takes time.
"""

import contextlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO

_STANDARD = (0, 1, 2)  # file descriptors of standard input, output and error
_IMPORT = "<frozen importlib._bootstrap>"  # file name of the frames of an import


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Runs a command: what it prints never ends it, and SIGINT ends it with status 130 and a line.

    Output that cannot be written is lost, and characters that the terminal does not have are
    escaped. The program is restarted if the locale has no names of files outside ASCII.
    """
    before = signal.getsignal(signal.SIGINT)
    # A background process of a shell ignores SIGINT; only the main thread may set handlers.
    handles = threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN
    try:
        if handles:
            signal.signal(signal.SIGINT, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # after a restart
        _use_utf8()
        _open_standard_files()
        sys.stdout = _lossy(sys.stdout, sys.__stdout__, 1)
        sys.stderr = _lossy(sys.stderr, sys.__stderr__, 2)
        sys.unraisablehook = _repeat_interrupt
        yield
    except KeyboardInterrupt:
        _stop()
    finally:
        if handles:
            signal.signal(signal.SIGINT, before)


def restart() -> None:
    """Starts the program again with the changed environment; SIGINT waits until `ready`.

    Returns if the system refuses.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _use_utf8() -> None:
    """Restarts the program if names of files are ASCII, as in the locale C without Python's UTF-8.

    The encoding of the terminal stays that of the locale.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.environ.setdefault("PYTHONIOENCODING", "ascii")
        restart()


def _open_standard_files() -> None:
    """Opens the null device for standard files that are closed.

    Otherwise a file of the run would get their numbers, and messages of libraries would go into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) in _STANDARD:
        pass
    os.close(number)


def _lossy(stream: Any, original: Any, number: int) -> TextIO:
    """Returns a stream to a standard file whose writes never fail.

    Args:
      stream: sys.stdout or sys.stderr; None if it was closed at the start.
      original: what Python made of the standard file. If `stream` is another one, a caller has
        replaced it, and it is returned.
      number: file descriptor.
    """
    if stream is not original:
        return stream
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_LossyFile(number, "wb", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=stream is None or stream.line_buffering or stream.write_through,
    )


class _LossyFile(io.FileIO):
    """Loses what cannot be written: to a full disk, a pipe without a reader, a lost terminal."""

    def write(self, data) -> int:
        """Writes all bytes if possible; returns their number in any case."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):
            try:
                count = super().write(view[written:])
                if count is None:  # a pipe that does not block is full
                    select.select([], [self], [])
                written += count or 0
            except OSError:
                break
        return len(view)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handles SIGINT: raises KeyboardInterrupt, or ends the program at once during an import.

    Extension modules print an error of their imports, or turn it into another one.
    """
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            _stop()
        frame = frame.f_back
    raise KeyboardInterrupt


def _stop() -> NoReturn:
    """Ends the program in one line, without Python's shutdown: XLA's threads may crash in it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("Stopped without saving; what was saved before is kept.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def _repeat_interrupt(ignored: Any) -> None:
    """Sends SIGINT again if its KeyboardInterrupt came where Python ignores errors (destructors).

    Says nothing of other ignored errors. TensorStore's threads report a failed write a second time
    in this way, for example on a full disk.
    """
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
