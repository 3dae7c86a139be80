"""Names the classes of images: `python -m cljax.predict`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cljax.output import terminal

DESCRIPTION = """Names the classes of images, among those that a run has seen, with the classifier
that it saved after a task, or with one that `python -m cljax.export` wrote. Images of any size and
mode are preprocessed as in the run."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the arguments of the command, those of the process by default."""
    from cljax import cli  # here, because SIGINT may come during any import

    parser = argparse.ArgumentParser(prog="python -m cljax.predict", description=DESCRIPTION)
    parser.add_argument("model", metavar="WORKDIR|EXPORT", type=Path, help="workdir or export")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", type=Path, help="image file, or directory of some"
    )
    cli.add_choice(parser)
    parser.add_argument(
        "--top_k", metavar="K", type=int, default=5, help="classes per image (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="prints JSON instead of lines")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Prints the likeliest classes of each image, with their probabilities.

    Raises:
      UserError: the model or an image is absent or damaged.
    """
    from rich.console import Console

    import cljax
    from cljax.errors import UserError, print_plain
    from cljax.saved import images as images_lib

    if args.top_k < 1:
        raise UserError(f"--top_k={args.top_k}: must be 1 or more")
    files = images_lib.list_files(args.images)
    model = cljax.load(args.model, args.task, args.seed)
    console, rows = Console(), []
    for block, images in images_lib.read_blocks(files, model):
        shares, ranks = model.probabilities(images), model.rank(images, args.top_k)
        for file, of_image, labels in zip(block, shares, ranks, strict=True):
            found = [
                {
                    "class": model.classes[label],
                    "class_id": model.class_ids[label],
                    "probability": round(float(of_image[label]), 6),
                }
                for label in labels
            ]
            rows.append({"image": str(file), "predictions": found})
            if not args.json:
                words = (f"{one['class']} {100 * one['probability']:.1f} %" for one in found)
                print_plain(console, f"{file}: {', '.join(words)}")
    if args.json:
        print(json.dumps(rows, indent=2))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with terminal.ready():
        args = parse(argv)
        from cljax import cli

        cli.call(run, args)


if __name__ == "__main__":
    main()
