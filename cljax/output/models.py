"""Keeps the networks of a run after every task, of all seeds that have finished it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

    def __init__(self, folder: Path, record: dict[str, Any]):
        """Opens the directory, which is made if absent; `record` is written beside the arrays."""
        self.checksums: list[int] = []
        self._finished: list[list[int]] = []
        self._checkpoints = Checkpoints(folder, keep=None)
        self._record = record

    def restore(self, checksums: list[int], finished: list[list[int]]) -> None:
        """Goes back to the models of a checkpoint.

        Args:
          checksums: `checksums` as the checkpoint has them.
          finished: for each of them, the seeds that had finished the task.
        """
        self.checksums, self._finished = checksums, finished

    def save(self, task: int, arrays: Arrays, seeds: Sequence[int]) -> None:
        """Saves networks after a task (from 0); those of other seeds that are there stay.

        Args:
          task: the task.
          arrays: the networks, by name.
          seeds: their seeds.
        """
        known = self._finished[task] if task < len(self._finished) else []
        others = [seed for seed in known if seed not in seeds]
        if others and self._holds(task):
            arrays = arrays | of_seeds(self._checkpoints.read(model_number(task))[0], others)
        elif others:
            names = ", ".join(map(str, others))
            logger.warning("%s: damaged, written without seeds %s", self._path(task), names)
        self.checksums[task : task + 1] = [checksum(arrays)]
        self._finished[task : task + 1] = [[*others, *seeds]]
        self._write(task, arrays)

    def mend(self, latest: dict[int, Arrays]) -> None:
        """Writes a model again if it is gone or damaged, or names it.

        Args:
          latest: by number of finished tasks, the classifiers of the seeds that are there.
        """
        for task, expected in enumerate(self.checksums):
            if self._holds(task):
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

    def _holds(self, task):
        names = prefixes(self._finished[task])
        return self._checkpoints.holds(model_number(task), self.checksums[task], names)

    def _write(self, task, arrays):
        self._checkpoints.save(arrays, self._record, model_number(task))

    def _path(self, task):
        return self._checkpoints.folder / str(model_number(task))
