"""Runs an experiment: the command `cljax`, equal to `python -m cljax` and `python main.py`."""

import logging as stdlib_logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cljax import __version__
from cljax.output import terminal

if TYPE_CHECKING:
    from absl.flags import FlagHolder

DESCRIPTION = """Trains a class-incremental method on a stream of tasks, or a table of methods, or a
grid of settings (--config.grid="{'optimizer.lr': (0.05, 0.1)}", in runs/CONFIG_grid).

usage: cljax [--config=CONFIG] [--config.KEY=VALUE ...] [--FLAG=VALUE ...]
       (or python main.py ... in a checkout)

What a run has saved is used by python -m cljax.predict (classes of images), cljax.evaluate (scores
on these or other images), cljax.dream (images of its generator), cljax.export (for JAX alone or
PyTorch) and cljax.report (comparison of runs); each has --help."""
DEFAULT = "abd_digits"


def define_flags() -> "list[FlagHolder]":
    """Defines the flags and returns them in the order of --help."""
    from absl import flags

    from cljax import cli

    return [
        cli.define_config(f"The experiment; default: {DEFAULT}."),
        flags.DEFINE_string(
            "workdir",
            None,
            "Directory of the run. Results go there, and a stopped run resumes from there. "
            "Default: runs/CONFIG.",
        ),
        flags.DEFINE_bool(
            "dry_run",
            False,
            "Checks settings, data, workdir and disk, prints tasks, stages and sizes, and ends.",
        ),
        flags.DEFINE_string(
            "coordinator",
            None,
            "Address of the first process, HOST:PORT, for a run with several processes.",
        ),
        flags.DEFINE_integer("num_processes", None, "Number of processes."),
        flags.DEFINE_integer("process_id", None, "Number of this process, from 0."),
        flags.DEFINE_bool(
            "distributed",
            False,
            "Gets the address and the process numbers from the cluster (SLURM, TPU pod).",
        ),
    ]


def run(argv: list[str]) -> None:
    """Runs the experiment, table or grid of the flags; returns only if it is complete."""
    from absl import flags, logging
    from ml_collections import config_flags

    from cljax import cli
    from cljax.errors import UserError, printable
    from cljax.settings import config_files

    if len(argv) > 1:
        cli.fail(f"unexpected arguments {' '.join(argv[1:])}; use --config.KEY=VALUE for settings")
    # XLA, Matplotlib, Orbax and TFDS log much that no user needs, XLA on some processors a line for
    # each program that it reads from the disk. Their errors still arrive as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.FATAL)
    values = flags.FLAGS
    path = config_flags.get_config_filename(values["config"])
    try:
        config, workdir = values.config, values.workdir
        has_grid = bool(config.get("grid"))
        if not workdir:
            workdir = config_files.default_workdir(path) + ("_grid" if has_grid else "")
    except UserError as error:
        cli.fail(error)
    if not (values.process_id or values.distributed):  # the imports below take a second or two
        what = f"{Path(path.partition(':')[0]).stem}, seeds {config.get('seeds')}, in {workdir}"
        print(printable(f"cljax {__version__}: {what}"), flush=True)
    # Imported here: `--help` needs neither JAX nor data.
    from cljax import dry_run, errors, experiment
    from cljax.compute import device, processes
    from cljax.plans import grid, table

    stdlib_logging.raiseExceptions = False  # log.txt on a full disk; other files report it
    start = grid.run if has_grid else experiment.run
    start = table.run if "runs" in config else start
    start = dry_run.run if values.dry_run else start
    together = values.coordinator, values.num_processes, values.process_id
    try:
        processes.initialize(*together, values.distributed)
        device.check()
    except errors.UserError as error:
        cli.fail(error)
    try:
        start(config, workdir)
    except errors.UserError as error:
        if not processes.is_main():
            sys.exit(1)  # the first process says why
        cli.fail(error)
    except experiment.Stopped as stopped:
        but = " without --config.overwrite" if config.overwrite else ""
        if processes.is_main():
            where = printable(workdir)
            print(f"Stopped. Checkpoint saved in {where}; run the same command{but} to resume.")
        sys.exit(128 + stopped.number)


def main() -> None:
    """Runs the command `cljax`."""
    with terminal.ready():
        from cljax import cli  # here, because SIGINT may come during any import

        cli.read_flagfiles()
        cli.run(run, DESCRIPTION, define_flags, DEFAULT)


if __name__ == "__main__":
    main()
