"""The command line: absl flags and ml-collections configs, whose mistakes are one line each."""

import difflib
import os
import re
import runpy
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

_TUNABLES = "GLIBC_TUNABLES"


def use_huge_pages():
    """Starts the program anew if that lets it have large arrays in huge pages.

    On CPU, XLA takes a step's memory from the system and gives it back; in pages of 4 kB their
    faults are up to a quarter of the step's time. glibc reads this setting at its start only.
    """
    if sys.platform == "linux" and _TUNABLES not in os.environ:
        os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def fail(message):
    """Ends the program with one line that says what is wrong."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(1)


def parse(argv: list[str], default: Path) -> list[str]:
    """Parses absl's flags, of which --config is `default` if it is not given.

    A mistake in a flag, in a key or in the config file ends the program with one line. Returns the
    arguments that are no flags, the program's name first.
    """
    path = config_path(argv)
    if path is None:
        path = str(default)
        argv.insert(1, f"--config={path}")
    check_keys(argv, load(path, default))
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


def load(path, default):
    """The config of a file ("FILE" or "FILE:ARGUMENT of get_config"), before any override."""
    path, colon, argument = path.partition(":")
    if not Path(path).is_file():
        fail(f"--config={path}: no such file; there is {default}, for example")
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            fail(f"--config={path}: there is no function get_config() in it")
        config = get_config(argument) if colon else get_config()
    except SyntaxError as error:
        fail(f"--config={path}: {error}")
    except Exception as error:
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
