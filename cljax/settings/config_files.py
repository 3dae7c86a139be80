"""Finds and loads config files: the program's own by name, others by path."""

import difflib
import importlib.util
import os
import runpy
import sys
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from cljax.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# The installed program has its configs inside the package, a checkout next to it.
_INSIDE = _PACKAGE / "configs"
FOLDER = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent / "configs"
# Configs that read the settings of other programs: "libcontinual:FILE.yaml".
_READERS = ("dfcil", "libcontinual")


def names() -> list[str]:
    """Returns the names of the program's configs, such as "abd_cifar100", in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("[a-z]*_*.py"))


def find(config: str) -> str:
    """Returns the path of a config file.

    Args:
      config: name of one of the program's configs, or path of any file. If there is no file
        `configs/NAME.py`, this path means the program's config of that name, so commands of the
        docs work in any directory.

    Raises:
      UserError: there is no such config.
    """
    path = Path(config)
    known = [*names(), *_READERS]
    if config in known:
        return str(FOLDER / f"{config}.py")
    if os.path.isfile(path):
        return config
    if path.parent == Path("configs") and path.suffix == ".py" and path.stem in known:
        return str(FOLDER / path.name)
    what = "file" if path.suffix or path.name != config else "config"
    near = difflib.get_close_matches(path.stem, known)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise UserError(f"--config={config}: no such {what}; {hint}--help lists the configs by name")


def make_importable() -> None:
    """Lets `from configs import common` import the program's configs, whatever sys.path is."""
    if str(FOLDER) in getattr(sys.modules.get("configs"), "__path__", ()):
        return
    spec = importlib.util.spec_from_file_location(
        "configs", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["configs"])


def load(config: str) -> ConfigDict:
    """Calls get_config() of a config file and returns the result.

    Args:
      config: name or path as for `find`; in "CONFIG:ARGUMENT", get_config() gets the argument.

    Raises:
      UserError: there is no such config, or its file is wrong.
    """
    config, colon, argument = config.partition(":")
    path = find(config)
    if Path(path).suffix != ".py":
        libcontinual = ", or --config=libcontinual:FILE for LibContinual's"
        raise UserError(
            f"--config={path}: a config is a Python file; write one whose get_config() reads this "
            f"file, or use --flagfile{libcontinual if path.endswith(('.yaml', '.yml')) else ''}"
        )
    make_importable()
    try:
        get_config = runpy.run_path(path).get("get_config")
        if get_config is None:
            raise UserError(f"--config={path}: the file must define a function get_config()")
        result = get_config(argument) if colon else get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--config={path}: {error}") from error
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        where = f" line {lines[-1]}" if lines else ""
        message = f"--config={path}{where}: {type(error).__name__}: {error}"
        raise UserError(message) from error
    if not isinstance(result, ConfigDict):
        kind = type(result).__name__
        raise UserError(f"--config={path}: get_config() must return a ConfigDict, not {kind}")
    return result


def default_workdir(config: str) -> str:
    """Returns the workdir of a run without --workdir: runs/NAME.

    Args:
      config: path of a config file, or "CONFIG:ARGUMENT". A function default_workdir() of the file
        gets the argument, and may return another workdir or None.

    Raises:
      UserError: the argument is wrong.
    """
    path, colon, argument = config.partition(":")
    make_importable()
    function = runpy.run_path(path).get("default_workdir") if colon else None
    own = function(argument) if function else None
    return own or str(Path("runs") / Path(path).stem)
