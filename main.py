"""Runs an experiment: python main.py --config=configs/abd_cifar100.py --config.seeds="(0,1,2)"."""

import difflib
import logging as stdlib_logging
import re
import runpy
import sys
import traceback
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

DEFAULT = Path(__file__).resolve().parent / "configs" / "abd_digits.py"
CONFIG = config_flags.DEFINE_config_file(
    "config", None, f"The experiment's file; default: configs/{DEFAULT.name}.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go, and where a stopped run goes on; default: runs/CONFIG."
)


def main(argv):
    """Runs the experiment that the flags describe; the exit status is 0 when it is complete."""
    if len(argv) > 1:
        fail(f"unexpected arguments {' '.join(argv[1:])}; settings are --config.KEY=VALUE")
    # Imported here: `--help` needs neither JAX nor data.
    from cljax import errors, experiment

    # Orbax and TFDS tell much that no user needs; their errors arrive as exceptions all the same.
    logging.set_verbosity(logging.FATAL)
    # TensorStore's threads complain once more of a write that has failed, such as on a full disk.
    sys.unraisablehook = lambda _: None
    stdlib_logging.raiseExceptions = False  # nor of log.txt
    path, _, _ = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    config, workdir = CONFIG.value, WORKDIR.value or str(Path("runs") / Path(path).stem)
    try:
        experiment.run(config, workdir)
    except errors.UserError as error:
        fail(error)
    except experiment.Stopped as stopped:
        but = " without --config.overwrite" if config.overwrite else ""
        print(f"stopped and saved; the same command{but} goes on from here (workdir {workdir})")
        sys.exit(128 + stopped.number)


def fail(message):
    """Ends the program with one line that says what is wrong."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(1)


def parse(argv):
    """Parses the flags; a mistake in them or in the config file is one line."""
    path = config_path(argv)
    if path is None:
        path = str(DEFAULT)
        argv.insert(1, f"--config={path}")
    check_keys(argv, load(path))
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(error)


def config_path(argv):
    """What --config says, or None if it is not given."""
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch("--?config(?:=(.*))?", arg):
            return following if match[1] is None else match[1]
    return None


def load(path):
    """The config of a file ("FILE" or "FILE:ARGUMENT of get_config"), before any override."""
    path, colon, argument = path.partition(":")
    if not Path(path).is_file():
        fail(f"--config={path}: no such file; there is {DEFAULT}, for example")
    try:
        names = runpy.run_path(path)
        config = names["get_config"](argument) if colon else names["get_config"]()
    except SyntaxError as error:
        fail(f"--config={path}: {error}")
    except Exception as error:
        if isinstance(error, KeyError) and "get_config" not in names:
            fail(f"--config={path}: there is no function get_config() in it")
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f" line {lines[-1]}" if lines else ""
        fail(f"--config={path}{where}: {type(error).__name__}: {error}")
    if not isinstance(config, ConfigDict):
        fail(f"--config={path}: get_config() returns no ConfigDict but {type(config).__name__}")
    return config


def check_keys(argv, config):
    """Fails if the config has no such key as an argument --config.KEY names."""
    keys = list_keys(config)
    for arg in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", arg)
        if match and match[1] not in keys:
            near = nearest(match[1], keys)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(config)}"
            fail(f"--config.{match[1]}: the config has no such key; {hint}")


def list_keys(config, prefix=""):
    """All keys of a config, as they are written after "--config."."""
    keys = []
    for key, value in config.items():
        keys.append(prefix + key)
        if isinstance(value, ConfigDict):
            keys += list_keys(value, f"{prefix}{key}.")
    return keys


def nearest(wrong, keys):
    """Up to three keys that resemble a wrong one, in their last word or as a whole."""
    last = wrong.rpartition(".")[2]
    same = [key for key in keys if key.rpartition(".")[2] == last]
    return (same + [k for k in difflib.get_close_matches(wrong, keys) if k not in same])[:3]


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:
        print("stopped at once; what is saved so far is kept", file=sys.stderr)
        sys.exit(130)
