"""A tiny folder of images per class."""

from pathlib import Path

from PIL import Image

SIZE = 8  # that images are resized to
SHADES = {
    "train": {"cat": [10, 20], "ant": [30], "Bee": [40]},
    "test": {"ant": [60], "Bee": [70, 80], "cat": [50]},
}


def make(root: Path) -> Path:
    """Writes three classes of plain grey PNG images of 12x10; returns the folder."""
    for split, classes in SHADES.items():
        for name, values in classes.items():
            (root / split / name).mkdir(parents=True)
            for number, shade in enumerate(values):
                Image.new("RGB", (12, 10), (shade,) * 3).save(root / split / name / f"{number}.png")
    return root


def shades(split):
    """The one value of each image, in order."""
    images, _ = split
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()
