"""Reads and writes files of weights: named arrays in .safetensors or .npz, never pickles."""

import contextlib
import functools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cljax.errors import UserError
from cljax.files import StrPath, array_header, open_plain, read_array, replacing
from cljax.state import PyTree


class Tensor(NamedTuple):
    """Describes a tensor of a file, whose values are not read yet.

    Attributes:
      shape: its shape, as the file claims.
      read: () -> its values.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def write_weights(path: StrPath, tree: PyTree) -> None:
    """Writes arrays to a file, as a whole or not at all.

    Args:
      path: its ending, .safetensors or .npz, says the form.
      tree: variables of a network, whose names become "params.backbone.conv1.kernel" and so on, or
        a state dict.

    Raises:
      UserError: the ending is another, or the file cannot be written.
    """
    flat = traverse_util.flatten_dict(tree, sep=".")
    arrays: dict[str, Any] = {name: np.asarray(array, order="C") for name, array in flat.items()}
    match Path(path).suffix:
        case ".safetensors":
            with replacing(path) as file:
                file.write(save(arrays))
        case ".npz":
            with replacing(path) as file:
                np.savez(file, **arrays)
        case _:
            raise UserError(_wrong_ending(path))


@contextlib.contextmanager
def open_weights(path: StrPath) -> Iterator[dict[str, Tensor]]:
    """Opens a file of weights; yields its tensors by name.

    Shapes come from the file's headers, so a file that claims too much takes no memory.

    Raises:
      UserError: the file is absent, of another form or damaged; also while it is read.
    """
    readers = {".safetensors": _open_safetensors, ".npz": _open_npz}
    if (suffix := Path(path).suffix) not in readers:
        raise UserError(_wrong_ending(path))
    try:
        with open_plain(path) as file, readers[suffix](path, file) as tensors:
            yield tensors
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror or error}") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a {suffix} file of plain arrays: {reason}") from error


@contextlib.contextmanager
def _open_safetensors(path, file):
    with safe_open(path, framework="np") as content:

        def read(name):
            try:
                return content.get_tensor(name)
            except (AttributeError, KeyError) as error:
                kind = content.get_slice(name).get_dtype()
                raise ValueError(f"{name} is {kind}, which is not read") from error

        yield {
            name: Tensor(tuple(content.get_slice(name).get_shape()), functools.partial(read, name))
            for name in content.keys()  # noqa: SIM118  # it is not a mapping
        }


@contextlib.contextmanager
def _open_npz(path, file):
    with zipfile.ZipFile(file) as archive:

        def read(member):
            with archive.open(member) as array:
                return read_array(array, member.file_size)

        tensors = {}
        for member in archive.infolist():
            with archive.open(member) as array:
                shape, _ = array_header(array)
            name = member.filename.removesuffix(".npy")
            tensors[name] = Tensor(shape, functools.partial(read, member))
        yield tensors


# What decoders of the two forms raise; that of zip files has no error class of its own.
_DAMAGE = (
    SafetensorError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
)


def _wrong_ending(path):
    return f"{path}: must end with .safetensors or .npz; pickles such as .pt and .pth are not read"
