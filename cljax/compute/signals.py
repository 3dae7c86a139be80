"""Turns SIGINT, SIGTERM and SIGHUP into a request that a run reads between steps."""

import logging
import signal
import threading
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
logger = logging.getLogger("cljax")


class StopRequest:
    """Receives these signals within `with StopRequest() as stop`; `stop()` tells whether.

    A second signal has its usual, immediate effect.

    Attributes:
      number: number of the signal, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal was received."""
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
            for number, handler in self._before.items():
                if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):  # under nohup it stays so
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
