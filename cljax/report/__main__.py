"""Writes a report: the command `cljax-report`, equal to `python -m cljax.report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cljax.output import terminal

DESCRIPTION = """Prints a table of runs beside the published results on CIFAR-100, and writes it as
report.md, report.csv and report.html (with accuracy curves). Of a grid, also prints its table with
the best point, and writes it as grid.md and grid.png. Adds a caveat ("marks") to each run
that is shortened, changed or incomplete."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the arguments of the command, those of the process by default."""
    installed = Path(sys.argv[0]).stem == "cljax-report"
    parser = argparse.ArgumentParser(
        prog="cljax-report" if installed else "python -m cljax.report", description=DESCRIPTION
    )
    parser.add_argument(
        "workdirs",
        metavar="WORKDIR",
        nargs="+",
        type=Path,
        help="workdir of a run, or a directory that contains workdirs",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="directory of the files; default: the first WORKDIR if it contains workdirs, "
        "otherwise its parent",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report that the command line asks for."""
    with terminal.ready():
        args = parse(argv)
        # Imported here: `--help` needs neither NumPy nor Matplotlib.
        from rich.console import Console

        from cljax import cli
        from cljax.errors import UserError
        from cljax.report import grid
        from cljax.report.tables import write_report

        try:
            write_report(args.workdirs, args.out)
            for folder in filter(grid.is_grid, args.workdirs):
                grid.write(folder, args.out or folder, Console())
        except UserError as error:
            cli.fail(error)


if __name__ == "__main__":
    main()
