"""Finds methods by name; imports the module of a method when a run needs it."""

import importlib
import os
import sys
import traceback
from types import ModuleType

from cljax.errors import UserError
from cljax.methods.base import Finetune

# name: (module, class)
METHODS = {
    "base": ("cljax.methods.base", "Finetune"),
    "oracle": ("cljax.methods.oracle", "JointTraining"),
    "lwf": ("cljax.methods.lwf", "LearningWithoutForgetting"),
    "lwf_mc": ("cljax.methods.icarl", "MultiClassLwF"),
    "deep_inversion": ("cljax.methods.deep_inversion", "DeepInversion"),
    "deep_inversion_lwf": ("cljax.methods.deep_inversion", "DeepInversionLwF"),
    "dgr": ("cljax.methods.dgr", "DeepGenerativeReplay"),
    "e2e": ("cljax.methods.e2e", "EndToEnd"),
    "bic": ("cljax.methods.bic", "BiC"),
    "icarl": ("cljax.methods.icarl", "ICaRL"),
    "wa": ("cljax.methods.wa", "WeightAligning"),
    "ewc": ("cljax.methods.ewc", "EWC"),
    "lucir": ("cljax.methods.lucir", "LUCIR"),
    "abd": ("cljax.methods.abd", "AlwaysBeDreaming"),
    "rdfcil": ("cljax.methods.rdfcil", "RDFCIL"),
    "libcontinual_lucir": ("cljax.methods.libcontinual", "LibContinualLUCIR"),
    "libcontinual_lwf": ("cljax.methods.libcontinual", "LibContinualLwF"),
    "libcontinual_icarl": ("cljax.methods.libcontinual", "LibContinualICaRL"),
    "libcontinual_wa": ("cljax.methods.libcontinual", "LibContinualWA"),
    "libcontinual_ewc": ("cljax.methods.libcontinual", "LibContinualEWC"),
}


def find_class(name: str) -> type[Finetune]:
    """Finds the class of a method.

    Args:
      name: a key of METHODS, or "package.module:Class" for a method outside cljax, which is
        imported from the installed packages or from the current directory.

    Raises:
      UserError: there is no such class, it cannot be imported, or it is not a method.
    """
    if ":" in name:
        return _find_outside(*name.split(":", 1))
    if name not in METHODS:
        raise UserError(
            f"config.method.name={name}: unknown method; choose {', '.join(METHODS)}, or name your "
            "own class as MODULE:CLASS"
        )
    module, cls = METHODS[name]
    return getattr(importlib.import_module(module), cls)


def _find_outside(module_name: str, class_name: str) -> type[Finetune]:
    """Finds the class of a method outside cljax."""
    where = f"config.method.name={module_name}:{class_name}"
    module = _import(where, module_name)
    cls = getattr(module, class_name, None)
    if cls is None:
        raise UserError(
            f"{where}: {module_name} has no class {class_name!r}; check the name after the colon"
        )
    if not (isinstance(cls, type) and issubclass(cls, Finetune)):
        raise UserError(
            f"{where}: {class_name} is not a method; inherit cljax.methods.base.Finetune"
        )
    if "is_hyperparameters" not in vars(cls):
        raise UserError(
            f"{where}: {class_name} lacks @hyperparameters; put that of cljax.state above it"
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
