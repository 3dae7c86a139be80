"""Reads pickled CIFAR batches without running code that a pickle names."""

import math
import pickle
from typing import Any, BinaryIO

import numpy as np

# Where NumPy's arrays say that they come from, before and since NumPy 2.
_RECONSTRUCT = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def load(file: BinaryIO) -> Any:
    """Reads a pickle of arrays of bytes, strings, numbers, lists and dicts.

    Nothing that the pickle names is imported or called: the description of an array is read as
    data.

    Returns:
      The value; strings of Python 2 become bytes, arrays are uint8.

    Raises:
      ValueError: the pickle is damaged or holds anything else.
    """
    try:
        return _arrays(_PlainUnpickler(file, encoding="bytes").load())
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    except (MemoryError, RecursionError):
        raise ValueError("damaged or hostile: it asks for too much memory") from None
    except (AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"damaged: {type(error).__name__}: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        """Returns the stand-in for a part of an array, and refuses anything else."""
        if (module, name) in _RECONSTRUCT:
            return _Array
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}; expected only arrays, strings, numbers, lists and dicts"
        )

    def persistent_load(self, pid):
        """Refuses references to other files."""
        raise pickle.UnpicklingError("it refers to another file")


class _Dtype:
    """Stands for a dtype: its letter and width, such as "u1"."""

    def __init__(self, code, *_):
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state):
        """Does nothing: byte order does not matter to bytes."""


class _Array:
    """Stands for an array, until its shape, dtype and bytes are known."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        """Takes (version, shape, dtype, is in Fortran order, bytes)."""
        self.state = state

    def array(self) -> np.ndarray:
        """Returns the array; raises ValueError unless it is one of bytes."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("damaged: an array without its content")
        _, shape, dtype, fortran, content = self.state
        is_bytes = isinstance(dtype, _Dtype) and dtype.code == "u1"
        if not is_bytes or not isinstance(content, bytes):
            raise ValueError("an array is not of bytes")
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not sizes or math.prod(shape) != len(content):
            raise ValueError("damaged: an array's shape and content do not agree")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def _arrays(value):
    """`value` with arrays in the place of stand-ins, at its top and one level below."""
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, _Array):
        return value.array()
    return value
