"""Finds methods by name; a method's module is imported when it is asked for."""

import importlib
import os
import sys
import traceback

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
    "libcontinual_lucir": ("cljax.methods.libcontinual", "LibContinualLUCIR"),
    "libcontinual_lwf": ("cljax.methods.libcontinual", "LibContinualLwF"),
    "libcontinual_icarl": ("cljax.methods.libcontinual", "LibContinualICaRL"),
    "libcontinual_wa": ("cljax.methods.libcontinual", "LibContinualWA"),
    "libcontinual_ewc": ("cljax.methods.libcontinual", "LibContinualEWC"),
}


def find_class(name: str) -> type[Finetune]:
    """The class of a method.

    Args:
      name: a key of METHODS, or "package.module:Class" for a method that lives elsewhere: in what
        is installed, or below the current directory.

    Raises:
      UserError: there is no such method, or it is not fit to be one.
    """
    if ":" in name:
        return _find_outside(*name.split(":", 1))
    if name not in METHODS:
        raise UserError(
            f"config.method.name: no method {name!r}; there are {', '.join(METHODS)}, and your own "
            "as MODULE:CLASS"
        )
    module, cls = METHODS[name]
    return getattr(importlib.import_module(module), cls)


def _find_outside(module_name: str, class_name: str) -> type[Finetune]:
    """A class from a module outside the package."""
    where = f"config.method.name={module_name}:{class_name}"
    module = _import(where, module_name)
    cls = getattr(module, class_name, None)
    if cls is None:
        raise UserError(f"{where}: there is no class {class_name!r} in {module_name}")
    if not (isinstance(cls, type) and issubclass(cls, Finetune)):
        raise UserError(f"{where}: {class_name} does not inherit cljax.methods.base.Finetune")
    if "is_hyperparameters" not in vars(cls):
        raise UserError(f"{where}: put @hyperparameters, of cljax.state, above class {class_name}")
    return cls


def _import(where, name):
    # `python main.py` has the folder of main.py in the path, which need not be the current one.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise UserError(
                f"{where}: there is no module {missing!r}, neither in {os.getcwd()} nor installed"
            ) from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        # A syntax error says itself where it is.
        place = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
        raise UserError(
            f"{where}: importing {name} failed with {type(error).__name__}: {error}{place}"
        ) from error
