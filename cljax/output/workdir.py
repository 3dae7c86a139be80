"""The workdir of a run: one run at a time, and one config for its whole life."""

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path

from cljax.errors import UserError
from cljax.files import plain, read_json, write_json_atomically, writing

# They say where things are, how often they are saved and which device computes what, and change no
# number of a result by more than rounding.
FREE_KEYS = (
    "overwrite",
    "data.dir",
    "data.path",
    "data.url",
    "checkpoint",
    "compilation_cache",
    "execution",
    "mesh",
)


@contextlib.contextmanager
def claim(workdir: Path, config):
    """Makes the directory this process's own; nothing in it changes before `begin`.

    Raises:
      UserError: another run uses the directory, it holds a run of another config or files that
        are no run's, or it cannot be written.
    """
    check(workdir, config)  # before the lock is made: other people's directories stay as they are
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir}: another run is at work there; wait for it, or give another --workdir"
            ) from None
        check(workdir, config)
        yield


def begin(workdir: Path, config) -> None:
    """Writes config.json, and removes what a killed run left half-written.

    With config.overwrite everything that a run left there is removed before.

    Raises:
      UserError: the directory cannot be written.
    """
    if config.overwrite:
        _clear(workdir)
    with writing(workdir):
        for unfinished in (*workdir.glob(".*.tmp"), *workdir.glob("plots/.*.tmp")):
            unfinished.unlink()  # of a run that was killed
    write_json_atomically(workdir / "config.json", _settings(config))


def differences(one: dict, other: dict) -> list[str]:
    """The keys in which two configs differ, as "key: one -> other"."""
    flat, other_flat = _flatten(one), _flatten(other)
    lines = []
    for key in sorted(flat.keys() | other_flat.keys()):
        free = any(key == name or key.startswith(name + ".") for name in FREE_KEYS)
        if not free and flat.get(key, "absent") != other_flat.get(key, "absent"):
            lines.append(f"{key}: {flat.get(key, 'absent')} -> {other_flat.get(key, 'absent')}")
    return lines


def check(workdir: Path, config) -> None:
    """Raises UserError unless a run of `config` may begin or go on in a directory."""
    if config.first_task_from and Path(config.first_task_from).resolve() == workdir.resolve():
        raise UserError(f"config.first_task_from={workdir}: it is the --workdir itself")
    path = workdir / "config.json"
    if path.exists():
        changed = [] if config.overwrite else differences(read_json(path), _settings(config))
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config ({'; '.join(changed)}); give another "
                "--workdir, or start over with --config.overwrite=True"
            )
        return
    with writing(workdir):
        names = os.listdir(workdir) if workdir.exists() else []
    if strangers := sorted(name for name in names if not name.startswith(".")):
        raise UserError(
            f"{workdir} is not empty and holds no run of this program ({', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}); give another --workdir"
        )


def _clear(workdir):
    """Removes what a run leaves, and nothing else; config.json last, so that a kill is harmless."""
    if not (workdir / "config.json").exists():
        return
    with writing(workdir):
        for name in ("checkpoints", "models", "plots", "tensorboard"):
            if (workdir / name).exists():
                shutil.rmtree(workdir / name)
        for name in ("results.json", "metrics.jsonl", "log.txt", "config.json"):
            (workdir / name).unlink(missing_ok=True)


def _settings(config) -> dict:
    return plain(json.loads(config.to_json()))


def _flatten(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
