"""Saves and restores checkpoints: whole or absent, checked when read, the newest good one wins.

A checkpoint is a flat dictionary of arrays. A name is a prefix, such as "seed0", and the array's
path in its pytree as `jax.tree_util.keystr` writes it: "seed0['params']['head']['kernel']" in a
run's models/, "seed0.params['head']['kernel']" in its checkpoints/, where the tree is a
LearnerState or, within an epoch, an EpochState ("seed0.learner.params...", "seed0.sums['loss']",
"seed0.step"). On the disk Orbax has the items `arrays`, whose arrays are numbered "00000", "00001",
..., and `record`, a JSON object whose "names" maps these numbers to names. docs/results.md reads
it with Orbax alone.
"""

import errno
import itertools
import json
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
_REPLACED = "replaced_"  # checkpoint N, while one with more arrays is written in its place
logger = logging.getLogger("cljax")


def flatten(tree: PyTree, prefix: str) -> dict[str, np.ndarray]:
    """Returns the leaves of a tree as NumPy arrays by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(template: PyTree, prefix: str, arrays: dict[str, np.ndarray]) -> PyTree:
    """Makes a tree like `template` from the arrays of `flatten`.

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


def has_checkpoints(folder: Path) -> bool:
    """Whether `Checkpoints.restore` would find a checkpoint in a folder, good or damaged."""
    return any(path.name.isdigit() for path in folder.glob("*"))


