"""Protects a workdir: one run at a time, and the same config until it is overwritten."""

import contextlib
import copy
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cljax.errors import UserError
from cljax.files import lock, open_lock, read_json, write_json_atomically, writing
from cljax.settings import Settings, may_change, may_grow

# What a run writes into its workdir; config.json last, as its removal ends that of the run.
_DIRECTORIES = ("checkpoints", "models", "plots", "tensorboard", "evaluation")
_FILES = ("results.json", "metrics.jsonl", "log.txt", "config.json")

_GROWTH = " (a run keeps what it has and may only get more)"

# Keys that runs of earlier versions lack, and the value that says what these did.
_ADDED = {
    "model.pretrained": "",
    "data.augmentation.crop_fill": "black",
    "data.augmentation.resized_crop": False,
    "init_epochs": 0,
    "optimizer.name": "sgd",
    "optimizer.init_lr": 0.0,
    "optimizer.clip_norm": 0.0,
    "optimizer.arguments": {},
    "schedule": {},
    "schedule.name": "multistep",
    "schedule.arguments": {},
}


@contextlib.contextmanager
def claim(workdir: Path, settings: Settings) -> Iterator[None]:
    """Locks a workdir for the block, and makes it if absent; `begin` changes its content.

    Raises:
      UserError: another run uses the workdir, it holds a run with other settings or files that are
        not a run's, or it cannot be written.
    """
    check(workdir, settings)  # before the lock is made: other people's directories stay as they are
    with writing(workdir):
        new = [path for path in (workdir, *workdir.parents) if not path.exists()]
        workdir.mkdir(parents=True, exist_ok=True)
    try:
        with open_lock(workdir / ".lock") as file:
            if not lock(file):
                raise UserError(
                    f"{workdir}: another run is using this workdir; wait for it, or use another "
                    "--workdir"
                )
            check(workdir, settings)
            yield
    finally:
        _remove_unused(workdir, new)


def begin(workdir: Path, settings: Settings) -> None:
    """Writes config.json, and removes temporary files of a killed run.

    With config.overwrite it first removes all files of the run in the workdir.

    Raises:
      UserError: the workdir cannot be written.
    """
    if settings.overwrite:
        _clear(workdir)
    with writing(workdir):
        for unfinished in (*workdir.glob(".*.tmp"), *workdir.glob("plots/.*.tmp")):
            unfinished.unlink()  # of a run that was killed
    write_json_atomically(workdir / "config.json", settings.plain())


def check_present(workdir: Path) -> None:
    """Checks that the workdir of a run that trains is still there, before the run writes into it.

    Raises:
      UserError: it was removed or renamed.
    """
    if not (workdir / "config.json").exists():
        raise UserError(
            f"{workdir}: was removed or renamed while the run trained; nothing more is written; "
            "name its new place by --workdir, or run the same command again to start over"
        )


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Lists the keys that differ and may not do so, as "key: one -> other"."""
    flat, other_flat = _flatten(one), _flatten(other)
    lines = []
    for key in sorted(flat.keys() | other_flat.keys()):
        absent = _ADDED.get(key, "absent")
        before, now = flat.get(key, absent), other_flat.get(key, absent)
        if may_change(key) or before == now or (may_grow(key) and _has_grown(before, now)):
            continue
        lines.append(f"{key}: {before} -> {now}{_GROWTH if may_grow(key) else ''}")
    return lines


def with_added(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a config.json with the keys that runs of earlier versions lack."""
    result = copy.deepcopy(settings)
    for key, value in _ADDED.items():
        *blocks, name = key.split(".")
        block: Any = result
        for part in blocks:
            block = block.get(part) if isinstance(block, dict) else None
        if isinstance(block, dict):
            block.setdefault(name, copy.deepcopy(value))
    return result


def _has_grown(before: Any, now: Any) -> bool:
    """Whether a setting that may grow has: seeds were added, or a number of tasks (0: all)."""
    if isinstance(before, list) and isinstance(now, list):
        return all(seed in now for seed in before)
    if isinstance(before, int) and isinstance(now, int):
        return now == 0 or 0 < before < now
    return False


def new_seeds(workdir: Path, settings: Settings) -> list[int]:
    """Returns the seeds of a run that its workdir, which `check` has accepted, lacks."""
    path = workdir / "config.json"
    before = read_json(path)["seeds"] if path.exists() and not settings.overwrite else []
    return [seed for seed in settings.seeds if seed not in before]


def is_complete(workdir: Path, settings: Settings) -> bool:
    """Whether a workdir has all results of a run, the seeds and tasks included that were added.

    Raises:
      UserError: results.json is damaged.
    """
    path = workdir / "results.json"
    results = read_json(path) if path.exists() else {}
    if results.get("complete") is not True:
        return False
    return (
        set(settings.seeds) == set(results.get("seeds", ()))
        and results.get("tasks_total") == settings.tasks_wanted
    )


def check(workdir: Path, settings: Settings) -> None:
    """Checks that a run of `settings` may start or resume in a workdir; changes nothing.

    Raises:
      UserError: the workdir holds a run with other settings or files that are not a run's.
    """
    if settings.first_task_from and Path(settings.first_task_from).resolve() == workdir.resolve():
        raise UserError(
            f"config.first_task_from={workdir}: is the --workdir itself; use another run's workdir"
        )
    _check_path(workdir)
    path = workdir / "config.json"
    if path.exists():
        changed = [] if settings.overwrite else differences(read_json(path), settings.plain())
        if changed:
            raise UserError(
                f"{workdir}: holds a run with other settings ({'; '.join(changed)}); use another "
                "--workdir, or --config.overwrite=True to delete that run and start over"
            )
        return
    with writing(workdir):
        names = os.listdir(workdir) if workdir.exists() else []
    if strangers := sorted(name for name in names if not name.startswith(".")):
        raise UserError(
            f"{workdir}: not empty and not a cljax workdir (found {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}); use an empty or new --workdir"
        )


def _remove_unused(workdir: Path, new: list[Path]) -> None:
    """Removes the directories that were made for a run that was refused before it began."""
    with contextlib.suppress(OSError):
        if workdir in new and os.listdir(workdir) == [".lock"]:
            (workdir / ".lock").unlink()
            for directory in new:  # innermost first
                directory.rmdir()


def _check_path(workdir: Path) -> None:
    """Checks that checkpoints can have this path, and that no file of a run lies outside of it."""
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{workdir}: the path is not UTF-8, as checkpoints need it; use another --workdir"
        ) from error
    root = workdir.resolve()
    tops = [root / name for name in (*_DIRECTORIES, *_FILES)]
    try:
        paths = [path for top in tops for path in itertools.chain([top], top.rglob("*"))]
        links = [path for path in paths if path.is_symlink()]
    except OSError as error:
        raise UserError(f"cannot read {error.filename or root}: {error.strerror}") from error
    for path in links:
        if not path.resolve().is_relative_to(root):
            raise UserError(
                f"{path}: is a symbolic link that leads out of the workdir; replace it by what it "
                "names, or use another --workdir"
            )


def _clear(workdir: Path) -> None:
    """Removes the files of a run and nothing else, config.json last, so that a kill is harmless."""
    if not (workdir / "config.json").exists():
        return
    with writing(workdir):
        for name in _DIRECTORIES:
            if (workdir / name).exists():
                shutil.rmtree(workdir / name)
        for name in _FILES:
            (workdir / name).unlink(missing_ok=True)


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
