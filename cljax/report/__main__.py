"""The command `python -m cljax.report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cljax import cli
from cljax.errors import UserError

DESCRIPTION = """Prints a table of runs beside the published figures of CIFAR-100, and writes it as
report.md, report.csv and report.html (with accuracy curves). Runs that are shortened or incomplete
are marked."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cljax.report", description=DESCRIPTION)
    parser.add_argument(
        "workdirs",
        metavar="WORKDIR",
        nargs="+",
        type=Path,
        help="of a run, or a directory whose subdirectories are workdirs of runs",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="where the files go; default: the first WORKDIR if its subdirectories are the runs, "
        "else the directory that it is in",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report that the command line asks for."""
    args = parse(argv)
    # Imported here: `--help` needs neither NumPy nor Matplotlib.
    from cljax.report.tables import write_report

    try:
        write_report(args.workdirs, args.out)
    except UserError as error:
        cli.fail(error)


if __name__ == "__main__":
    main()
