"""Finds methods by name; imports the module of a method when a run needs it."""

import importlib

from cljax.errors import UserError
from cljax.methods.base import Finetune
from cljax.settings.outside import find_outside

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
        return _find_outside(name)
    if name not in METHODS:
        raise UserError(
            f"config.method.name={name}: unknown method; choose {', '.join(METHODS)}, or name your "
            "own class as MODULE:CLASS"
        )
    module, cls = METHODS[name]
    return getattr(importlib.import_module(module), cls)


def _find_outside(name: str) -> type[Finetune]:
    """Finds the class of a method outside cljax."""
    cls = find_outside("method.name", name, Finetune, "a method")
    if "is_hyperparameters" not in vars(cls):
        raise UserError(
            f"config.method.name={name}: {cls.__name__} lacks @hyperparameters; put that of "
            "cljax.state above it"
        )
    return cls
