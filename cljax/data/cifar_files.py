"""Reads the files of CIFAR-10 and CIFAR-100 as their authors distribute them."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cljax.data import plain_pickle
from cljax.data.download import RemoteFile
from cljax.files import reading

_SITE = "https://www.cs.toronto.edu/~kriz"
SIDE = 32
_PIXELS = 3 * SIDE * SIDE
_MAX_BYTES = 2**29  # of a file; the largest, a pickle of CIFAR-100, has 155 MB


@dataclass(frozen=True)
class Form:
    """Describes a form in which the authors distribute a dataset.

    Attributes:
      folders: names of the unpacked folder, that of the archive first.
      archive: name of the archive.
      train: files of training images, in order.
      test: file of test images.
      names: file of the class names.
      label: in the binary form, the position of the class among the label bytes of an image; in the
        pickled form, the key of the labels.
    """

    folders: tuple[str, ...]
    archive: str
    train: tuple[str, ...]
    test: str
    names: str
    label: int | bytes

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that are read."""
        return (*self.train, self.test, self.names)

    @property
    def is_binary(self) -> bool:
        """Whether the files are records of bytes, not pickles."""
        return isinstance(self.label, int)


@dataclass(frozen=True)
class Cifar:
    """Describes a CIFAR dataset: what its files must hold, and where they come from.

    Attributes:
      num_classes: K.
      num_train, num_test: numbers of images.
      remote: the binary archive, with the address and sum that TFDS uses.
      binary, pickled: the two forms; the binary one is preferred.
    """

    num_classes: int
    num_train: int
    num_test: int
    remote: RemoteFile
    binary: Form
    pickled: Form