class Checkpoints:
    """Keeps numbered checkpoints in one directory: named arrays and a JSON record.

    Orbax writes into a temporary directory and renames it, so a kill at any time leaves a
    checkpoint whole or absent. Checksums of the arrays and of the record find later damage.
    """

    def __init__(self, folder: Path, keep: int | None, read_only: bool = False):
        """Keeps the newest `keep` checkpoints of `folder` (None: all), which is made if absent.

        With `read_only` the directory stays as it is: another run may be writing to it.

        Raises:
          UserError: the directory cannot be made.
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
                self._finish_replacing()
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, arrays: dict[str, np.ndarray], record: dict, number: int | None = None) -> None:
        """Saves a checkpoint under the next number, unless one is given.

        A checkpoint of that number with the same arrays stays. One that has a part of them is
        replaced. Anything else under that name is renamed to `damaged_N`, with a warning.

        Raises:
          UserError: it cannot be written (full disk, no permission); earlier ones stay.
        """
        if number is None:
            number = max(self._manager.all_steps(), default=-1) + 1
        elif (self.folder / str(number)).exists():
            found = self._checksums_of(number)
            if found == _checksums(arrays):
                return
            if found and found.items() <= _checksums(arrays).items():
                self._rename(number, f"{_REPLACED}{number}")
            else:
                self._set_aside(number)
                logger.warning(
                    "%s is not what this run saves there; renamed to damaged_%d and written anew",
                    self.folder / str(number),
                    number,
                )
            self._manager.reload()
        names = {f"{i:05d}": name for i, name in enumerate(arrays)}
        content = {"record": record, "names": names, "checksums": _checksums(arrays)}
        record = content | {"checksum": _checksum_of_json(content)}
        try:
            self._manager.save(
                number,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave({key: arrays[names[key]] for key in names}),
                    record=ocp.args.JsonSave(record),
                ),
                force=True,  # also where later numbers are there
            )
        except Exception as error:
            self._remove_unfinished()
            self._finish_replacing()
            if not _is_write_error(error):
                raise
            raise UserError(
                f"{self.folder}: cannot write a checkpoint ({_reason(error)}); the earlier ones "
                "are intact: make room or fix permissions, then run the same command again"
            ) from error
        self._finish_replacing()

    def read(self, number: int) -> tuple[dict[str, np.ndarray], dict]:
        """Reads checkpoint `number`: (arrays, record).

        Raises:
          UserError: it is absent or damaged.
        """
        try:
            return self._read(number)
        except Exception as error:
            raise UserError(f"{self.folder / str(number)}: {_reason(error)}") from error

    def holds(self, number: int, expected: int, prefixes: tuple[str, ...] = ("",)) -> bool:
        """Whether checkpoint `number` is there, whole, and has arrays of this `checksum`.

        Args:
          number: the checkpoint.
          expected: checksum of the arrays whose names begin with one of `prefixes`.
          prefixes: all arrays by default.

        Raises:
          UserError: it cannot be read now, as the system says.
        """
        found = self._checksums_of(number)
        return _checksum_of_json(_only(found, prefixes)) == expected if found else False

    def _checksums_of(self, number: int) -> dict[str, int]:
        """Returns the checksums of the arrays of a checkpoint; none if it is absent or damaged."""
        try:
            return _checksums(self._read(number)[0])
        except Exception as error:
            if _is_system_error(error):
                raise UserError(
                    f"{self.folder / str(number)}: cannot be read now ({_reason(error)}); mend the "
                    "file system, then run the same command again"
                ) from error
            return {}

    def restore(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """Reads the newest good checkpoint: (arrays, record), or None if there is none.

        Skips damaged ones with a warning, and renames them to `damaged_N`, which frees their
        numbers. Nothing is ever removed.

        Raises:
          UserError: a checkpoint cannot be read now, as the system says, which is no damage; or
            all checkpoints are damaged.
        """
        numbers = sorted(self._manager.all_steps(), reverse=True)
        for place, number in enumerate(numbers):
            path = self.folder / str(number)
            try:
                result = self._read(number)
            except Exception as error:
                if _is_system_error(error):
                    raise UserError(
                        f"{path}: cannot be read now ({_reason(error)}); all checkpoints are left "
                        "as they are: mend the file system, then run the same command again"
                    ) from error
                logger.warning(
                    "checkpoint %s is damaged (%s); trying the one before", path, _reason(error)
                )
                continue
            for damaged in numbers[:place]:
                self._set_aside(damaged)
            self._manager.reload()
            return result
        if numbers:
            raise UserError(
                f"{self.folder}: all checkpoints are damaged; start over in another --workdir, or "
                "with --config.overwrite=True, which deletes this run"
            )
        return None

    def _set_aside(self, number: int) -> None:
        """Renames a damaged checkpoint; `damaged_N`, or `damaged_N_2` and so on if that exists."""
        names = itertools.chain(
            [f"damaged_{number}"], (f"damaged_{number}_{n}" for n in itertools.count(2))
        )
        self._rename(number, next(name for name in names if not (self.folder / name).exists()))

    def _rename(self, number: int, name: str) -> None:
        with writing(self.folder):
            (self.folder / str(number)).rename(self.folder / name)

    def _finish_replacing(self) -> None:
        """Removes what a checkpoint has replaced, or puts it back if a kill came between."""
        with writing(self.folder):
            for old in self.folder.glob(f"{_REPLACED}*"):
                new = self.folder / old.name.removeprefix(_REPLACED)
                if new.exists():
                    shutil.rmtree(old)
                else:
                    old.rename(new)

    def close(self) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def _remove_unfinished(self):
        """Removes what a failed save has left, until no thread of Orbax makes it again."""
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
        if record.keys() != {"record", "names", "checksums"}:  # as version 0.1.0 wrote them
            expected = record.pop("checksum", None)
            if expected != _checksum_of_json(record):
                raise ValueError("checksum of the record does not match")
        if not isinstance(record["record"], dict):
            raise ValueError("the record is not a JSON object")
        arrays = {record["names"][key]: np.asarray(a) for key, a in restored["arrays"].items()}
        found = _checksums(arrays)
        for name, expected in record["checksums"].items():
            if found[name] != expected:
                raise ValueError(f"checksum of {name} does not match")
        return arrays, record["record"]


def _only(named: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name.startswith(prefixes)}


def checksum(arrays: dict[str, np.ndarray]) -> int:
    """Returns a checksum of named arrays: of names and bytes."""
    return _checksum_of_json(_checksums(arrays))


def _checksums(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    return {
        name: zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for name, array in arrays.items()
    }


def _checksum_of_json(content: dict) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _is_system_error(error: Exception) -> bool:
    """Whether the system refused to read; a part of a checkpoint that is gone is damage."""
    if isinstance(error, MemoryError):
        return True
    code = error.errno if isinstance(error, OSError) else None
    # TensorStore ends its messages with the number of the system's error.
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        code = int(found[1])
    return code is not None and code not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def _is_write_error(error: Exception) -> bool:
    words = "os.error|no space|file too large|read-only|permission denied|quota|resource_exhausted"
    return isinstance(error, OSError) or re.search(words, str(error), re.I) is not None


def _reason(error: Exception) -> str:
    """Shortens an error of Orbax, which may fill pages, to its reason."""
    # TensorStore ends its messages with the number of the system's error.
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
