"""Runs an experiment: the command `cljax`, equal to `python -m cljax` and `python main.py`."""

import logging as stdlib_logging
import os
import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from cljax import __version__, cli

DESCRIPTION = """Trains a class-incremental method on a stream of tasks, or a table of methods.

usage: cljax [--config=CONFIG] [--config.KEY=VALUE ...] [--FLAG=VALUE ...]
       (or python main.py ... in a checkout)"""
DEFAULT = "abd_digits"


def define_flags() -> list[flags.FlagHolder]:
    """Defines the flags and returns them in the order of --help."""
    return [
        cli.define_config(f"The experiment; default: {DEFAULT}."),
        flags.DEFINE_string(
            "workdir",
            None,
            "Where results go and a stopped run resumes; default: runs/NAME.",
        ),
        flags.DEFINE_string(
            "coordinator", None, "With many processes: HOST:PORT, where the first one listens."
        ),
        flags.DEFINE_integer("num_processes", None, "How many processes there are."),
        flags.DEFINE_integer("process_id", None, "Which one this is, from 0."),
        flags.DEFINE_bool(
            "distributed",
            False,
            "One of many processes that the cluster (SLURM, TPU pod) knows.",
        ),
    ]


def run(argv: list[str]) -> None:
    """Runs the experiment that the flags describe; the exit status is 0 when it is complete."""
    if len(argv) > 1:
        cli.fail(f"unexpected arguments {' '.join(argv[1:])}; settings are --config.KEY=VALUE")
    # XLA, Matplotlib, Orbax and TFDS tell much that no user needs, XLA on some processors of every
    # program that it reads from the disk; their errors arrive as exceptions all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.FATAL)
    values = flags.FLAGS
    path, _, _ = config_flags.get_config_filename(values["config"]).partition(":")
    config, workdir = values.config, values.workdir or str(Path("runs") / Path(path).stem)
    if not (values.process_id or values.distributed):  # the imports below take a second or two
        print(f"cljax {__version__}: {Path(path).stem} in {workdir}", flush=True)
    # Imported here: `--help` needs neither JAX nor data.
    from cljax import errors, experiment, table
    from cljax.compute import processes

    # TensorStore's threads complain once more of a write that has failed, such as on a full disk.
    sys.unraisablehook = lambda _: None
    stdlib_logging.raiseExceptions = False  # nor of log.txt
    start = table.run if "runs" in config else experiment.run
    together = values.coordinator, values.num_processes, values.process_id
    try:
        processes.initialize(*together, values.distributed)
        start(config, workdir)
    except errors.UserError as error:
        if not processes.is_main():
            sys.exit(1)  # the first process says why
        cli.fail(error)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        cli.fail("out of device memory; give a smaller --config.batch_size or a smaller model")
    except experiment.Stopped as stopped:
        but = " without --config.overwrite" if config.overwrite else ""
        if processes.is_main():
            print(f"stopped and saved; the same command{but} goes on from here (workdir {workdir})")
        sys.exit(128 + stopped.number)


def main() -> None:
    """The command."""
    try:
        cli.run(run, DESCRIPTION, define_flags, DEFAULT)
    except KeyboardInterrupt:
        print("stopped at once; what is saved so far is kept", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
