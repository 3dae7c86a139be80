"""Writes files that PyTorch's `torch.load` reads, without PyTorch."""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cljax.files import StrPath, replacing

_DATE = (1980, 1, 1, 0, 0, 0)  # so that equal arrays give equal files


def write_pth(path: StrPath, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as `torch.save` does, for `torch.load(path, weights_only=True)`.

    Args:
      path: the file.
      state_dict: arrays float32 by name.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in state_dict.items()}
    root = Path(path).stem
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        parts = {"data.pkl": _pickle(arrays), "byteorder": b"little"}
        parts |= {f"data/{number}": array.data for number, array in enumerate(arrays.values())}
        for name, content in (parts | {"version": b"3\n"}).items():
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}", _DATE), content)


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pickles a dictionary of PyTorch's tensors, whose storages are data/0, data/1, ..."""
    items = (
        _text(name) + _tensor(str(number), array)
        for number, (name, array) in enumerate(arrays.items())
    )
    begin = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK
    return begin + b"".join(items) + pickle.SETITEMS + pickle.STOP


def _tensor(storage: str, array: np.ndarray) -> bytes:
    storage_id = (_text("storage"), _global("torch", "FloatStorage"), _text(storage), _text("cpu"))
    strides = [stride // array.itemsize for stride in array.strides]
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = (
        _tuple(*storage_id, _whole(array.size)) + pickle.BINPERSID,
        _whole(0),
        _tuple(*map(_whole, array.shape)),
        _tuple(*map(_whole, strides)),
        pickle.NEWFALSE,  # needs no gradient
        hooks,
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(*arguments) + pickle.REDUCE


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


def _whole(number: int) -> bytes:
    return pickle.BININT + struct.pack("<i", number)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
