"""Tiny-ImageNet in the authors' layout with a few classes, packed and unpacked."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = "tiny-imagenet-200"
WORDS = {"n03": "reel, spool", "n01": "goldfish, Carassius auratus", "n02": "Egyptian cat"}
NUMBERS = 2, 0, 10, 1  # of a class's training images; sorted as text: 0, 1, 10, 2


def jpeg(seed: int, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    """A JPEG file of random squares."""
    rng = np.random.default_rng(seed)
    squares = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    file = io.BytesIO()
    squares.resize(size, Image.Resampling.NEAREST).convert(mode).save(file, "JPEG")
    return file.getvalue()


def make_files() -> dict[str, bytes]:
    """The content of the files by name: three classes, one training image of each in gray."""
    files = {
        "wnids.txt": "\n".join(WORDS).encode(),  # not sorted, as in the archive
        "words.txt": "\n".join(f"{key}\t{text}" for key, text in WORDS.items()).encode(),
        "test/images/test_0.JPEG": b"not to be read",
    }
    lines = []
    for place, name in enumerate(WORDS):
        files[f"train/{name}/{name}_boxes.txt"] = b"not to be read"
        for number in NUMBERS:
            content = jpeg(10 * place + number, "RGB" if number else "L")
            files[f"train/{name}/images/{name}_{number}.JPEG"] = content
        for number in (2 * place + 8, 2 * place + 9):
            files[f"val/images/val_{number}.JPEG"] = jpeg(100 + number)
            lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t63\t63")
    files["val/val_annotations.txt"] = "\n".join(reversed(lines)).encode()
    return files


def write_folder(directory: Path, files: dict[str, bytes]) -> Path:
    """The unpacked form."""
    for name, content in files.items():
        (directory / ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / ROOT / name).write_bytes(content)
    return directory / ROOT


def write_archive(directory: Path, files: dict[str, bytes], root: str = ROOT, **details) -> Path:
    """The packed form, the same bytes for the same files.

    `details` are written about each file whatever its content is.
    """
    path = directory / f"{ROOT}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            kind = zipfile.ZIP_STORED if name.endswith(".JPEG") else zipfile.ZIP_DEFLATED
            info = zipfile.ZipInfo(f"{root}/{name}")  # with a name alone, zipfile writes the time
            archive.writestr(info, content, kind)
            for key, value in details.items():
                setattr(info, key, value)
    return path
