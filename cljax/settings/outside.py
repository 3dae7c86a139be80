"""Imports classes outside cljax that a setting names as MODULE:CLASS."""

import importlib
import os
import sys
import traceback
from types import ModuleType

from cljax.errors import UserError


def find_outside(key: str, name: str, base: type, what: str) -> type:
    """Finds a class outside cljax, in the installed packages or in the current directory.

    Args:
      key: the setting, such as "method.name".
      name: its value, "package.module:Class".
      base: class that it must inherit.
      what: what it must be, with article, for messages.

    Raises:
      UserError: there is no such class, it cannot be imported, or it does not inherit `base`.
    """
    where = f"config.{key}={name}"
    module_name, class_name = name.split(":", 1)
    cls = getattr(_import(where, module_name), class_name, None)
    if cls is None:
        raise UserError(
            f"{where}: {module_name} has no class {class_name!r}; check the name after the colon"
        )
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(
            f"{where}: {class_name} is not {what}; inherit {base.__module__}.{base.__qualname__}"
        )
    return cls


def _import(where: str, name: str) -> ModuleType:
    """Imports a module; turns its errors into a `UserError` that starts with `where`."""
    # `python main.py` puts the directory of main.py on the path, not the current directory.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise UserError(
                f"{where}: there is no module {missing!r}, neither installed nor in {os.getcwd()}; "
                "install it, or run from the directory that has it"
            ) from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        # The text of a syntax error already names the file and the line.
        place = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
        raise UserError(
            f"{where}: importing {name} raised {type(error).__name__}: {error}{place}"
        ) from error
