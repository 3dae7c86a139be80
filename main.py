"""Runs an experiment: python main.py --config=configs/abd_cifar100.py --config.seeds="(0,1,2)"."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

ROOT = Path(__file__).resolve().parent
CONFIG = config_flags.DEFINE_config_file(
    "config", str(ROOT / "configs" / "abd_digits.py"), "The experiment.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go, and where a stopped run goes on; default: runs/CONFIG."
)


def main(argv):
    """Runs the experiment that the flags describe; the exit status is 0 when it is complete."""
    # Imported here: `--help` needs neither JAX nor data.
    from cljax import errors, experiment

    logging.set_verbosity(logging.ERROR)  # Orbax and TFDS tell much that no user needs
    if len(argv) > 1:
        fail(f"unexpected arguments {' '.join(argv[1:])}; settings are --config.KEY=VALUE")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = WORKDIR.value or str(Path("runs") / Path(path).stem)
    try:
        experiment.run(CONFIG.value, workdir)
    except errors.UserError as error:
        fail(error)
    except experiment.Stopped as stopped:
        print(f"stopped and saved; the same command goes on from here (workdir {workdir})")
        sys.exit(128 + stopped.number)


def fail(message):
    """Ends the program with one line that says what is wrong."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def parse(argv):
    """Parses the flags; a mistake in them is one line."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        fail(str(error).strip().strip("'\"").replace("\n", " "))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
