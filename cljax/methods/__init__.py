"""Methods by name; a method's module is imported when it is asked for."""

import importlib

from cljax.errors import UserError

# name: (module, class)
METHODS = {
    "base": ("cljax.methods.base", "Finetune"),
    "oracle": ("cljax.methods.oracle", "JointTraining"),
    "lwf": ("cljax.methods.lwf", "LearningWithoutForgetting"),
    "lwf_mc": ("cljax.methods.lwf", "MultiClassLwF"),
    "deep_inversion": ("cljax.methods.deep_inversion", "DeepInversion"),
    "deep_inversion_lwf": ("cljax.methods.deep_inversion", "DeepInversionLwF"),
    "dgr": ("cljax.methods.dgr", "DeepGenerativeReplay"),
    "e2e": ("cljax.methods.e2e", "EndToEnd"),
    "bic": ("cljax.methods.bic", "BiC"),
    "lucir": ("cljax.methods.lucir", "LUCIR"),
    "abd": ("cljax.methods.abd", "AlwaysBeDreaming"),
}


def make_method(config, dataset):
    """The method that `config.method.name` names, built from the config for a Dataset.

    Raises:
      UserError: there is no such method, or one of its settings is wrong.
    """
    name = config.method.name
    if name not in METHODS:
        raise UserError(f"config.method.name: no method {name!r}; there are {', '.join(METHODS)}")
    module, cls = METHODS[name]
    return getattr(importlib.import_module(module), cls).from_config(config, dataset)
