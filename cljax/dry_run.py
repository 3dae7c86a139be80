"""Checks what a run will need, and prints what it would do: the flag --dry_run."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cljax import build, experiment, files
from cljax.compute import device, processes
from cljax.errors import UserError, print_plain, printable
from cljax.output import logs
from cljax.plans import grid, table
from cljax.reuse import Reuse
from cljax.saved import contents


def run(config: Any, directory: str | Path, console: Console | None = None) -> None:
    """Checks a run, or each run of a table or a grid, as its first start would; writes nothing.

    Args:
      config: config as the files in configs/ make it.
      directory: workdir of the run, or directory of the table or the grid.
      console: standard output by default.

    Raises:
      UserError: a setting, the data, the workdir or the disk is not fit for the run.
    """
    directory, console = files.expand(directory), processes.main_console(console)
    logs.log_to_console(console)
    reuse = Reuse()
    if "runs" in config:
        plan = list(table.make_plan(config))
    elif config.get("grid"):
        plan = grid.make_plan(config)
    else:
        _check_run(config, directory, console, reuse)
        return
    for name, run_config in plan:
        console.rule(Text(printable(name)), style="dim")
        _check_run(run_config, directory / name, console, reuse)
    programs = f"{reuse.num_executors} times" if reuse.num_executors > 1 else "once"
    print_plain(console, f"{len(plan)} runs; programs are compiled {programs}.")


def _check_run(config: ConfigDict, directory: Path, console: Console, reuse: Reuse) -> None:
    settings = experiment.check(config, directory)
    with device.reporting_memory(), device.fixed_settings(build.matmul_precision(settings)):
        problem = experiment.make_problem(settings, directory, reuse)
        reuse.executor(settings, problem)  # only to count them
    needed = _disk_bytes(settings, problem)
    free = _check_disk(directory, needed)
    _print_classes(problem, console)
    _print_stages(problem, console)
    states, data = _num_bytes(problem.states), _num_bytes(problem.data)
    for line in (
        f"Device memory: data {_size(data)}, learner states {_size(states)}; the activations of a "
        "step come on top.",
        f"Disk: at most {_size(needed)} in {directory} (checkpoints, models), {_size(free)} free.",
        "Nothing was written.",
    ):
        print_plain(console, line)


def _print_classes(problem, console):
    for stream in problem.streams:
        table = Table("task", "classes", "training images", title=f"Tasks of seed {stream.seed}")
        for task in range(problem.num_tasks):
            classes = ", ".join(map(str, stream.class_order[stream.old(task) : stream.seen(task)]))
            table.add_row(str(task + 1), classes, str(stream.train_counts[task]))
        console.print(table)


def _print_stages(problem, console):
    table = Table("task", "stage", "epochs", "steps", "images per step", title="Stages")
    for task, _, stage in problem.plan():
        count = problem.num_images(task) // len(problem.streams)
        # All epochs but the last have as many steps; there may be billions of them.
        steps = (stage.epochs - 1) * stage.num_steps(0, count)
        steps += stage.num_steps(stage.epochs - 1, count)
        name = Text(printable(stage.name))
        table.add_row(
            str(task + 1), name, str(stage.epochs), str(steps), str(stage.images_per_step)
        )
    console.print(table)
    if len(problem.streams) > 1:
        console.print("Steps are for the seeds' mean number of images.")
    if problem.method.memory.size:
        console.print("Steps are for the task's own images; exemplars change their number.")


def _disk_bytes(settings, problem) -> int:
    """Bytes of all checkpoints that exist at one time, one of them being written, and models."""
    checkpoint = _num_bytes(problem.states)
    tasks, method = problem.num_tasks, problem.method
    models = [contents.kept(method, s, t, tasks) for s in problem.states for t in range(tasks)]
    return checkpoint * (settings.checkpoint.keep + 1) + _num_bytes(models)


def _check_disk(directory: Path, needed: int) -> int:
    """Returns the free bytes where the workdir is or would be made."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {directory}: no permission to write in {existing}")
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{directory}: the run needs {_size(needed)} of disk, but only {_size(free)} are free; "
            "use another --workdir, or a smaller config.checkpoint.keep"
        )
    return free


def _num_bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
