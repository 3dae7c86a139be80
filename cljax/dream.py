"""Shows what a saved generator dreams: `python -m cljax.dream`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cljax.output import terminal

if TYPE_CHECKING:
    from cljax.saved.dreams import Dreams

DESCRIPTION = """Writes images that the generator of a task dreams, sorted by the class that the
classifier takes them for which the generator was trained against."""
_MOST = 2**16
_COLUMNS = 16


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the arguments of the command, those of the process by default."""
    from cljax import cli  # here, because SIGINT may come during any import

    parser = argparse.ArgumentParser(prog="python -m cljax.dream", description=DESCRIPTION)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="workdir of a run")
    cli.add_choice(parser)
    parser.add_argument(
        "--classes", metavar="NAME,...", default="", help="names of classes; default: all"
    )
    parser.add_argument("--count", metavar="N", type=int, default=64, help="images (default 64)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="FILE.png: a row for each class; FILE.npz: images, labels, class_ids and class_names",
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Writes the images.

    Raises:
      UserError: the generator is absent or damaged, a value is wrong, or the file cannot be
        written.
    """
    from rich.console import Console

    from cljax.errors import UserError, print_plain
    from cljax.saved import dreams as dreams_lib
    from cljax.saved.runs import open_run

    if not 1 <= args.count <= _MOST:
        raise UserError(f"--count={args.count}: must be 1 to {_MOST}")
    if args.out.suffix not in (".png", ".npz"):
        raise UserError(f"--out={args.out}: must end with .png or .npz")
    classes = [name.strip() for name in args.classes.split(",") if name.strip()]
    saved = open_run(args.workdir)
    dreams = dreams_lib.dream(saved, args.task, args.seed, args.count, classes)
    if not len(dreams.images):
        raise UserError("--classes: the generator made no image of these classes")
    if args.out.suffix == ".png":
        _write_png(dreams, classes, args.out)
    else:
        _write_npz(dreams, args.out)
    found = [(dreams.labels == label).sum() for label in range(len(dreams.class_names))]
    words = (f"{name} {n}" for name, n in zip(dreams.class_names, found, strict=True) if n)
    print_plain(Console(), f"{len(dreams.images)} images: {', '.join(words)}")
    print_plain(Console(), f"Written: {args.out}")


def _write_png(dreams: "Dreams", classes: Sequence[str], out: Path) -> None:
    """Writes rows of up to 16 images of one class; a class without images has a white row."""
    import numpy as np

    from cljax.output import plots

    rows, labels = [], []
    columns = min(_COLUMNS, int(np.bincount(dreams.labels).max()))
    for label, name in enumerate(dreams.class_names):
        if classes and name not in classes:
            continue
        images = dreams.images[dreams.labels == label]
        count = max(1, -(-len(images) // columns))
        row = np.full((count * columns, *images.shape[1:]), 255, np.uint8)
        row[: len(images)] = images
        rows += list(row.reshape(count, columns, *images.shape[1:]))
        labels += [name] + [""] * (count - 1)
    plots.write_image_grid(np.stack(rows), out, labels)


def _write_npz(dreams: "Dreams", out: Path) -> None:
    import numpy as np

    from cljax.files import replacing

    arrays: dict[str, Any] = dreams._asdict()
    with replacing(out) as file:
        np.savez(file, **arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with terminal.ready():
        args = parse(argv)
        from cljax import cli

        cli.call(run, args)


if __name__ == "__main__":
    main()
