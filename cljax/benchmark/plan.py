"""Selects and measures the rows of a benchmark, with their precisions and numbers of seeds."""

import dataclasses
import datetime
import math
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict
from rich.console import Console

from cljax import settings as settings_lib
from cljax.benchmark import measure, rows
from cljax.build import make_method
from cljax.compute import device
from cljax.errors import UserError

FORMAT = "cljax benchmark 1"


@dataclasses.dataclass(frozen=True)
class Options:
    """Says how rows are measured.

    Attributes:
      seconds: approximate duration of the repetitions of a row.
      seeds: numbers of seeds whose training steps are timed, in addition to one seed.
      dtypes: keys of `device.PRECISIONS`; several seeds are timed with the first.
      profile: directory of traces, or None.
    """

    seconds: float
    seeds: tuple[int, ...]
    dtypes: tuple[str, ...]
    profile: Path | None = None


def make_options(
    seconds: float,
    seeds: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    profile: str | None = None,
) -> Options:
    """Makes options from flags; None selects what suits the device.

    Raises:
      UserError: a flag is wrong.
    """
    platform = device.platform()
    seeds = seeds or (("1",) if platform == "cpu" else ("1", "2", "4", "8"))
    if not all(n.isdecimal() and int(n) for n in seeds):
        raise UserError(f"--seeds={','.join(seeds)}: must be a list of numbers, such as 1,2,4,8")
    if not 0 < seconds < math.inf:
        raise UserError(f"--seconds={seconds}: must be a finite number above 0")
    dtypes = dtypes or {"gpu": ("float32", "tf32", "bfloat16")}.get(platform, ("float32",))
    for dtype in dtypes:
        if dtype not in device.PRECISIONS:
            there_are = ", ".join(device.PRECISIONS)
            raise UserError(f"--dtypes={dtype}: unknown; choose {there_are}")
        if dtype == "tf32" and platform != "gpu":
            raise UserError(f"--dtypes=tf32: only GPUs have it, and this is {platform}")
    folder = Path(profile) if profile else None
    return Options(seconds, tuple(map(int, seeds)), tuple(dtypes), folder)


@dataclasses.dataclass(frozen=True)
class ConfigRows:
    """Lists rows of one config.

    Attributes:
      config: config of an experiment.
      names: names of the rows; None: all rows of the config.
      is_run: whether the config is run from start to end, which is a row.
    """

    config: ConfigDict
    names: tuple[str, ...] | None = None
    is_run: bool = False


def measure_all(
    parts: Sequence[ConfigRows], only: set[str], options: Options, console: Console | None = None
) -> dict:
    """Measures all wanted rows.

    Args:
      parts: rows of each config.
      only: names of the wanted rows; empty: all.
      options: how rows are measured.
      console: shows the current row; standard error by default.

    Returns:
      The record that `benchmark.table` shows and writes.

    Raises:
      UserError: no row has a wanted name, or a setting is wrong.
    """
    start, console = time.perf_counter(), console or Console(stderr=True)
    names = [part.names or names_of_rows(part.config) for part in parts]
    known = [name for some in names for name in some]
    check_names(only, known)
    seconds = min(options.seconds, 1.0)
    rates = {"copy": measure.copy_rate(seconds)}
    rates |= {dtype: measure.matrix_rate(dtype, seconds) for dtype in options.dtypes}
    record = {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": device.hardware(),
        "versions": device.versions(),
        "rates": rates,
        "rows": [],
    }
    for part, some in zip(parts, names, strict=True):
        wanted = [name for name in some if not only or name in only]
        for row in _measure_part(part, wanted, options, console):
            record["rows"].append(_with_shares(row, rates))
    record["seconds"] = time.perf_counter() - start
    return record


def check_names(only: set[str], known: Sequence[str]) -> None:
    """Raises UserError if a wanted row is unknown."""
    if wrong := only - set(known):
        raise UserError(f"--only={min(wrong)}: no such row; choose {', '.join(known)}")


def names_of_rows(config) -> list[str]:
    """Returns the names of a config's rows in order."""
    settings = settings_lib.read(config)
    method = make_method(settings, rows.load(settings))
    return list(rows.kinds_of_rows(settings, method))


def _measure_part(part, names, options, console):
    """Yields the rows of a config; shows each before it is measured."""
    if not names:
        return
    if part.is_run:
        console.print("run", style="dim")
        yield rows.whole_run(part.config)
        return
    settings = settings_lib.read(part.config)
    dataset = rows.load(settings)
    for dtype in options.dtypes:
        bench = rows.Bench(settings, dataset, dtype, options.seconds, options.profile)
        for name in names:
            console.print(f"{name} {dtype}", style="dim")
            yield from bench.rows(name, options.seeds if dtype == options.dtypes[0] else ())
        jax.clear_caches()  # the next programs are others


def _with_shares(row, rates):
    """Adds the fractions of the device's peak rates to a row."""
    unknown = ("images_per_step", "images_per_second", "flops", "bytes", "mesh", "wait_share")
    row = dict.fromkeys(unknown) | {"has_loops": True} | row
    for share, work, rate in (
        ("matrix_share", row["flops"], rates.get(row["dtype"])),
        ("copy_share", row["bytes"], rates["copy"]),
    ):
        known = work and rate and not row["has_loops"]
        row[share] = work / row["seconds"] / rate if known else None
    return row
