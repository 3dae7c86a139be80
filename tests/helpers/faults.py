"""Does harm to runs, to show that they lose nothing: in this process, or to one that it starts.

In this process, `refusing` lets an operation of the system fail on chosen paths; `truncate`,
`flip_bit`, `remove` and `lead_out` damage a file or directory at rest.

As a program it runs main.py and does harm at a chosen moment: faults.py HARM MOMENT COUNT FLAGS...
HARM: "kill" (SIGKILL), "interrupt" (SIGINT), or "full:BYTES", after which no file can grow beyond
so many bytes, as on a full disk. MOMENT: "epoch", after an epoch's steps and before anything is
saved; or "EVENT:TEXT", an audit event of Python (such as os.rename) that names a path with TEXT.
COUNT: the how-manieth such moment, from 1.
"""

import contextlib
import functools
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_refused = []  # event, text, number of the error and failed paths of each active `refusing`


@contextlib.contextmanager
def refusing(event: str, text: str, number: int):
    """Lets an operation fail with an errno during the block, each time it names a path with `text`.

    Yields a list of the paths on which it has failed.

    Args:
      event: Python's audit event of the operation, such as "open", "os.rename", "os.mkdir",
        "os.scandir"; or "os.fsync".
      text: part of a path; of a rename, one of both.
      number: the errno.
    """
    _watch_once()
    fsync, failed = os.fsync, []

    def audited_fsync(file):
        sys.audit("os.fsync", os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    entry = event, text, number, failed
    _refused.append(entry)
    os.fsync = audited_fsync
    try:
        yield failed
    finally:
        os.fsync = fsync
        _refused.remove(entry)


@functools.cache
def _watch_once():
    sys.addaudithook(_refuse)  # which cannot be removed


def _refuse(name, args):
    for event, text, number, failed in _refused:
        if name == event and (paths := [path for path in _paths(args) if text in path]):
            failed.extend(paths)
            raise OSError(number, os.strerror(number), paths[0])


def _paths(args) -> list[str]:
    return [os.fsdecode(a) for a in args if isinstance(a, (str, bytes, os.PathLike))]


def truncate(path: Path) -> None:
    """Cuts a file to its first half."""
    os.truncate(path, path.stat().st_size // 2)


def flip_bit(path: Path) -> None:
    """Flips a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Removes a file or directory."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def lead_out(path: Path) -> None:
    """Moves a file or directory out of its run and leaves a symbolic link to it."""
    outside = Path(tempfile.mkdtemp()) / path.name
    shutil.move(path, outside)
    path.symlink_to(outside)


def harm(kind: str):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(kind.partition(":")[2]), hard))


def watch(kind: str, moment: str, count: int):
    """Does harm at the moment."""
    left = [count]

    def pass_moment():
        left[0] -= 1
        if left[0] == 0:
            harm(kind)

    if moment == "epoch":
        from cljax import training

        run_epoch = training.run_epoch

        def harmed(*args):
            result = run_epoch(*args)
            pass_moment()
            return result

        training.run_epoch = harmed
        return
    event, _, text = moment.partition(":")

    def hook(name, args):
        if name == event and any(text in path for path in _paths(args)):
            pass_moment()

    sys.addaudithook(hook)


if __name__ == "__main__":
    kind, moment, count = sys.argv[1:4]
    sys.argv = [str(ROOT / "main.py"), *sys.argv[4:]]
    sys.path[0] = str(ROOT)
    watch(kind, moment, int(count))
    runpy.run_path(sys.argv[0], run_name="__main__")