CIFAR = {
    "cifar10": Cifar(
        num_classes=10,
        num_train=50_000,
        num_test=10_000,
        remote=RemoteFile(
            url=f"{_SITE}/cifar-10-binary.tar.gz",
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        binary=Form(
            folders=("cifar-10-batches-bin", "cifar-10-binary"),
            archive="cifar-10-binary.tar.gz",
            train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test="test_batch.bin",
            names="batches.meta.txt",
            label=0,
        ),
        pickled=Form(
            folders=("cifar-10-batches-py",),
            archive="cifar-10-python.tar.gz",
            train=tuple(f"data_batch_{i}" for i in range(1, 6)),
            test="test_batch",
            names="batches.meta",
            label=b"labels",
        ),
    ),
    "cifar100": Cifar(
        num_classes=100,
        num_train=50_000,
        num_test=10_000,
        remote=RemoteFile(
            url=f"{_SITE}/cifar-100-binary.tar.gz",
            size=168_513_733,
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
        binary=Form(
            folders=("cifar-100-binary",),
            archive="cifar-100-binary.tar.gz",
            train=("train.bin",),
            test="test.bin",
            names="fine_label_names.txt",
            label=1,  # after the superclass
        ),
        pickled=Form(
            folders=("cifar-100-python",),
            archive="cifar-100-python.tar.gz",
            train=("train",),
            test="test",
            names="meta",
            label=b"fine_labels",
        ),
    ),
}


def read(cifar: Cifar, form: Form, path: Path) -> dict[str, np.ndarray]:
    """Reads an archive or an unpacked folder, in the order of the files.

    Args:
      cifar: the dataset.
      form: its form at `path`.
      path: the archive or the folder.

    Returns:
      Arrays by name. train_images, test_images: uint8 [N, 32, 32, 3]; train_labels, test_labels:
      int32 [N]; names: str [K].

    Raises:
      UserError: a file is missing, unreadable or damaged.
    """
    with reading(path, "CIFAR"):
        contents = _read_folder(form, path) if path.is_dir() else _read_archive(form, path)
        decode = _decode_records if form.is_binary else _decode_pickle
        per_file = cifar.num_train // len(form.train)
        parts = [decode(cifar, form, contents, file, per_file) for file in form.train]
        train, train_labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        test, test_labels = decode(cifar, form, contents, form.test, cifar.num_test)
        names = np.array(_decode_names(cifar, form, contents[form.names]))
    return {
        "train_images": train,
        "train_labels": train_labels,
        "test_images": test,
        "test_labels": test_labels,
        "names": names,
    }


def _read_folder(form: Form, folder: Path) -> dict[str, bytes]:
    contents = {}
    for file in form.files:
        with (folder / file).open("rb") as opened:
            contents[file] = opened.read(_MAX_BYTES)
    return contents


def _read_archive(form: Form, path: Path) -> dict[str, bytes]:
    """The content of the form's files; nothing is written, whatever names the archive holds."""
    wanted = {f"{folder}/{file}": file for folder in form.folders for file in form.files}
    contents, total = {}, 0
    with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked) as archive:
        for member in archive:  # in one pass: going back would unpack it again
            total += member.size
            if total > 4 * _MAX_BYTES:
                raise ValueError("it unpacks to more bytes than CIFAR has")
            file = wanted.get(member.name.removeprefix("./"))
            if file and member.isfile():
                opened = archive.extractfile(member)
                assert opened is not None  # a regular file
                contents[file] = opened.read(_MAX_BYTES)
        unpacked.seek(4 * _MAX_BYTES)  # to the end, where gzip checks its sum
    if missing := [file for file in form.files if file not in contents]:
        raise ValueError(f"it does not hold {form.folders[0]}/{missing[0]}")
    return contents


def _decode_records(cifar: Cifar, form: Form, contents: Mapping[str, bytes], file: str, count: int):
    """Images and labels of a binary file, whose records are label bytes and then pixels."""
    assert isinstance(form.label, int)
    size = form.label + 1 + _PIXELS
    if len(contents[file]) != count * size:
        raise ValueError(f"{file} has {len(contents[file]):,} bytes; expected {count * size:,}")
    records = np.frombuffer(contents[file], np.uint8).reshape(count, size)
    return _checked(cifar, file, records[:, form.label + 1 :], records[:, form.label])


def _decode_pickle(cifar: Cifar, form: Form, contents: Mapping[str, bytes], file: str, count: int):
    """Images and labels of a pickled file."""
    batch = _load_dict(contents[file], file)
    pixels, labels = batch.get(b"data"), batch.get(form.label)
    if not isinstance(pixels, np.ndarray) or pixels.shape != (count, _PIXELS):
        raise ValueError(f"{file} does not hold {count} images of {_PIXELS} bytes")
    if not isinstance(labels, list) or len(labels) != count or {*map(type, labels)} != {int}:
        raise ValueError(f"{file} does not hold {count} labels")
    return _checked(cifar, file, pixels, np.array(labels, np.int64))


def _load_dict(content: bytes, file: str) -> dict[Any, Any]:
    value = plain_pickle.load(io.BytesIO(content))
    if not isinstance(value, dict):
        raise ValueError(f"{file} does not hold a dict")
    return value


def _checked(cifar: Cifar, file: str, pixels: np.ndarray, labels: np.ndarray):
    """uint8 [N, 32, 32, 3] from planes of red, green and blue, and int32 [N]."""
    outside = labels[(labels < 0) | (labels >= cifar.num_classes)]
    if outside.size:
        raise ValueError(f"{file} holds label {outside[0]}; expected 0 to {cifar.num_classes - 1}")
    planes = pixels.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.astype(np.int32)


def _decode_names(cifar: Cifar, form: Form, content: bytes) -> list[str]:
    if isinstance(form.label, bytes):
        names = _load_dict(content, form.names).get(form.label.replace(b"labels", b"label_names"))
    else:
        names = content.split()
    names = [name for name in names if isinstance(name, bytes)] if isinstance(names, list) else []
    if len(names) != cifar.num_classes:
        raise ValueError(f"{form.names} does not hold {cifar.num_classes} class names")
    return [name.decode() for name in names]
