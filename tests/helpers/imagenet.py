"""Tiny forms of ImageNet: class folders, and the archives of its authors."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from cljax.data.imagenet import all_classes, choose
from cljax.data.imagenet_files import ARCHIVES, DEVKIT


def make_folders(
    root: Path, name: str = "imagenet50", sources: Iterable[Path] = (), per_class: int = 2
) -> Path:
    """Writes train/CLASS/IMAGE and val/CLASS/IMAGE for the classes of a dataset.

    Args:
      root: the folder to make.
      name: see `choose`.
      sources: images that are linked in turn; without them images of noise are made.
      per_class: training images of each class; it has one validation image.
    """
    sources, generator = list(sources), np.random.default_rng(0)
    for number, wordnet_id in enumerate(choose(name).used):
        names = [f"train/{wordnet_id}/{wordnet_id}_{i}.JPEG" for i in range(per_class)]
        names.append(f"val/{wordnet_id}/ILSVRC2012_val_{number + 1:08}.JPEG")
        for place, file in enumerate(names):
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if sources:
                path.symlink_to(sources[(number + place) % len(sources)])
            else:
                size = *generator.integers(9, 40, 2), 3
                Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(path)
    return root


def pack(folders: Path, root: Path) -> Path:
    """Writes the official archives with the images of class folders, in another order."""
    root.mkdir()
    with tarfile.open(root / ARCHIVES["train"], "w") as outer:
        for folder in sorted((folders / "train").iterdir(), reverse=True):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for image in sorted(folder.iterdir(), reverse=True):
                    archive.add(image.resolve(), image.name)
            add(outer, f"{folder.name}.tar", inner.getvalue())
    images = sorted((folders / "val").glob("*/*"), key=lambda image: image.name)
    with tarfile.open(root / ARCHIVES["val"], "w") as archive:
        for image in images:
            archive.add(image.resolve(), image.name)
    write_devkit(root, [image.parent.name for image in images])
    return root


def write_devkit(root: Path, answers: list[str]) -> None:
    """Writes the development kit, whose numbers are not in the order of the WordNet ids."""
    numbers = {name: 1 + 7 * label % 1000 for label, name in enumerate(all_classes())}
    synsets = np.array(
        [(number, name, "words") for name, number in numbers.items()],
        [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)],
    )
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets[:, None]})
    lines = "".join(f"{numbers[name]}\n" for name in answers)
    folder = "ILSVRC2012_devkit_t12/data"
    with tarfile.open(root / DEVKIT, "w:gz") as kit:
        add(kit, f"{folder}/meta.mat", meta.getvalue())
        add(kit, f"{folder}/ILSVRC2012_validation_ground_truth.txt", lines.encode())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file to an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
