"""Reads and writes files: whole or not at all, with one line for what goes wrong."""

import contextlib
import json
import math
import os
import re
from pathlib import Path

import numpy as np

from cljax.errors import UserError


@contextlib.contextmanager
def writing(path: str | os.PathLike):
    """Turns an OSError of the block into a UserError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def plain(value):
    """`value` as JSON can hold it: NumPy becomes Python, non-finite floats become None (null)."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replaces the file `path` as a whole: readers see the old content or the new, never half.

    Its folder is made if absent.

    Raises:
      UserError: it cannot be written; the old file is intact and nothing else is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json_atomically(path: str | os.PathLike, value) -> None:
    """Writes `value` as JSON: two spaces of indent, lists of numbers on one line, floats exact.

    Non-finite floats become null. Raises UserError as `write_atomically` does.
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # A JSON string holds no bare newline, so this can only match a list without strings inside.
    text = re.sub(r'\[\n[^][{}"]*\]', lambda match: _on_one_line(match.group()), text)
    write_atomically(path, (text + "\n").encode())


def _on_one_line(numbers: str) -> str:
    return "[" + " ".join(numbers[1:-1].split()) + "]"


def read_json(path: Path) -> dict:
    """A JSON file.

    Raises:
      UserError: it is absent, unreadable or no JSON.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; it is not a file of this program")
    return value


def user_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/cljax`, or `~/.cache/cljax`."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return user / "cljax"
