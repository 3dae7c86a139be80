"""Reads and writes files: whole or not at all, with a one-line error if that fails."""

import contextlib
import errno
import fcntl
import json
import logging
import math
import operator
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, ValidationError

from cljax.errors import UserError

StrPath = str | os.PathLike[str]
_DEEPEST = 100  # levels of JSON; functions that walk through it call themselves
_LEAVES = (str, int, float, type(None))  # bool is an int


@contextlib.contextmanager
def writing(path: StrPath) -> Iterator[None]:
    """Turns an OSError of the block into a UserError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def reading(path: StrPath, form: str) -> Iterator[None]:
    """Turns what an unreadable or damaged file raises in the block into a UserError.

    Args:
      path: the file.
      form: what it should be, such as "CIFAR".
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read {error.filename or path}: {reason}") from error
    except (
        EOFError,
        NotImplementedError,
        ValueError,
        struct.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {path} as {form}: {reason}") from error


def plain(value: Any) -> Any:
    """Converts a value to JSON's types: NumPy to Python, non-finite floats to None (null)."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[IO[bytes]]:
    """Opens a file that replaces `path` as a whole when the block ends without an error.

    Readers see the old content or the new, never half. The directory of `path` is made if absent.

    Raises:
      UserError: the file cannot be written; the old file is intact and nothing else is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: StrPath, content: bytes) -> None:
    """Writes bytes to the file `path` as `replacing` does.

    Raises:
      UserError: the file cannot be written.
    """
    with replacing(path) as file:
        file.write(content)


def write_json_atomically(path: StrPath, value: Any) -> None:
    """Writes `value` as JSON: two spaces of indent, lists of numbers on one line, floats exact.

    Non-finite floats become null.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # No JSON string contains a bare newline, so this matches only lists without strings inside.
    text = re.sub(r'\[\n[^][{}"]*\]', lambda match: _on_one_line(match.group()), text)
    # A lone surrogate, of a path that is not UTF-8, becomes JSON's own escape.
    write_atomically(path, (text + "\n").encode(errors="backslashreplace"))


def _on_one_line(numbers: str) -> str:
    return "[" + " ".join(numbers[1:-1].split()) + "]"


def parse_json(text: str | bytes) -> Any:
    """Parses JSON as the standard has it, so without NaN and Infinity.

    Raises:
      ValueError: it is not JSON, a number is too large for a float, or it is nested too deeply.
    """
    try:
        value = json.loads(
            text,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=lambda digits: _finite(digits, int),
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(_DEEPEST):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for values in inner if not isinstance(values, _LEAVES) for v in values]
    if level:
        raise ValueError("nested too deeply")
    return value


def _finite(text: str, kind: type = float) -> Any:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return kind(text)


class Record(BaseModel):
    """Base of models of what a JSON file must hold to be read; other entries may be there."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


def check_record(kind: type[Record], value: Any) -> None:
    """Checks parsed JSON; raises ValueError, which names the first entry that is wrong."""
    try:
        kind.model_validate(value)
    except ValidationError as error:
        found = error.errors()[0]
        *_, last = place = found["loc"] or ("it",)
        if found["type"] == "missing":
            raise ValueError(f"no {last!r}") from None
        name = ".".join(map(str, place))
        raise ValueError(f"{name}: {found['msg'][:1].lower()}{found['msg'][1:]}") from None


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Reads shape and dtype of an array as `numpy.save` writes it; `file` is at its start.

    Raises:
      ValueError: the header is damaged, or the array holds objects.
    """
    try:
        version = npy.read_magic(file)
        headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in headers:
            raise ValueError(f"version {version} of the format is not one of plain arrays")
        shape, _, dtype = headers[version](file)
        if dtype.hasobject:
            raise ValueError("it holds objects")
        return tuple(map(operator.index, shape)), dtype
    except (OSError, ValueError):
        raise
    except Exception as error:  # NumPy's parser of headers shares no error class
        raise _damaged(error) from error


def read_array(file: IO[bytes], size: int) -> np.ndarray:
    """Reads an array as `numpy.save` writes it, without pickles and without trust in its header.

    Args:
      file: at its start; it can seek.
      size: bytes of the file, so that a header that claims terabytes takes no memory.

    Raises:
      ValueError: the array is damaged, holds objects, or does not fit into the memory.
    """
    shape, dtype = array_header(file)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > (found := size - file.tell()):
        raise ValueError(f"it has {found} of the {claimed} bytes of {dtype} {list(shape)}")
    file.seek(0)
    try:
        return npy.read_array(file, allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as error:  # of a decoder, or a lack of memory
        raise _damaged(error) from error


def _damaged(error: Exception) -> ValueError:
    return ValueError(f"damaged: {str(error) or type(error).__name__}")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      UserError: the file is absent or unreadable, or does not hold a JSON object.
    """
    try:
        with open_plain(path) as file:
            value = parse_json(file.read())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; this file was not written by cljax")
    return value


