"""Translates the settings of other programs: LibContinual's files, the ABD code's options."""

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

from cljax.errors import printable


class Translation(NamedTuple):
    """Holds what the settings of another program are in cljax.

    Attributes:
      method: value of config.method.name.
      own: the method's own settings.
      data: value of config.data.name.
      settings: all other values, by dotted config key.
      notes: a line for each setting without a counterpart, and for each choice made.
    """

    method: str
    own: dict[str, Any]
    data: str
    settings: dict[str, Any]
    notes: list[str]


def hint(wrong: object, known: Iterable[str]) -> str:
    """Returns what to write instead of an unknown name: the nearest known ones, or all."""
    known = sorted(known)
    near = difflib.get_close_matches(str(wrong), known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


def shown(value: object) -> str:
    """Returns a value as messages show it: on one line, shortened."""
    text = printable(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def split_classes(num_classes: int, sizes: list[int]) -> dict[str, Any]:
    """Returns the settings of tasks of some sizes, which have at most `num_classes` in all.

    Args:
      num_classes: K of the dataset.
      sizes: number of classes of each task; not empty.
    """
    first, later = sizes[0], sizes[1:]
    if sum(sizes) < num_classes or len(set(later)) > 1:
        return {"task_sizes": tuple(sizes)}
    is_larger = bool(later) and first != later[0]
    return {"num_tasks": len(sizes), "first_task_size": first if is_larger else 0}
