"""Reads files of `torch.save` without PyTorch, to check what the program writes."""

import pickle
import zipfile
from pathlib import Path

import numpy as np


class Reader(pickle.Unpickler):
    """Reads a file of torch.load, which reads the same few names, without PyTorch."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        def rebuild(storage, offset, shape, strides, grad, hooks):
            array = storage[offset:].reshape(shape)
            assert array.strides == tuple(4 * stride for stride in strides)
            return array

        return {
            "torch._utils._rebuild_tensor_v2": rebuild,
            "torch.FloatStorage": "<f4",
            "collections.OrderedDict": dict,
        }[f"{module}.{name}"]

    def persistent_load(self, pid):
        kind, dtype, key, device, count = pid
        assert (kind, device) == ("storage", "cpu")
        array = np.frombuffer(self.archive.read(f"{self.root}/data/{key}"), dtype)
        assert len(array) == count
        return array


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a state dict."""
    with zipfile.ZipFile(path) as archive:
        assert archive.read(f"{path.stem}/version") == b"3\n"
        assert archive.read(f"{path.stem}/byteorder") == b"little"
        return Reader(archive, path.stem).load()