def open_lock(path: Path) -> IO[bytes]:
    """Opens a lock file for `lock`, and makes it if absent; its content stays as it is.

    Raises:
      UserError: the file cannot be opened, or is a symbolic link.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)

    with writing(path):
        try:
            return open(path, "r+b", buffering=0, opener=opener)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UserError(f"{path}: a lock must not be a symbolic link; remove it") from error


def lock(file: IO[bytes], wait: bool = False) -> bool:
    """Locks an open file until it is closed; returns False if another process has locked it.

    On a file system without locks it warns and returns True.

    Args:
      wait: whether to wait for the other process.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        logging.getLogger("cljax").warning(
            "cannot lock %s: %s; make sure yourself that no other process uses it",
            file.name,
            error.strerror or error,
        )
    return True


def expand(path: StrPath) -> Path:
    """Returns a path whose leading `~` is replaced by the home directory.

    Raises:
      UserError: there is no such home directory.
    """
    expanded = os.path.expanduser(path)
    if str(expanded).startswith("~"):
        raise UserError(f"{path}: the home directory is not known; write the path in full")
    return Path(expanded)


def user_cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/cljax`, or `~/.cache/cljax` if that is not an absolute path.

    Raises:
      UserError: the home directory is not known either.
    """
    for place in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(place):
            return Path(place) / "cljax"
    raise UserError("no home directory is known for a cache; set XDG_CACHE_HOME or HOME")


def check_private(folder: StrPath) -> Path:
    """Checks that only this user and root can change a folder, which may be absent.

    Nobody else may own or write to the folder or a parent. As for ssh, a parent with the sticky
    bit, such as /tmp, may be written by all: others cannot rename or remove what is in it.

    Returns:
      The folder without symbolic links, which others may change later.

    Raises:
      UserError: others can change the folder.
    """
    folder = Path(os.path.realpath(folder))
    for part in (folder, *folder.parents):
        try:
            status = part.stat()
        except OSError:
            continue  # absent; another error shows when it is used
        if status.st_uid not in (0, os.geteuid()):
            raise UserError(f"{folder} is not used, because {part} belongs to another user")
        is_sticky_parent = part != folder and status.st_mode & stat.S_ISVTX
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky_parent:
            raise UserError(
                f"{folder} is not used, because others can write to {part} (chmod go-w allows it)"
            )
    return folder


def private_folder(folder: StrPath) -> Path:
    """Makes a folder, and its parents, for this user only if absent; checks it by `check_private`.

    Returns:
      The folder without symbolic links.

    Raises:
      UserError: others can change the folder, or it cannot be made.
    """
    folder = check_private(folder)
    with writing(folder):
        for part in (*reversed(folder.parents), folder):
            if not part.exists():
                part.mkdir(mode=0o700, exist_ok=True)
    return check_private(folder)  # others may have made it, in /tmp


@contextlib.contextmanager
def open_plain(path: StrPath) -> Iterator[IO[bytes]]:
    """Opens a file to read it, and never waits for it, as opening a named pipe would.

    Raises:
      OSError: it cannot be opened, or is a pipe, a device or another file that is not plain.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        yield file
