"""Logs notes to the user, for log.txt and the console; they are not warnings."""

import logging

NOTE = 25  # a level between INFO and WARNING
logging.addLevelName(NOTE, "NOTE")


def note(message: str, *args: object) -> None:
    """Logs a note; `args` fill the message as in `logging`."""
    logging.getLogger("cljax").log(NOTE, message, *args)
