"""Keeps the classifiers of a run after every task, of all seeds that have finished it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cljax.errors import note
from cljax.output.checkpoints import Checkpoints, checksum
from cljax.output.record import Arrays, of_seeds, prefixes
from cljax.problem import model_number

logger = logging.getLogger("cljax")


class Models:
    """Writes the directory models/; one process does.

    Attributes:
      checksums: of the arrays in models/1, models/2 and so on.
    """

    def __init__(self, folder: Path, fingerprint: int):
        """Opens the directory, which is made if absent; `fingerprint` is that of the data."""
        self.checksums: list[int] = []
        self._checkpoints = Checkpoints(folder, keep=None)
        self._fingerprint = fingerprint

    def save(self, task: int, arrays: Arrays, others: Sequence[int]) -> None:
        """Saves classifiers after a task (from 0).

        Args:
          task: the task.
          arrays: the classifiers of the seeds that run, by name.
          others: seeds that have finished the task before; their classifiers stay.
        """
        number = model_number(task)
        if others and self._holds(task, others):
            arrays = arrays | of_seeds(self._checkpoints.read(number)[0], others)
        elif others:
            names = ", ".join(map(str, others))
            logger.warning(
                "%s: without the damaged classifiers of seeds %s", self._path(task), names
            )
        self.checksums[task : task + 1] = [checksum(arrays)]
        self._write(task, arrays)

    def mend(self, latest: dict[int, Arrays], finished: Sequence[Sequence[int]]) -> None:
        """Writes a model again if it is gone or damaged, or names it.

        Args:
          latest: by number of finished tasks, the classifiers of the seeds that are there.
          finished: for each task, the seeds that have finished it.
        """
        for task, expected in enumerate(self.checksums):
            if self._holds(task, finished[task]):
                continue
            found = latest.get(task + 1, {})
            if checksum(found) == expected:
                self._write(task, found)
                note(
                    "%s: was gone or damaged; written again from the last checkpoint",
                    self._path(task),
                )
            else:
                logger.warning(
                    "%s: gone, or not what this run saved; only a run from the start makes it",
                    self._path(task),
                )

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._checkpoints.close()

    def _holds(self, task, seeds):
        expected = self.checksums[task]
        return self._checkpoints.holds(model_number(task), expected, prefixes(seeds))

    def _write(self, task, arrays):
        self._checkpoints.save(arrays, {"data": self._fingerprint}, model_number(task))

    def _path(self, task):
        return self._checkpoints.folder / str(model_number(task))
