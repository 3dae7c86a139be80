"""Writes a saved model for programs without cljax: `python -m cljax.export`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cljax.output import terminal

DESCRIPTION = """Writes the classifier that a run saved after a task. --format=jax: weights
(model.safetensors), the forward pass as a StableHLO program (forward.stablehlo), a script that runs
it with JAX alone (run.py), and what the numbers mean (config.json). --format=pytorch: class.pth and
generator.pth, which the ABD reference code loads, and config.json."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the arguments of the command, those of the process by default."""
    from cljax import cli  # here, because SIGINT may come during any import

    parser = argparse.ArgumentParser(prog="python -m cljax.export", description=DESCRIPTION)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="workdir of a run")
    cli.add_choice(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="new or empty directory"
    )
    parser.add_argument("--format", choices=("jax", "pytorch"), default="jax", help="default: jax")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Writes the export, and prints its files.

    Raises:
      UserError: the model is absent or damaged, or the export cannot be written.
    """
    from rich.console import Console

    from cljax.errors import print_plain
    from cljax.export import files
    from cljax.output import logs
    from cljax.saved.models import read_learned
    from cljax.saved.runs import open_run

    console = Console()
    logs.log_to_console(console)
    write = {"jax": files.write_for_jax, "pytorch": files.write_for_pytorch}[args.format]
    paths = write(read_learned(open_run(args.workdir), args.task, args.seed), args.out)
    print_plain(console, f"Written: {', '.join(map(str, paths))}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with terminal.ready():
        args = parse(argv)
        from cljax import cli

        cli.call(run, args)


if __name__ == "__main__":
    main()
