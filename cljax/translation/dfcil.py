"""Translates options of the ABD reference code; docs/original_options.md has them."""

import argparse
from typing import Any, NoReturn

from cljax.errors import UserError
from cljax.translation import Translation, hint, shown, split_classes
from cljax.translation.dfcil_options import parse

_LARGEST_COUNT = 10_000  # of tasks and repetitions, which become lists

_DEFAULT_MU, _DEFAULT_TEMPERATURE = 1.0, 2.0

# dataset: (config.data.name, number of classes)
_DATASETS = {
    "CIFAR10": ("cifar10", 10),
    "CIFAR100": ("cifar100", 100),
    "TinyImageNet": ("tiny_imagenet", 200),
    "ImageNet": ("imagenet1000", 1000),
}
# learner_name: (learner_type, method)
_LEARNERS = {
    "NormalNN": ("default", "base"),
    "LWF": ("kd", "lwf"),
    "LWF_MC": ("kd", "lwf_mc"),
    "ETE": ("kd", "e2e"),
    "BIC": ("kd", "bic"),
    "DeepInversionGenBN": ("datafree", "deep_inversion"),
    "DeepInversionLWF": ("datafree", "deep_inversion_lwf"),
    "AlwaysBeDreaming": ("datafree", "abd"),
    "Generative_Replay": ("dgr", "dgr"),
}
_NETWORKS = {
    "resnet18": "resnet14",  # three stages of two blocks
    **{name: name for name in ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")},
}
_GENERATORS = {"CIFAR_GEN": "cifar", "TINYIMNET_GEN": "tiny_imagenet", "IMNET_GEN": "imagenet"}
_INVERSION = ("lr", "statistics", "prior", "temperature", "content")  # of deep_inv_params
_WITH_MU = ("lwf", "e2e", "deep_inversion", "deep_inversion_lwf", "abd", "dgr")
_WITH_TEMPERATURE = ("lwf", "e2e", "bic", "deep_inversion", "deep_inversion_lwf", "dgr")
# How the methods with exemplars select and replay them.
_MEMORY = {
    "base": ("random_redraw", "bootstrap"),
    "lwf": ("random_redraw", "bootstrap"),
    "lwf_mc": ("random_redraw", "bootstrap"),
    "e2e": ("nearest", "all"),
    "bic": ("herding_raw", "all"),
}
_NO_COUNTERPART = {
    "gpuid": "JAX uses all devices that it finds",
    "workers": "images are on the device",
    "beta": "the reference code reads it and never uses it",
}


def read(argument: str) -> Translation:
    """Translates options, a command with them, or a shell script with one such command.

    Args:
      argument: the options, "python -u run_dfcil.py" and the options, or the path of a script.

    Raises:
      UserError: there is no such file, the options are wrong, or cljax cannot train so.
    """
    options, environment, where = parse(argument)
    found = translate(options, where)
    passed_on = [
        f"{name}={shown(v)}: set it before the command of cljax" for name, v in environment.items()
    ]
    return found._replace(notes=passed_on + found.notes)


def log_dir(argument: str) -> str | None:
    """Returns the directory of results that the options name, or None."""
    return parse(argument)[0].log_dir


def translate(options: argparse.Namespace, where: str = "dfcil") -> Translation:
    """Translates options as `dfcil_options.parse` returns them; None: not given.

    Args:
      options: values by name.
      where: begins messages.

    Raises:
      UserError: cljax cannot train so, or options contradict each other.
    """
    notes = [
        f"--{name}={shown(_text(getattr(options, name)))}: {reason}"
        for name, reason in _NO_COUNTERPART.items()
        if getattr(options, name) is not None
    ]
    method = _method(options, where)
    own = _own(options, method, notes)
    data, settings = _data(options, method, where)
    settings |= _training(options, where) | _memory(options, method, where, notes)
    if method in ("abd", "deep_inversion", "deep_inversion_lwf"):
        settings |= _inversion(options, where)
    if method == "dgr" and options.gen_model_name != "CIFAR_GEN":
        _fail(where, "gen_model_name", options.gen_model_name, "use CIFAR_GEN, the only one")
    if options.load_model_dir:
        settings["first_task_from"] = options.load_model_dir
        notes.append(
            f"--load_model_dir={shown(options.load_model_dir)}: must be the workdir of a cljax "
            "run; for PyTorch state dicts see docs/interop.md"
        )
    return Translation(method, own, data, settings, notes)


def _fail(where: str, name: str, value: object, what: str) -> NoReturn:
    raise UserError(f"{where}: --{name} {shown(_text(value))}: {what}")


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _method(options: argparse.Namespace, where: str) -> str:
    name = options.learner_name
    if name not in _LEARNERS:
        _fail(where, "learner_name", name, f"unknown learner; {hint(name, _LEARNERS)}")
    kind, method = _LEARNERS[name]
    if options.learner_type != kind:
        _fail(where, "learner_type", options.learner_type, f"{name} is of type {kind}; use that")
    if options.oracle_flag and name != "NormalNN":
        _fail(where, "learner_name", name, "an oracle (--oracle_flag) is a NormalNN; use one")
    return "oracle" if options.oracle_flag else method


def _own(options: argparse.Namespace, method: str, notes: list[str]) -> dict[str, Any]:
    """Returns the method's own settings; notes options that it does not use."""
    own: dict[str, Any] = {}
    for name, key, default, methods in (
        ("mu", "mu", _DEFAULT_MU, _WITH_MU),
        ("temp", "temperature", _DEFAULT_TEMPERATURE, _WITH_TEMPERATURE),
    ):
        given = getattr(options, name)
        if method in methods:
            own[key] = default if given is None else given
        elif given is not None:
            notes.append(f"--{name}={given}: without effect in {options.learner_name}")
    if method == "e2e":
        own["new_class_teacher"] = "previous"
    if method == "bic":
        own["correct_at_test"] = False
    return own


def _data(options: argparse.Namespace, method: str, where: str) -> tuple[str, dict[str, Any]]:
    """Returns the dataset, and the settings of its tasks, class order and augmentation."""
    if options.dataset not in _DATASETS:
        near = hint(options.dataset, _DATASETS)
        _fail(where, "dataset", options.dataset, f"unknown dataset; {near}")
    data, num_classes = _DATASETS[options.dataset]
    is_imagenet = data == "imagenet1000"
    first, other, most = options.first_split_size, options.other_split_size, options.max_task
    if first < 1 or other < 1 or first > num_classes:
        _fail(where, "first_split_size", first, f"must be 1 to {num_classes}, as the other sizes")
    if most != -1 and not 1 <= most <= _LARGEST_COUNT:
        _fail(where, "max_task", most, f"must be -1 (all tasks) or 1 to {_LARGEST_COUNT}")
    later = num_classes - first
    sizes = [first, *[other] * (later // other), *([later % other] if later % other else [])]
    if is_imagenet and most != -1:  # the other classes have no images
        sizes = sizes[:most]
        data = "imagenet50" if sum(sizes) == 50 else data
    settings = split_classes(num_classes, sizes)
    settings["max_tasks"] = 0 if is_imagenet or most == -1 else most
    # Its loader of ImageNet draws one order for all repetitions.
    shuffled = "numpy:1993" if is_imagenet else "shuffled"
    settings["data.class_order"] = shuffled if options.rand_split else "sequential"
    settings["data.validation"] = options.validation
    settings["data.standardise"] = method != "dgr"
    if options.dataroot is not None:
        settings["data.dir"] = options.dataroot
    augments = options.train_aug
    settings |= {
        "data.augmentation.brightness": 63 / 255 if augments and not is_imagenet else 0.0,
        "data.augmentation.contrast": 0.8 if augments and not is_imagenet else 0.0,
        "data.augmentation.flip": augments,
        "data.augmentation.crop_padding": 4 if augments and not is_imagenet else 0,
        "data.augmentation.resized_crop": augments and is_imagenet,
        "eval.top_k": 5 if is_imagenet else 1,
    }
    return data, settings


def _training(options: argparse.Namespace, where: str) -> dict[str, Any]:
    """Returns the settings of network, optimizer, schedule, batches and repetitions."""
    if options.model_type != "resnet":
        _fail(where, "model_type", options.model_type, "unknown network; use resnet")
    if options.model_name not in _NETWORKS:
        near = hint(options.model_name, _NETWORKS)
        _fail(where, "model_name", options.model_name, f"unknown network; {near}")
    if options.optimizer != "SGD":
        what = "only SGD is translated; use it, or set --config.optimizer.name as well"
        _fail(where, "optimizer", options.optimizer, what)
    if options.schedule_type != "decay":
        _fail(
            where,
            "schedule_type",
            options.schedule_type,
            "unknown; use decay, or set --config.schedule.name",
        )
    schedule = options.schedule
    if sorted(set(schedule)) != schedule or schedule[0] < 1:
        _fail(where, "schedule", schedule, "must be rising epochs, the number of epochs last")
    if not 1 <= options.repeat <= _LARGEST_COUNT:
        _fail(where, "repeat", options.repeat, f"must be 1 to {_LARGEST_COUNT}")
    if options.overwrite not in (0, 1):
        _fail(where, "overwrite", options.overwrite, "must be 0 or 1")
    return {
        "model.name": _NETWORKS[options.model_name],
        "optimizer.lr": options.lr,
        "optimizer.momentum": options.momentum,
        "optimizer.weight_decay": options.weight_decay,
        "milestones": tuple(schedule[:-1]),
        "epochs": schedule[-1],
        "batch_size": options.batch_size,
        "seeds": tuple(range(options.repeat)),
        "overwrite": options.overwrite == 1,
    }


def _memory(
    options: argparse.Namespace, method: str, where: str, notes: list[str]
) -> dict[str, Any]:
    """Returns the settings of the exemplars."""
    size = options.memory
    if size > 0 and method not in _MEMORY:
        what = "an oracle" if method == "oracle" else options.learner_name
        _fail(where, "memory", size, f"{what} keeps no exemplars in cljax; use 0")
    weighted = options.DW and size > 0 and method in ("base", "lwf", "lwf_mc")
    if options.DW and not weighted:
        notes.append(f"--DW: without effect in {options.learner_name} with --memory {size}")
    if weighted and not options.dataset.startswith("CIFAR"):
        weighted = False
        notes.append(f"--DW: without effect in the reference code's {options.dataset}")
    if size <= 0:
        return {}
    strategy, replay = _MEMORY[method]
    return {
        "exemplars.total": size,
        "exemplars.strategy": strategy,
        "exemplars.replay": replay,
        "exemplars.class_weighting": weighted,
    }


def _inversion(options: argparse.Namespace, where: str) -> dict[str, Any]:
    """Returns the settings of the generator and its training."""
    generator = options.gen_model_name
    if options.gen_model_type != "generator":
        _fail(where, "gen_model_type", options.gen_model_type, "must be generator")
    if generator not in _GENERATORS:
        near = hint(generator, _GENERATORS)
        _fail(where, "gen_model_name", generator, f"unknown generator; {near}")
    values = options.deep_inv_params
    if len(values) != len(_INVERSION):
        _fail(where, "deep_inv_params", values, f"must be five numbers: {', '.join(_INVERSION)}")
    keys = [f"inversion.{name}" for name in _INVERSION]
    return {
        "inversion.generator": _GENERATORS[generator],
        "inversion.steps": options.power_iters,
        **dict(zip(keys, values, strict=True)),
    }
