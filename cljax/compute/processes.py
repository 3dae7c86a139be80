"""Coordinates several processes, on one host or many, that run one program together.

All processes run the same code on the same values; only the main process writes. Code that may fail
in a single process runs within `raise_together`, so that no process waits for a failed one. With
one process, all functions do nothing.
"""

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from cljax.errors import UserError

T = TypeVar("T")
Saved = tuple[dict[str, np.ndarray], dict[str, Any]]
_WORDS = 1000  # maximum bytes of an error message that other processes get


def initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> None:
    """Connects the processes; must be called before any use of a device.

    Does nothing if all arguments are None and `detect` is False.

    Args:
      coordinator: address of the first process, HOST:PORT.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      detect: whether the cluster (SLURM, TPU pods, Open MPI) knows all three.

    Raises:
      UserError: an argument is missing or wrong, or the processes cannot be connected.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None) and not detect:
        return
    if not detect and None in given:
        raise UserError("--coordinator, --num_processes, --process_id: give all three or none")
    _check(*given)
    # JAX's handler of SIGTERM would replace that of `signals`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # A failed process should not wait longer for the others, because they wait for it.
        jax.distributed.initialize(*given, shutdown_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot connect the processes: {error}; check --coordinator, --num_processes and "
            "--process_id"
        ) from error


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Raises UserError for what would crash or block JAX's client."""
    if coordinator is not None:
        match = re.fullmatch(r"(\[[\w.:%]+\]|[\w.-]+):([0-9]{1,5})", coordinator)
        if not match or not 0 < int(match[2]) < 2**16:
            raise UserError(
                f"--coordinator={coordinator}: must be HOST:PORT with a port from 1 to 65535, such "
                "as node1:1234 or [::1]:1234"
            )
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: must be 1 or more")
    if process_id is not None and not 0 <= process_id < (num_processes or process_id + 1):
        last = f" to {num_processes - 1}" if num_processes else ""
        raise UserError(f"--process_id={process_id}: must be from 0{last}")


def is_alone() -> bool:
    """Whether there is only one process."""
    return jax.process_count() == 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def main_console(console: Console | None) -> Console:
    """Returns the console in the main process, standard output by default; a silent one in others.

    Args:
      console: console of the main process, or None.
    """
    return console or Console() if is_main() else Console(quiet=True)


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """Raises an error of one process in all: as it is there, as a UserError in the others.

    All processes must enter the block; none leaves it before the last one.
    """
    if is_alone():
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    words = (str(failure) or repr(failure)).encode()[:_WORDS] if failure else b""
    mine = np.frombuffer(words.ljust(_WORDS), np.uint8)
    found = multihost_utils.process_allgather(mine)
    if failure:
        raise failure
    for row in found:
        if told := row.tobytes().decode(errors="ignore").strip():
            raise UserError(told)


def on_main(function: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
    """Calls a function in the main process only, within `raise_together`; None in the others."""
    with raise_together():
        return function(*args, **kwargs) if is_main() else None


def max_over_processes(number: int) -> int:
    """Returns the largest of the numbers (int32) with which the processes call this."""
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def gather(tree: Any) -> Any:
    """Copies the arrays of a tree, which may be spread over all devices, to this host."""
    return multihost_utils.process_allgather(tree, tiled=True)


def broadcast_from_main(saved: Saved | None) -> Saved | None:
    """Returns the argument of the main process in all processes.

    Args:
      saved: in the main process, named arrays and a JSON record, or None; ignored in the others.
    """
    if is_alone():
        return saved
    content = b""
    if is_main() and saved:
        file = io.BytesIO()
        np.savez(file, *saved[0].values())
        header = json.dumps([list(saved[0]), saved[1]]).encode()
        content = len(header).to_bytes(8) + header + file.getvalue()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if not size:
        return None
    mine = np.frombuffer(content, np.uint8) if is_main() else np.zeros(size, np.uint8)
    content = multihost_utils.broadcast_one_to_all(mine).tobytes()
    end = 8 + int.from_bytes(content[:8])
    names, record = json.loads(content[8:end])
    with np.load(io.BytesIO(content[end:]), allow_pickle=False) as archive:
        return {name: archive[f"arr_{i}"] for i, name in enumerate(names)}, record
