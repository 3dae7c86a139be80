"""Runs a table: many methods and numbers of tasks, one run after another, in one directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from cljax import files
from cljax.compute import processes
from cljax.errors import UserError
from cljax.plans.queue import Planned, Queue, flatten, raise_failures
from cljax.report import tables

# Keys of a table that describe the table; all others are settings of every run.
OWN_KEYS = ("runs", "learners", "splits", "first_split_only")


def run(config: Any, directory: str | Path, console: Console | None = None) -> None:
    """Runs all incomplete runs of a table, and writes the report.

    Skips complete runs, resumes stopped runs, and continues after a failed run.

    Args:
      config: `runs`: the configs by name; `learners`: names of the runs wanted; `splits`: numbers
        of tasks; `first_split_only`: names of methods that hardly depend on the number of tasks and
        run with the first one only. Any other key that is not None replaces that setting in every
        run.
      directory: directory of the workdirs, NAME_Ntasks.
      console: standard output by default.

    Raises:
      UserError: a setting is wrong, or runs have failed.
      experiment.Stopped: SIGINT or SIGTERM was received; the same command resumes the table.
    """
    directory, console = files.expand(directory), processes.main_console(console)
    queue = Queue(make_plan(config), directory, console)
    failed = queue.run()
    processes.on_main(_report, queue.workdirs, directory, console)
    raise_failures(failed, len(queue.plan))


def make_plan(config: Any) -> Iterator[Planned]:
    """Yields name and config of each run of a table, sorted by number of tasks as in `splits`.

    Args:
      config: config of the table, see `run`.

    Raises:
      UserError: a name is unknown, or a method lacks a setting that the table replaces.
    """
    for key in ("learners", "first_split_only"):
        for name in config[key]:
            if name not in config.runs:
                raise UserError(
                    f"config.{key}: unknown method {name!r}; choose {', '.join(config.runs)}"
                )
    if not config.learners or not config.splits:
        raise UserError("config.learners, config.splits: each must have at least one entry")
    settings = {key: config[key] for key in config if key not in OWN_KEYS}
    common = _given(ConfigDict(settings))
    for place, num_tasks in enumerate(config.splits):
        for learner in config.learners:
            if place and learner in config.first_split_only:
                continue
            run_config = config.runs[learner].copy_and_resolve_references()
            for key in common.keys() - _given(run_config).keys():
                raise UserError(
                    f"config.{key}: method {learner!r} has no such setting; leave it out, or "
                    "remove the method from config.learners"
                )
            run_config.update_from_flattened_dict(common | {"num_tasks": num_tasks})
            yield Planned(f"{learner}_{num_tasks}tasks", run_config)


def _report(runs: list[Path], directory: Path, console: Console) -> None:
    if begun := [run for run in runs if (run / "config.json").exists()]:
        tables.write_report(begun, directory, console)


def _given(config: ConfigDict) -> dict[str, Any]:
    """Returns the settings that are not None by dotted key."""
    settings = dict(flatten(config))
    return {k: v for k, v in settings.items() if v is not None and not isinstance(v, ConfigDict)}
