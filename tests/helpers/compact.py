"""Writes and reads a compact golden set: one zip archive with the arrays of many files.

Members of an archive:

- `index.json`: for each array its file, name, dtype, shape and CRC-32, in stored order.
- `SIZE.PLANE`: byte PLANE (0 is the lowest) of every array element of SIZE bytes, in that order.
  Bytes of equal significance resemble each other, so that they compress better.
- all other members: text files as they are.

A float is stored as its distance from `golden_predictions.predict`, in floats that lie between
the two. So a prediction saves space, and no number depends on how good it is.
"""

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tests.helpers.golden_predictions import predict

_DATE = (2000, 1, 1, 0, 0, 0)  # the same arrays give the same archive


def write(path: Path, files: dict[str, dict[str, np.ndarray]], texts: dict[str, bytes]) -> None:
    """Writes an archive.

    Args:
      path: the archive.
      files: arrays by file and name, in an order in which predictions follow what they need.
      texts: contents of text files by name.
    """
    index, words, seen = [], {}, {}
    for file, arrays in files.items():
        seen[file] = {}
        for name, array in arrays.items():
            index.append([file, name, array.dtype.str, array.shape, zlib.crc32(array.tobytes())])
            coded = _encode(array, _prediction(path.stem, file, name, array, seen))
            words.setdefault(coded.itemsize, []).append(coded)
            seen[file][name] = array
    members = {"index.json": json.dumps(index).encode()} | texts
    for size, parts in words.items():
        planes = np.concatenate(parts).view(np.uint8).reshape(-1, size)
        members |= {f"{size}.{i}": planes[:, i].tobytes() for i in range(size)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_LZMA)


def read(path: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, bytes]]:
    """Reads an archive.

    Returns:
      Arrays by file and name, and contents of text files by name.

    Raises:
      ValueError: an array differs from the one that was written.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    words = {}
    for size in (1, 2, 4, 8):
        planes = [members.pop(f"{size}.{i}", b"") for i in range(size)]
        planes = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], 1)
        words[size] = np.ascontiguousarray(planes).view(f"<u{size}")[:, 0]
    files = {}
    for file, name, dtype, shape, crc in json.loads(members.pop("index.json")):
        files.setdefault(file, {})
        array = np.empty(shape, dtype)
        size = _word(array.dtype)
        count = array.nbytes // size
        coded, words[size] = words[size][:count], words[size][count:]
        array = _decode(coded, array, _prediction(path.stem, file, name, array, files))
        if zlib.crc32(array.tobytes()) != crc:
            raise ValueError(f"{path}: {file}/{name} differs from the array that was written")
        files[file][name] = array
    return files, members


def expand(path: Path, folder: Path) -> None:
    """Writes the files of an archive into a directory: FILE.npz, and the text files."""
    files, texts = read(path)
    folder.mkdir(parents=True, exist_ok=True)
    for file, arrays in files.items():
        np.savez(folder / f"{file}.npz", **arrays)
    for name, content in texts.items():
        (folder / name).write_bytes(content)


def _word(dtype):
    return 4 if dtype.kind == "U" else dtype.itemsize


def _prediction(folder, file, name, array, files):
    found = predict(folder, file, name, files) if array.dtype.kind == "f" else None
    return np.zeros(array.shape, array.dtype) if found is None else found.astype(array.dtype)


def _ordered(bits):
    """Signed integers of a float's bits that rise with the float; the inverse of itself."""
    info = np.iinfo(bits.dtype)
    return bits ^ ((bits >> (info.bits - 1)) & info.max)


def _encode(array, prediction):
    bits = np.ascontiguousarray(array).reshape(-1).view(f"<i{_word(array.dtype)}")
    if array.dtype.kind == "f":
        away = _ordered(bits) - _ordered(prediction.reshape(-1).view(bits.dtype))
        # The sign goes last, so that small distances have low bits only.
        bits = (away << 1) ^ (away >> (np.iinfo(bits.dtype).bits - 1))
    return bits.view(f"<u{bits.itemsize}")


def _decode(coded, like, prediction):
    bits = coded.view(f"<i{coded.itemsize}")
    if like.dtype.kind == "f":
        away = (coded >> 1).view(bits.dtype) ^ -(bits & 1)
        bits = _ordered(away + _ordered(prediction.reshape(-1).view(bits.dtype)))
    return bits.view(like.dtype).reshape(like.shape)
