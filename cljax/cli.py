"""Parses the command line, absl flags and ml-collections configs; reports errors in one line."""

import argparse
import difflib
import functools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cljax import __version__, settings
from cljax.errors import UserError, keeping_notes
from cljax.output import terminal
from cljax.settings import config_files

_TUNABLES = "GLIBC_TUNABLES"
_HELP = {"--help", "-help", "-h"}


def use_huge_pages() -> None:
    """Restarts the program on Linux so that glibc puts large arrays into huge pages.

    On CPU, XLA gets the memory of a step from the system and returns it. With pages of 4 kB, page
    faults take up to 25 % of the step's time. glibc reads this setting only when it starts.
    """
    if sys.platform == "linux" and _TUNABLES not in os.environ:
        os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
        terminal.restart()


def fail(message: object) -> NoReturn:
    """Prints "error: " and the message, and ends the program with status 1.

    A UserError has a line for each of its mistakes.
    """
    for line in message.args if isinstance(message, UserError) else (message,):
        print(f"error: {' '.join(str(line).split())}", file=sys.stderr)
    sys.exit(1)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds --task and --seed, which choose among the models of a workdir."""
    parser.add_argument("--task", metavar="T", type=int, help="task, from 1; default: the last one")
    parser.add_argument("--seed", metavar="S", type=int, help="seed; default: the run's first one")


def call(command: Callable[[Any], None], args: Any) -> None:
    """Runs a command that reads a workdir; a UserError ends it with a line.

    Args:
      command: the command.
      args: its arguments, parsed.
    """
    # Imported here: `--help` needs no JAX.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.FATAL)  # Orbax, whose errors arrive as exceptions
    from cljax.compute import device

    try:
        device.check()
        command(args)
    except UserError as error:
        fail(error)


def run(
    main: Callable[[list[str]], None],
    description: str,
    define_flags: Callable[[], list[flags.FlagHolder]],
    default: str,
) -> None:
    """Runs a program with absl flags; answers --help and --version itself.

    Args:
      main: called with the arguments that are not flags, the name of the program first.
      description: first lines of --help.
      define_flags: defines the flags of the program and returns them.
      default: name of the config if --config is absent.
    """
    own = define_flags()
    if not _HELP.isdisjoint(sys.argv[1:]):
        print(help_page(description, own))
        if path := config_path(sys.argv):
            print(f"\n{settings_page(path)}")
    elif "--version" in sys.argv[1:]:
        print(f"cljax {__version__}")
    else:
        use_huge_pages()
        app.run(main, flags_parser=functools.partial(parse, default=default))


def read_flagfiles() -> None:
    """Replaces each --flagfile in the arguments of the program by the flags in it."""
    try:
        sys.argv[1:] = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
    except (flags.Error, OSError, ValueError) as error:
        fail(f"--flagfile: {error}")


def define_config(what: str) -> flags.FlagHolder:
    """Defines the flag --config."""
    text = f"{what} A name from the list below, or a Python file of your own."
    return config_flags.DEFINE_config_file("config", None, text, lock_config=True)


def help_page(description: str, own: Iterable[flags.FlagHolder]) -> str:
    """Returns the text of --help: the description, the program's own flags and the configs."""
    parts = [description, ""]
    for holder in own:
        flag = flags.FLAGS[holder.name]
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
        parts.append(_fill(f"  {name:<17} {flag.help}", indent=20))
    values = (
        "--config.KEY=VALUE changes a setting. docs/configuration.md describes all of them; "
        "config.json in a workdir holds those of its run."
    )
    configs = f"Configs by name: {', '.join(config_files.names())}."
    others = (
        "Settings of other programs: --config=libcontinual:FILE.yaml, --config=dfcil:OPTIONS (the "
        "ABD reference code's options, or a script with one command)."
    )
    parts += ["", _fill(values), "", _fill(configs, indent=2), "", _fill(others, indent=2)]
    return "\n".join(parts)


def settings_page(path: str) -> str:
    """Returns the settings of a config, each with its value, meaning and bounds."""
    from cljax import build, methods  # `--help` alone needs no JAX.

    try:
        config = config_files.load(path).to_dict()
        method = config.get("method", {}).get("name")  # a table has none of its own
        types = build.method_types(methods.find_class(method)) if method else {}
    except UserError as error:
        fail(error)
    lines = settings.describe(config, types)
    return "\n".join([f"Settings of {path}:", *(_fill(line, indent=4) for line in lines)])


def _fill(text, indent=0):
    return textwrap.fill(
        text, 88, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


def parse(argv: list[str], default: str) -> list[str]:
    """Parses absl's flags; an error in a flag, a config key or the config file ends the program.

    Args:
      argv: arguments of the program; names of configs in it are replaced by paths.
      default: name of the config if --config is absent.

    Returns:
      The arguments that are not flags, the name of the program first.
    """
    if config_path(argv) is None:
        argv.insert(1, f"--config={default}")
    try:
        _wrap_grid(argv)
        for place, flag, value in _config_values(argv):
            config, colon, argument = value.partition(":")
            argv[place] = flag + config_files.find(config) + colon + argument
        with keeping_notes():
            config = config_files.load(config_path(argv) or default)
        check_keys(argv, config)
    except UserError as error:
        fail(error)
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(error)


def _wrap_grid(argv: list[str]) -> None:
    """Makes a grid on the command line a tuple with one dictionary, as absl reads no dictionary."""
    for place, arg in enumerate(argv):
        if match := re.fullmatch(r"(?s)(--?config\.grid=)\s*(\{.*\})\s*", arg):
            argv[place] = f"{match[1]}({match[2]},)"


def config_path(argv: list[str]) -> str | None:
    """Returns the value of --config, or None if it is absent."""
    return next((value for _, _, value in _config_values(argv)), None)


def _config_values(argv: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yields position in argv, text before the value, and value of each --config."""
    for place, arg in enumerate(argv):
        if match := re.fullmatch("(?s)(--?config=)(.*)", arg):
            yield place, match[1], match[2]
        elif re.fullmatch("--?config", arg) and place + 1 < len(argv):
            yield place + 1, "", argv[place + 1]


def check_keys(argv: list[str], config: ConfigDict) -> None:
    """Ends the program if an argument --config.KEY names a key that the config does not have."""
    keys = list_keys(config)
    for arg in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", arg)
        if match and match[1] not in keys:
            if match[1] in settings.RENAMED:
                new = settings.RENAMED[match[1]]
                fail(f"--config.{match[1]}: this key is gone; use config.{new}")
            near = nearest(match[1], keys)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(config)}"
            fail(f"--config.{match[1]}: the config has no such key; {hint}")


def list_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Lists all keys of a config, as users write them after "--config."."""
    keys = []
    for key, value in config.items():
        keys.append(prefix + key)
        if isinstance(value, ConfigDict):
            keys += list_keys(value, f"{prefix}{key}.")
    return keys


def nearest(wrong: str, keys: Sequence[str]) -> list[str]:
    """Returns up to three keys that resemble a wrong one, in the last word or as a whole."""
    last = wrong.rpartition(".")[2]
    same = [key for key in keys if key.rpartition(".")[2] == last]
    return (same + [k for k in difflib.get_close_matches(wrong, keys) if k not in same])[:3]
