"""Defines what the user is told: UserError, notes and warnings, and names as plain text."""

import contextlib
import logging
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console  # the command line's own errors do not wait for it

NOTE = 25  # a level between INFO and WARNING
logging.addLevelName(NOTE, "NOTE")
# Notes that were given before there was a console, see `keeping_notes`.
EARLY_NOTES = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1)


def printable(text: object) -> str:
    r"""Returns text whose unprintable characters are written as Python does, such as \x1b.

    So a name sends no command to a terminal, and one that is not UTF-8 can be encoded.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def print_plain(console: "Console", text: str, style: str | None = None) -> None:
    """Prints lines as they are: nothing in them is markup, wrapped, or a command to a terminal."""
    text = "\n".join(map(printable, text.split("\n")))
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class UserError(Exception):
    """Reports wrong settings, paths or files: a line for each mistake, which says what to do."""

    def __init__(self, *lines: object):
        super().__init__(*("\n".join(map(printable, str(line).split("\n"))) for line in lines))

    def __str__(self) -> str:
        """Returns all lines."""
        return "\n".join(map(str, self.args))


def note(message: str, *args: object) -> None:
    """Logs a note, which is not a warning; `args` fill the message as in `logging`."""
    logging.getLogger("cljax").log(NOTE, message, *args)


@contextlib.contextmanager
def keeping_notes() -> Iterator[None]:
    """Keeps the notes of the block in EARLY_NOTES, which `output.logs` gives to the console."""
    logger = logging.getLogger("cljax")
    level, propagates = logger.level, logger.propagate
    logger.setLevel(NOTE)
    logger.propagate = False
    logger.addHandler(EARLY_NOTES)
    try:
        yield
    finally:
        logger.removeHandler(EARLY_NOTES)
        logger.setLevel(level)
        logger.propagate = propagates
