"""Turns SIGINT and SIGTERM into a request that a run reads between steps."""

import logging
import signal

logger = logging.getLogger("cljax")


class StopRequest:
    """Within `with StopRequest() as stop`, `stop()` is True once SIGINT or SIGTERM has come.

    A second signal has its usual, immediate effect. `number` is the signal's, or None.
    """

    def __init__(self):
        self.number = None

    def __call__(self) -> bool:
        return self.number is not None

    def __enter__(self):
        self._before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception):
        self._restore()

    def _handle(self, number, frame):
        self.number = number
        self._restore()
        logger.warning("%s: saving; once more stops at once", signal.Signals(number).name)

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
