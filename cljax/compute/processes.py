"""Several processes, on one host or many, that run one program together.

Every process runs the same code on the same values; the main process alone writes. What only one
process may find wrong is done within `raise_together`, so that no process waits for one that has
failed. With a single process, all of this does nothing.
"""

import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from cljax.errors import UserError

_WORDS = 1000  # bytes of a message that another process is told


def initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> None:
    """Joins the other processes, before anything uses a device; nothing without arguments.

    Args:
      coordinator: HOST:PORT of the first process.
      num_processes: how many there are.
      process_id: this one's number, from 0.
      detect: ask the cluster (SLURM, TPU pods, Open MPI) for all of these.

    Raises:
      UserError: they are incomplete, or the processes do not find each other.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None) and not detect:
        return
    if not detect and None in given:
        raise UserError("--coordinator, --num_processes and --process_id belong together")
    # Its own handler of SIGTERM would replace that of `signals`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # One that fails is not to wait for the others for longer, as they wait for it.
        jax.distributed.initialize(*given, shutdown_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes do not come together: {error}") from error


def is_alone() -> bool:
    """Whether there is one process only."""
    return jax.process_count() == 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def main_console(console: Console | None) -> Console:
    """Where the first process shows things, standard output by default; nowhere in the others."""
    return console or Console() if is_main() else Console(quiet=True)


@contextlib.contextmanager
def raise_together():
    """A block that all processes leave together: what fails in one is a UserError in the others."""
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


def on_main(function: Callable, *args, **kwargs) -> Any:
    """Calls a function in the first process only, within `raise_together`; None in the others."""
    with raise_together():
        return function(*args, **kwargs) if is_main() else None


def max_over_processes(number: int) -> int:
    """The max_over_processes of the numbers, int32, that the processes call this with."""
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def gather(tree):
    """The arrays of a tree, as they are on all devices together, on this host."""
    return multihost_utils.process_allgather(tree, tiled=True)


def broadcast_from_main(saved: tuple[dict[str, np.ndarray], dict] | None):
    """What the first process calls this with: named arrays and a JSON record, or None."""
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
