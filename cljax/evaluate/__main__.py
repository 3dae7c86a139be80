"""Scores the saved classifiers of a run again: `python -m cljax.evaluate`."""

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cljax.output import terminal

DESCRIPTION = """Scores the classifiers that a run saved after every task, on its own test images or
on others with the same classes. Prints the tables of the run, the accuracy of each class and the
confusion matrix, and writes evaluation.json and pictures."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the arguments of the command, those of the process by default."""
    parser = argparse.ArgumentParser(prog="python -m cljax.evaluate", description=DESCRIPTION)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="workdir of a run")
    parser.add_argument(
        "--task", metavar="T", type=int, help="last task to score, from 1; default: the last one"
    )
    parser.add_argument("--seeds", metavar="S,...", default="", help="some of the run's seeds")
    parser.add_argument(
        "--read_outs", metavar="NAME,...", help="cnn, nme, ncm; default: those of the run"
    )
    parser.add_argument(
        "--data.KEY",
        metavar="VALUE",
        dest="unused",
        help="changes config.data.KEY: --data.validation=True scores on the validation folds, "
        "--data.name=npz --data.path=FILE.npz on other images",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="directory of the files; default: WORKDIR/evaluation",
    )
    args, others = parser.parse_known_args(argv)
    args.data = {}
    for other in others:
        if not (match := re.fullmatch(r"--data\.(\w+)=(.*)", other)):
            parser.error(f"unrecognized argument {other}; data are set as --data.KEY=VALUE")
        args.data[match[1]] = _value(match[2])
    return args


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (MemoryError, RecursionError, SyntaxError, ValueError):
        return text


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def run(args: argparse.Namespace) -> None:
    """Scores the classifiers, prints tables and writes files.

    Raises:
      UserError: a value is wrong, data or models are missing or damaged, or a file cannot be
        written.
    """
    from rich.console import Console

    from cljax.errors import UserError
    from cljax.evaluate import scores, show
    from cljax.files import write_json_atomically
    from cljax.output import logs, summary
    from cljax.saved.runs import open_run

    if not all(name.isdigit() for name in _names(args.seeds)):
        raise UserError(f"--seeds={args.seeds}: must be whole numbers, such as 0,1")
    seeds = list(map(int, _names(args.seeds)))
    console = Console()
    logs.log_to_console(console)
    saved = open_run(args.workdir)
    read_outs = None if args.read_outs is None else _names(args.read_outs)
    results = scores.score(saved, args.task, seeds, args.data, read_outs)
    out = args.out or saved.workdir / "evaluation"
    write_json_atomically(out / "evaluation.json", results)
    show.write_pictures(results, out)
    show.print_classes(results, console)
    summary.print_summary(results, out, console)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with terminal.ready():
        args = parse(argv)
        from cljax import cli  # here, because SIGINT may come during any import

        cli.call(run, args)


if __name__ == "__main__":
    main()
