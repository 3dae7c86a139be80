"""Runs an experiment: python main.py --config=configs/abd_cifar100.py --config.seeds="(0,1,2)"."""

import functools
import logging as stdlib_logging
import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cljax import cli

DEFAULT = Path(__file__).resolve().parent / "configs" / "abd_digits.py"
CONFIG = config_flags.DEFINE_config_file(
    "config", None, f"The experiment's file; default: configs/{DEFAULT.name}.", lock_config=True
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Of many processes: HOST:PORT, where the first one listens."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of many processes that the cluster (SLURM, TPU pod) knows of."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go, and where a stopped run goes on; default: runs/CONFIG."
)


def main(argv):
    """Runs the experiment that the flags describe; the exit status is 0 when it is complete."""
    if len(argv) > 1:
        cli.fail(f"unexpected arguments {' '.join(argv[1:])}; settings are --config.KEY=VALUE")
    # XLA, Matplotlib, Orbax and TFDS tell much that no user needs, XLA on some processors of every
    # program that it reads from the disk; their errors arrive as exceptions all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.FATAL)
    # Imported here: `--help` needs neither JAX nor data.
    from cljax import errors, experiment, processes, table

    # TensorStore's threads complain once more of a write that has failed, such as on a full disk.
    sys.unraisablehook = lambda _: None
    stdlib_logging.raiseExceptions = False  # nor of log.txt
    path, _, _ = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    config, workdir = CONFIG.value, WORKDIR.value or str(Path("runs") / Path(path).stem)
    run = table.run if "runs" in config else experiment.run
    together = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    try:
        processes.initialize(*together, DISTRIBUTED.value)
        run(config, workdir)
    except errors.UserError as error:
        if not processes.is_first():
            sys.exit(1)  # the first process says why
        cli.fail(error)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        cli.fail("out of device memory; give a smaller --config.batch_size or a smaller model")
    except experiment.Stopped as stopped:
        but = " without --config.overwrite" if config.overwrite else ""
        if processes.is_first():
            print(f"stopped and saved; the same command{but} goes on from here (workdir {workdir})")
        sys.exit(128 + stopped.number)


if __name__ == "__main__":
    cli.use_huge_pages()
    try:
        app.run(main, flags_parser=functools.partial(cli.parse, default=DEFAULT))
    except KeyboardInterrupt:
        print("stopped at once; what is saved so far is kept", file=sys.stderr)
        sys.exit(130)
