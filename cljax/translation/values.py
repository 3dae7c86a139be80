"""Reads values of LibContinual's settings one by one, with an error that names the key."""

import contextlib
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from cljax.errors import UserError
from cljax.translation import hint, shown


class Values:
    """Reads a mapping of settings and collects notes.

    Attributes:
      given: the settings by key.
      all: the same with `defaults` for keys that are absent.
      where: begins messages, such as the file's name.
      notes: those so far.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self.given, self.all, self.where = given, {**defaults, **given}, where
        self.notes: list[str] = []

    def fail(self, key: str, value: object, what: str) -> NoReturn:
        """Raises a UserError about a value."""
        raise UserError(f"{self.where}: {key}={shown(value)}: {what}")

    def note(self, key: str, value: object, what: str) -> None:
        """Adds a note about a value."""
        self.notes.append(f"{key}={shown(value)}: {what}")

    def check_keys(self, prefix: str, values: Mapping[str, Any], known: Collection[str]) -> None:
        """Checks that all keys are known; `prefix` stands before them in the message."""
        for key, value in values.items():
            if key not in known:
                self.fail(prefix + key, value, f"unknown key; {hint(key, known)}")

    def choice(self, key: str, value: object, known: Collection[str], what: str) -> str:
        """Returns `value` if it is one of the known names of `what`."""
        if value not in known:
            self.fail(key, value, f"unknown {what}; {hint(value, known)}")
        return str(value)

    def number(
        self, prefix: str, values: Mapping[str, Any], key: str, kind: type = int, least: int = 0
    ) -> Any:
        """Returns a number of at least `least`; text such as 5e-4 is a number too."""
        value = values.get(key)
        if value is None:
            raise UserError(f"{self.where}: {prefix}{key} is missing; add it")
        number: Any = math.nan
        with contextlib.suppress(ValueError):
            number = kind(value) if isinstance(value, str) else value
        is_number = type(number) in (int, float) and math.isfinite(number) and number >= least
        if not is_number or kind(number) != number:
            what = "whole number" if kind is int else "number"
            self.fail(prefix + key, value, f"must be a {what} from {least} on")
        return kind(number)

    def block(self, key: str) -> tuple[str, dict[str, Any]]:
        """Returns the name of a block and its kwargs."""
        block = self.all.get(key)
        if block is None:
            raise UserError(f"{self.where}: {key} is missing; add this block, with name and kwargs")
        if not isinstance(block, dict):
            self.fail(key, block, "must be a block with name and kwargs")
        self.check_keys(f"{key}.", block, ("name", "kwargs"))
        return str(block.get("name")), self.mapping(f"{key}.kwargs", block.get("kwargs"))

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        """Returns a mapping, which may be absent."""
        if value is not None and not isinstance(value, dict):
            self.fail(key, value, "must be a block")
        return value or {}
