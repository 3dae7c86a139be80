"""Turns SIGINT and SIGTERM into a request that a run reads between steps."""

import logging
import signal
from types import FrameType
from typing import Self

logger = logging.getLogger("cljax")


class StopRequest:
    """Receives SIGINT and SIGTERM within `with StopRequest() as stop`; `stop()` tells whether.

    A second signal has its usual, immediate effect.

    Attributes:
      number: number of the signal, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether a signal was received."""
        return self.number is not None

    def __enter__(self) -> Self:
        self._before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        logger.warning(
            "%s received: saving a checkpoint; a second signal stops immediately without saving",
            signal.Signals(number).name,
        )

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
