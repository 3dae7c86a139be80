"""Defines what the user is told: UserError, and notes for log.txt and the console."""

import logging

NOTE = 25  # a level between INFO and WARNING
logging.addLevelName(NOTE, "NOTE")


class UserError(Exception):
    """Reports wrong settings, paths or files: a line for each mistake, which says what to do."""

    def __str__(self) -> str:
        """Returns all lines."""
        return "\n".join(map(str, self.args))


def note(message: str, *args: object) -> None:
    """Logs a note, which is not a warning; `args` fill the message as in `logging`."""
    logging.getLogger("cljax").log(NOTE, message, *args)
