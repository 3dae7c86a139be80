"""Reads the command line of the ABD reference code as its argparse does."""

import argparse
import os
from typing import Any, NoReturn

from cljax import files
from cljax.errors import UserError, printable
from cljax.translation import hint, shown
from cljax.translation.shell import find_arguments

PROGRAM = "run_dfcil.py"
_LARGEST = 2**16  # bytes of a script; the reference code's have less than 2**13

_FLAGS = "train_aug rand_split validation DW oracle_flag"
# name: (type, default, whether it takes several values), as the reference code has them
_OPTIONS: dict[str, tuple[type, Any, bool]] = {
    "gpuid": (int, None, True),
    "log_dir": (str, None, False),
    "model_type": (str, "mlp", False),
    "model_name": (str, "MLP", False),
    "gen_model_type": (str, "mlp", False),
    "gen_model_name": (str, "MLP", False),
    "learner_type": (str, "default", False),
    "learner_name": (str, "NormalNN", False),
    "dataroot": (str, None, False),
    "dataset": (str, "MNIST", False),
    "load_model_dir": (str, None, False),
    "workers": (int, None, False),
    "repeat": (int, 1, False),
    "overwrite": (int, 0, False),
    "optimizer": (str, "SGD", False),
    "lr": (float, 0.01, False),
    "momentum": (float, 0.0, False),
    "weight_decay": (float, 0.0, False),
    "schedule": (int, [2], True),
    "schedule_type": (str, "decay", False),
    "batch_size": (int, 64, False),
    "power_iters": (int, 10, False),
    "deep_inv_params": (float, [-1.0], True),
    "first_split_size": (int, 2, False),
    "other_split_size": (int, 2, False),
    "max_task": (int, -1, False),
    "memory": (int, 0, False),
    "temp": (float, None, False),
    "mu": (float, None, False),
    "beta": (float, None, False),
}


class _Parser(argparse.ArgumentParser):
    """Reads the options as argparse does; its errors are UserErrors."""

    where = ""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.where}: {printable(message)}")


def parse(argument: str) -> tuple[argparse.Namespace, dict[str, str], str]:
    """Parses options, a command with them, or a shell script with one such command.

    Args:
      argument: the options, "python -u run_dfcil.py" and the options, or the path of a script.

    Returns:
      The options by name, with the reference code's defaults; the variables of the command's
      environment; and the name that messages have for the text.

    Raises:
      UserError: there is no such file, or the options are not as the reference code has them.
    """
    argument = argument.strip()
    if not argument:
        raise UserError(
            'dfcil: no options; write --config=dfcil:"--dataset CIFAR100 ..." or the path of a '
            "script with one command"
        )
    where, text = "dfcil", argument
    if not argument.startswith("-") and PROGRAM not in argument:
        where = argument = os.path.expanduser(argument)
        if " " in argument and not os.path.exists(argument):
            raise UserError(
                f"dfcil: {shown(argument)}: neither options, which begin with --, nor a script"
            )
        with files.reading(argument, "a shell script"), files.open_plain(argument) as file:
            content = file.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes")
            text = content.decode()
    arguments, environment = find_arguments(text, PROGRAM, where)
    parser = _Parser(add_help=False)
    parser.where = where
    for name in _FLAGS.split():
        parser.add_argument(f"--{name}", action="store_true")
    for name, (kind, default, several) in _OPTIONS.items():
        nargs = "+" if several else None
        parser.add_argument(f"--{name}", type=kind, default=default, nargs=nargs)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [*_FLAGS.split(), *_OPTIONS]
        name = unknown[0].lstrip("-").partition("=")[0]
        near = hint(name, known)
        raise UserError(
            f"{where}: {shown(unknown[0])}: the reference code has no such option; {near}"
        )
    return options, environment, where
