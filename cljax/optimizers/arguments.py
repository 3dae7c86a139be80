"""Checks the arguments of an optimizer or schedule against the function that takes them."""

import inspect
from collections.abc import Callable, Collection, Mapping

from cljax.errors import UserError

Value = bool | int | float
Arguments = tuple[tuple[str, Value], ...]  # hashable, sorted by name

_WORDS = {bool: "True or False", int: "a whole number from 0 on", float: "a number"}


def check(
    given: Mapping[str, Value],
    function: Callable,
    what: str,
    key: str,
    own: Collection[str],
    optional: Collection[str] = (),
) -> Arguments:
    """Checks arguments that a user gives.

    Args:
      given: the arguments.
      function: what takes them.
      what: name of the optimizer or schedule, for messages.
      key: of the config, for messages.
      own: names of arguments that the program gives.
      optional: names of arguments that the program gives if the user does not.

    Raises:
      UserError: an argument is unknown, has the wrong type or is missing.
    """
    kinds, missing = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        is_required = parameter.default is inspect.Parameter.empty
        if name in own or not (is_required or type(parameter.default) in _WORDS):
            continue
        kinds[name] = next((k for k in (bool, int) if k in _types(parameter)), float)
        if is_required and name not in (*given, *optional):
            missing.append(name)
    for name, value in given.items():
        if name not in kinds:
            raise UserError(
                f"config.{key}: {what} has no argument {name!r}; it has "
                f"{', '.join(kinds) or 'none'}"
            )
        kind = kinds[name]
        is_such = type(value) is kind or (kind is float and type(value) is int)
        if not is_such or (kind is int and value < 0):
            raise UserError(f"config.{key}: {what}'s {name}={value!r} must be {_WORDS[kind]}")
    if missing:
        raise UserError(f"config.{key}: {what} also needs {', '.join(missing)}")
    return tuple(sorted(given.items()))


def _types(parameter):
    return parameter.annotation, type(parameter.default)
