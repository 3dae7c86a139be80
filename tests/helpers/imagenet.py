"""Tiny forms of ImageNet: class folders, the archives of its authors, and a set of TFDS."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.io
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

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


def prepare(folders: Path, root: Path) -> Path:
    """Writes the images of class folders as TFDS prepares them, shuffled; returns the data_dir."""
    folder, splits = root / "imagenet2012" / "5.1.0", []
    folder.mkdir(parents=True)
    for name, split in (("train", "train"), ("validation", "val")):
        images = sorted((folders / split).glob("*/*"))
        images = [images[i] for i in np.random.default_rng(1).permutation(len(images))]
        path = folder / f"imagenet2012-{name}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image in images:
            example = tf_example_pb2.Example()
            features = example.features.feature
            features["image"].bytes_list.value.append(image.read_bytes())
            features["file_name"].bytes_list.value.append(image.name.encode())
            features["label"].int64_list.value.append(all_classes().index(image.parent.name))
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(len(images))]
        splits.append({"name": name, "filepathTemplate": template, "shardLengths": lengths})
    info = {"name": "imagenet2012", "version": "5.1.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps(info | {"splits": splits}))
    (folder / "label.labels.txt").write_text("\n".join(all_classes()))
    kinds = {
        "image": ("image_feature.Image", {"image": {"encodingFormat": "jpeg", "dtype": "uint8"}}),
        "label": ("class_label_feature.ClassLabel", {"classLabel": {"numClasses": "1000"}}),
        "file_name": ("text_feature.Text", {"text": {}}),
    }
    module = "tensorflow_datasets.core.features"
    features = {k: {"pythonClassName": f"{module}.{c}", **v} for k, (c, v) in kinds.items()}
    features["image"]["image"]["shape"] = {"dimensions": ["-1", "-1", "3"]}
    description = {
        "featuresDict": {"features": features},
        "pythonClassName": f"{module}.features_dict.FeaturesDict",
    }
    (folder / "features.json").write_text(json.dumps(description))
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
