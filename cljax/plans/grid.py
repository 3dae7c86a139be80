"""Runs a grid: one config with several values of some settings, each point in its own workdir."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from cljax import cli, files
from cljax import settings as settings_lib
from cljax.compute import processes
from cljax.errors import UserError
from cljax.plans.queue import Planned, Queue, flatten, raise_failures
from cljax.report import grid as report

_LONGEST_NAME = 200  # characters of a directory
# Beginnings of keys that say on what accuracies are measured: other values cannot be compared.
_MEASURES = (
    *(
        "data.name",
        "data.dir",
        "data.path",
        "data.class_order",
        "data.validation",
        "data.per_class",
    ),
    *("num_tasks", "first_task_size", "task_sizes", "eval.", "streams."),
)


def run(config: ConfigDict, directory: str | Path, console: Console | None = None) -> None:
    """Runs all incomplete points of a grid, and writes the report and the table of the grid.

    Points that differ in traced values alone share their compiled programs: they train together
    where seeds do (`experiment.run_first`), otherwise one after another. Complete points are
    skipped, stopped ones resumed, and a failed one does not end the grid. `python -m cljax.report`
    compares the points as runs, too.

    Args:
      config: a config whose `grid` has, for keys of the config, the values to try: a mapping, whose
        points are all combinations, or a tuple of such mappings.
      directory: directory of the points' workdirs.
      console: standard output by default.

    Raises:
      UserError: a setting or a value is wrong, the directory has a run, or points have failed.
      experiment.Stopped: SIGINT or SIGTERM was received; the same command resumes the grid.
    """
    directory, console = files.expand(directory), processes.main_console(console)
    points = make_points(config)
    queue = Queue((Planned(name, point) for name, _, point in points), directory, console)
    processes.on_main(_write_plan, directory, points)
    failed = queue.run(together=True)
    processes.on_main(report.write, directory, directory, console)
    raise_failures(failed, len(points))


def make_plan(config: ConfigDict) -> list[Planned]:
    """Returns name and config of each point; see `make_points`."""
    return [Planned(name, point) for name, _, point in make_points(config)]


Point = tuple[str, dict[str, Any], ConfigDict]  # name, the values of the point, its config


def make_points(config: ConfigDict) -> list[Point]:
    """Returns the points of a grid. Settings that are traced vary fastest.

    Args:
      config: see `run`.

    Raises:
      UserError: a key or its values are wrong.
    """
    grids = config.grid if isinstance(config.grid, tuple | list) else (config.grid,)
    values = [one for grid in grids for one in _combinations(config, grid)]
    named, points = {}, []
    for place, chosen in enumerate(values, start=1):
        name = _name(chosen)
        if name in named or len(name) > _LONGEST_NAME:
            name = f"point{place}"
        if chosen in named.values():
            raise UserError(f"config.grid: has the point {_words(chosen)} twice; name it once")
        named[name] = chosen
        point = config.copy_and_resolve_references()
        point.grid = ()
        for key, value in chosen.items():
            try:
                point.update_from_flattened_dict({key: value})
            except (TypeError, ValueError) as error:
                raise UserError(f"config.grid: {key}={value!r}: {error}") from error
        points.append((name, chosen, point))
    return points


def _combinations(config: ConfigDict, grid: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(grid, Mapping) or not grid:
        raise UserError(
            f"config.grid={grid!r}: must be a dictionary of keys and their values, such as "
            "{'optimizer.lr': (0.05, 0.1)}"
        )
    flat = dict(flatten(config))
    flat.pop("grid", None)
    for key, values in grid.items():
        _check(key, values, flat)
    # Other values of floats are the same programs, so these vary fastest.
    keys = sorted(grid, key=lambda key: isinstance(flat[key], float))
    for chosen in itertools.product(*(grid[key] for key in keys)):
        of_key = dict(zip(keys, chosen, strict=True))
        yield {key: of_key[key] for key in grid}


def _check(key: Any, values: Any, flat: Mapping[str, Any]) -> None:
    if key not in flat:
        near = cli.nearest(str(key), list(flat))
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"config.grid: the config has no setting {key!r}{hint}")
    if settings_lib.may_change(key) or settings_lib.may_grow(key) or key.startswith(_MEASURES):
        raise UserError(
            f"config.grid: {key} is the same for all points; set --config.{key} for all of them"
        )
    if not isinstance(values, tuple | list) or not values:
        raise UserError(f"config.grid: {key}={values!r}: must be a tuple of values")


def _name(values: Mapping[str, Any]) -> str:
    """Returns a name for a directory, such as "mu=0.1,lr=0.05"."""
    return re.sub(r"[^\w.+=,-]+", "-", _words(values)).strip("-.")


def _words(values: Mapping[str, Any]) -> str:
    last = [key.rpartition(".")[2] for key in values]
    names = last if len(set(last)) == len(last) else values
    pairs = zip(names, values.values(), strict=True)
    return ",".join(f"{name}={value}" for name, value in pairs)


def _write_plan(directory: Path, points: Sequence[Point]) -> None:
    if (directory / "config.json").exists():
        raise UserError(f"{directory}: is the workdir of a run; a grid needs another --workdir")
    named = [{"name": name, "values": values} for name, values, _ in points]
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json_atomically(directory / report.PLAN, {"points": named})
