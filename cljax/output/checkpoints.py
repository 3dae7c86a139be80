"""Checkpoints: whole or absent, checked when read, the newest good one wins.

A checkpoint is a flat dictionary of arrays. A name is a prefix, such as "seed0", and the array's
path in its pytree as `jax.tree_util.keystr` writes it: "seed0['params']['head']['kernel']" in a
run's models/, "seed0.params['head']['kernel']" in its checkpoints/, where the tree is a
LearnerState or, within an epoch, an EpochState ("seed0.learner.params...", "seed0.sums['loss']",
"seed0.step"). On the disk Orbax has the items `arrays`, whose arrays are numbered "00000", "00001",
..., and `record`, a JSON object whose "names" maps these numbers to names. docs/results.md reads
it with Orbax alone.
"""

import logging
import os
import re
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cljax.errors import UserError
from cljax.files import writing

PyTree = Any
logger = logging.getLogger("cljax")


def flatten(tree: PyTree, prefix: str) -> dict[str, np.ndarray]:
    """The leaves of a tree on the host, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(template: PyTree, prefix: str, arrays: dict[str, np.ndarray]) -> PyTree:
    """A tree like `template` with the arrays of `flatten`.

    Raises:
      UserError: an array is missing or has another shape or dtype.
    """

    def leaf(path, like):
        name = prefix + jax.tree_util.keystr(path)
        found = arrays.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            what = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise UserError(
                f"the checkpoint has {what} for {name}, expected {like.dtype}{list(like.shape)}"
            )
        return jax.numpy.asarray(found)

    return jax.tree_util.tree_map_with_path(leaf, template)


class Checkpoints:
    """Numbered checkpoints in one folder, each a set of named arrays and a JSON record.

    Orbax writes into a temporary folder and renames it, so a kill at any time leaves a checkpoint
    whole or absent. A checksum per array finds what was damaged later.
    """

    def __init__(self, folder: Path, keep: int | None, read_only: bool = False):
        """Keeps the newest `keep` checkpoints of `folder` (None: all), which is made if absent.

        With `read_only` the folder is left as it is: another run may be writing to it.

        Raises:
          UserError: the folder cannot be made.
        """
        me = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            create=False,
            max_to_keep=keep,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
            read_only=read_only,
            # The process that calls this is alone with the folder, whatever others there are.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
            ),
        )
        self.folder = Path(folder).absolute()
        with writing(self.folder):
            if not read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, arrays: dict[str, np.ndarray], record: dict, number: int | None = None) -> None:
        """Adds a checkpoint; the next number unless given. One that is there already stays.

        Raises:
          UserError: it cannot be written (full disk, no permission); earlier ones stay.
        """
        numbers = self._manager.all_steps()
        number = max(numbers, default=-1) + 1 if number is None else number
        if number in numbers:
            return
        names = {f"{i:05d}": name for i, name in enumerate(arrays)}
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        record = {"record": record, "names": names, "checksums": checksums}
        try:
            self._manager.save(
                number,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave({key: arrays[names[key]] for key in names}),
                    record=ocp.args.JsonSave(record),
                ),
            )
        except Exception as error:
            self._remove_unfinished()
            if not _is_write_error(error):
                raise
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({_reason(error)}); the earlier "
                "ones are intact: make room or fix permissions, then run the same command again"
            ) from error

    def read(self, number: int) -> tuple[dict[str, np.ndarray], dict]:
        """Checkpoint `number`: (arrays, record).

        Raises:
          UserError: it is absent or damaged.
        """
        try:
            return self._read(number)
        except Exception as error:
            raise UserError(f"{self.folder / str(number)}: {_reason(error)}") from error

    def restore(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """The newest checkpoint that can be read: (arrays, record), or None if there is none.

        Damaged ones are passed over with a warning, and removed so that their numbers are free.

        Raises:
          UserError: there are checkpoints, but none can be read.
        """
        numbers = sorted(self._manager.all_steps(), reverse=True)
        for number in numbers:
            try:
                result = self._read(number)
            except Exception as error:
                logger.warning(
                    "checkpoint %s is damaged (%s); trying the one before",
                    self.folder / str(number),
                    _reason(error),
                )
                continue
            for damaged in (n for n in numbers if n > number):
                shutil.rmtree(self.folder / str(damaged), ignore_errors=True)
            self._manager.reload()
            return result
        if numbers:
            raise UserError(
                f"{self.folder}: no checkpoint can be read; start over with --config.overwrite=True"
            )
        return None

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def _remove_unfinished(self):
        """Removes what a failed save has left, until no thread of Orbax makes it anew."""
        absent = 0
        for _ in range(50):
            found = list(self.folder.glob("*.orbax-checkpoint-tmp"))
            for unfinished in found:
                shutil.rmtree(unfinished, ignore_errors=True)
            absent = 0 if found else absent + 1
            if absent == 5:
                break
            time.sleep(0.1)

    def _read(self, number: int):
        restored = self._manager.restore(
            number,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(), record=ocp.args.JsonRestore()
            ),
        )
        record = restored["record"]
        arrays = {record["names"][key]: np.asarray(a) for key, a in restored["arrays"].items()}
        for name, checksum in record["checksums"].items():
            if _checksum(arrays[name]) != checksum:
                raise ValueError(f"checksum of {name} does not match")
        return arrays, record["record"]


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _is_write_error(error: Exception) -> bool:
    words = "os.error|no space|file too large|read-only|permission denied|quota|resource_exhausted"
    return isinstance(error, OSError) or re.search(words, str(error), re.I) is not None


def _reason(error: Exception) -> str:
    """The one thing that matters in an error of Orbax, which may fill pages."""
    # TensorStore ends its messages with the number of the system's error.
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
