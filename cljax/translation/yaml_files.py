"""Reads LibContinual's YAML files with their includes, and trusts none of them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cljax import files
from cljax.errors import UserError
from cljax.translation import shown

_LARGEST = 2**16  # bytes of a file; LibContinual's own have less than 2**12
_MOST_VALUES = 10_000  # of a file, counted after aliases (&name, *name) are replaced
_DEEPEST = 20  # levels
# Included by LibContinual's default.yaml, so that their values hold without the files.
DEFAULT_HEADERS = tuple(
    f"headers/{n}.yaml" for n in ["data", "device", "model", "optimizer", "test"]
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without merge keys, whose lists can grow without bound."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not supported", key.start_mark
                )


class Files(NamedTuple):
    """Holds the settings of a file and of those that it includes.

    Attributes:
      values: by key, without those of `headers`.
      headers: those of LibContinual's headers, its defaults, that no other file replaces.
      notes: a note for each include without effect.
    """

    values: dict[str, Any]
    headers: dict[str, Any]
    notes: list[str]


def read_with_includes(path: str | os.PathLike[str]) -> Files:
    """Reads a file and those that its key `includes` names, as LibContinual merges them.

    A key of the file replaces that of an included file, and a later included file replaces an
    earlier one; blocks are replaced as a whole. The headers come first. Included files are
    sought beside the file and, if it is in a directory `config`, there; they must be in that
    directory tree. The `includes` of an included file have no effect, as in LibContinual.

    Args:
      path: the file.

    Raises:
      UserError: a file is missing, too large, not YAML or not a mapping, or an include is outside
        of the directory tree or leads back to a file that includes it.
    """
    path = Path(path)
    own = _read(path)
    values, headers, notes = {}, {}, []
    for name in _includes(path, own):
        included = _find(path, name)
        if included is None and name in DEFAULT_HEADERS:
            notes.append(f"includes {name}: not found; LibContinual's own values are used")
            continue
        if included is None:
            raise UserError(
                f"{path}: includes {name}: no such file beside it or in its directory config; copy "
                "the file there, or remove the line"
            )
        inner = _read(included)
        further = _includes(included, inner)
        if path.resolve() in (included, *(_find(path, one) for one in further)):
            raise UserError(
                f"{path}: includes {name}: the files include each other in a circle; remove one of "
                "the lines"
            )
        notes += [f"{name} includes {one}: LibContinual does not follow it" for one in further]
        (headers if name in DEFAULT_HEADERS else values).update(inner)
    values |= own
    return Files(values, {k: v for k, v in headers.items() if k not in values}, notes)


def _includes(path: Path, values: dict[str, Any]) -> list[str]:
    """Removes the key `includes` and returns its value."""
    names = values.pop("includes", None) or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path}: includes={shown(names)}: must be a list of file names")
    return names


def _find(path: Path, name: str) -> Path | None:
    """Returns the file `name` that `path` or a file of it includes, or None if there is none."""
    for root in (path.parent, *(p for p in path.absolute().parents if p.name == "config")):
        try:
            found = (root / name).resolve()
            is_there = found.exists()
        except (OSError, ValueError) as error:  # a name that no path can have
            raise UserError(f"{path}: includes {shown(name)}: {error}") from error
        if not found.is_relative_to(root.resolve()):
            raise UserError(
                f"{path}: includes {name}: leads out of {root}; included files must be inside"
            )
        if is_there:
            return found
    return None


def _read(path: Path) -> dict[str, Any]:
    """Reads the mapping of one file."""
    with files.reading(path, "YAML"):
        with files.open_plain(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes, so it is no file of settings")
        values = _copy(_parse(content), [_MOST_VALUES], _DEEPEST)
        if not isinstance(values, dict):
            raise ValueError("no keys and values; each line must be KEY: VALUE")
        return values


def _parse(content: bytes) -> Any:
    try:
        return yaml.load(content, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}{error.problem or error.context}") from error
    except (RecursionError, TypeError, AttributeError, OverflowError, yaml.YAMLError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(reason) from error


def _copy(value: Any, left: list[int], levels: int) -> Any:
    """Copies lists and mappings, so that aliases become values of their own, within the bounds."""
    left[0] -= 1
    if left[0] < 0 or levels < 0:
        raise ValueError("too many values, or nested too deeply")
    if isinstance(value, dict):
        return {str(k): _copy(v, left, levels - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item, left, levels - 1) for item in value]
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError("a number of more than 64 bits")
    return value
