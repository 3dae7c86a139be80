"""Translates LibContinual's settings; docs/libcontinual_keys.md has its keys."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from cljax.errors import UserError
from cljax.translation import Translation, hint, shown, split_classes
from cljax.translation.transforms import preprocessing
from cljax.translation.yaml_files import read_with_includes

# Values of the files that LibContinual's default.yaml includes.
_DEFAULTS: dict[str, Any] = {
    "seed": 1993,
    "epoch": 50,
    "batch_size": 64,
    "buffer": {"name": "LinearBuffer", "kwargs": {"buffer_size": 0, "strategy": "herding"}},
    "lr_scheduler": {"name": "StepLR", "kwargs": {"gamma": 1.0, "step_size": 20}},
}
_NO_COUNTERPART = {
    "save_path": "results go to --workdir",
    "val_per_epoch": "cljax evaluates after each task",
    "testing_times": "cljax tests once: repetitions would give the same",
    "testing_per_task": "accuracies are always task by task",
    "setting": "both accuracies are reported, over all seen classes and over those of the task",
    "deterministic": "the same command gives the same numbers on the same device",
    "device_ids": "JAX uses all devices that it finds",
    "n_gpu": "JAX uses all devices that it finds",
    "workers": "images are on the device",
    "num_workers": "images are on the device",
    "pin_memory": "images are on the device",
    "total_cls_num": "the number of classes is that of the dataset",
    "warmup": "without effect in LibContinual",
    "augment": "without effect in LibContinual",
    "eval_with_test": "without effect in LibContinual",
    "optimzer": "without effect in LibContinual, which reads optimizer",
    "stage2_epoch": "stage `correct` has as many epochs as stage `train`",
    "init_optimizer": "the first task has the optimizer of all tasks",
}
_KNOWN = (
    *_NO_COUNTERPART,
    *_DEFAULTS,
    *"data_root dataset image_size init_cls_num inc_cls_num task_num optimizer backbone".split(),
    *"classifier init_epoch train_batch_size test_batch_size train_trfms test_trfms".split(),
    "class_order",
)
# dataset: (config.data.name, number of classes, side of the images)
_DATASETS = {
    "cifar10": ("cifar10", 10, 32),
    "cifar100": ("cifar100", 100, 32),
    "binary_cifar10": ("cifar10", 10, 32),
    "binary_cifar100": ("cifar100", 100, 32),
    "tiny-imagenet": ("tiny_imagenet", 200, 64),
    "folder": ("folder", 0, 0),  # cljax's own name: data_root is read as it is
}


class _Method(NamedTuple):
    """Describes a method of LibContinual: its counterpart, own settings, and what it supports."""

    name: str
    own: dict[str, Any] = {}  # noqa: RUF012, never changed
    keys: dict[str, tuple[str, type]] = {}  # noqa: RUF012, key of classifier.kwargs: setting
    takes_exemplars: bool = True
    drops_last: bool = False
    ignored: tuple[str, ...] = ()  # keys of classifier.kwargs that LibContinual ignores


_DISTILLS = {"mu": 1.0, "temperature": 2.0}
_METHODS = {
    "Finetune": _Method("base"),
    "LUCIR": _Method(
        "libcontinual_lucir",
        keys={
            "dist": ("margin", float),
            "lamda": ("lamda", float),
            "K": ("num_hard_negatives", int),
            "lw_mr": ("ranking_weight", float),
        },
    ),
    "LWF": _Method(
        "libcontinual_lwf",
        _DISTILLS | {"mu": 3.0},
        takes_exemplars=False,
        ignored=("dist", "lamda", "K", "lw_mr"),
    ),
    "ICarl": _Method("libcontinual_icarl", _DISTILLS, drops_last=True),
    "WA": _Method("libcontinual_wa", _DISTILLS),
    "EWC": _Method(
        "libcontinual_ewc", keys={"lamda": ("lamda", float)}, takes_exemplars=False
    ),
    "bic": _Method("bic", {"temperature": 2.0, "correct_at_test": True}, drops_last=True),
}
# backbone: (network, number of features)
_NETWORKS = {
    "resnet32": ("resnet32_lucir", 64),
    "resnet32_V2": ("resnet32_lucir", 64),
    "cifar_resnet20": ("resnet20_projection", 64),
    "cifar_resnet32": ("resnet32_projection", 64),
    "cifar_resnet32_V2": ("resnet32_projection", 64),
    "resnet18": ("resnet18", 512),
    "resnet34": ("resnet34", 512),
    "resnet50": ("resnet50", 2048),
}
# (buffer, strategy): exemplars.strategy
_STRATEGIES = {
    "herding": "herding",
    "random": "random",
    "equal_random": "equal_random",
    "reservoir": "reservoir",
    "balance_random": "equal_random",
    "None": "none",
}
_BUFFERS = ("LinearBuffer", "LinearHerdingBuffer", "LinearSpiltBuffer")
_MOST_DROPS = 1000  # of the learning rate


def read(path: str) -> Translation:
    """Translates a YAML file of LibContinual, with its includes.

    Raises:
      UserError: a file is missing or damaged, a key or value is unknown, or values contradict each
        other.
    """
    path = os.path.expanduser(path)
    values, notes = read_with_includes(path)
    found = translate(values, Path(path).name)
    return found._replace(notes=notes + found.notes)


def translate(values: Mapping[str, Any], where: str = "libcontinual") -> Translation:
    """Translates the settings of one run.

    Args:
      values: by LibContinual's keys; keys that are absent have LibContinual's values.
      where: begins messages, such as the file's name.

    Raises:
      UserError: a key or value is unknown, or values contradict each other.
    """
    return _Translator(values, where).translate()


class _Translator:
    """Translates one mapping; `notes` grow on the way."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.given, self.values, self.where = values, _DEFAULTS | dict(values), where
        self.notes: list[str] = []
        self.check_keys("", values, _KNOWN)

    def translate(self) -> Translation:
        for key, reason in _NO_COUNTERPART.items():
            if key in self.given:
                self.note(key, self.given[key], reason)
        name, kwargs = self.block("classifier")
        if name not in _METHODS:
            self.fail("classifier.name", name, f"unknown method; {hint(name, _METHODS)}")
        method = _METHODS[name]
        data, num_classes, settings = self.data()
        settings |= self.tasks(kwargs, num_classes)
        settings |= self.transforms(data)
        settings |= self.optimizer(name) | self.batches(method)
        settings |= self.network(name, kwargs) | self.buffer(name, method)
        settings |= {"eval.read_outs": (), "eval.mirror": "none", "drop_last": method.drops_last}
        if method.drops_last and name != "bic":
            self.notes.append(
                f"{name}: the last, incomplete batch of an epoch is left out, where LibContinual "
                "trains on it"
            )
        return Translation(method.name, self.own(name, method, kwargs), data, settings, self.notes)

    # Reading values

    def fail(self, key: str, value: object, what: str) -> NoReturn:
        raise UserError(f"{self.where}: {key}={shown(value)}: {what}")

    def note(self, key: str, value: object, what: str) -> None:
        self.notes.append(f"{key}={shown(value)}: {what}")

    def check_keys(self, prefix: str, values: Mapping[str, Any], known: Collection[str]) -> None:
        for key, value in values.items():
            if key not in known:
                self.fail(prefix + key, value, f"unknown key; {hint(key, known)}")

    def number(self, key: str, values: Mapping[str, Any], kind: type = int, least: float = 0) -> Any:
        """Returns the number at the last name of `key`; text such as 5e-4 is a number too."""
        value = values.get(key.rpartition(".")[2])
        if value is None:
            raise UserError(f"{self.where}: {key} is missing; set it, as LibContinual needs it")
        try:
            number = kind(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or kind(number) != number or not number >= least:
            what = "whole number" if kind is int else "number"
            self.fail(key, value, f"must be a {what} from {least} on")
        return kind(number)

    def block(self, key: str) -> tuple[str, dict[str, Any]]:
        """Returns name and kwargs of a block."""
        block = self.values.get(key)
        if block is None:
            raise UserError(f"{self.where}: {key} is missing; add the block, with name and kwargs")
        if not isinstance(block, dict):
            self.fail(key, block, "must be a block with name and kwargs")
        self.check_keys(f"{key}.", block, ("name", "kwargs"))
        kwargs = block.get("kwargs") or {}
        if not isinstance(kwargs, dict):
            self.fail(f"{key}.kwargs", kwargs, "must be a block")
        return str(block.get("name")), kwargs

    # Parts of the settings

    def data(self) -> tuple[str, int, dict[str, Any]]:
        """Returns dataset, number of classes and the settings of images and class order."""
        name, root = self.dataset_name(), self.values.get("data_root")
        data, num_classes, side = _DATASETS[name]
        settings: dict[str, Any] = {}
        seed = self.number("seed", self.values)
        order = self.values.get("class_order")
        if order is None:
            settings["data.class_order"] = (
                "sequential" if name.startswith("binary_") else f"numpy:{seed}"
            )
        elif isinstance(order, list) and all(type(c) is int for c in order):
            settings["data.class_order"] = ",".join(map(str, order))
        else:
            self.fail("class_order", order, "must be a list of class ids")
        settings["seeds"] = (seed,)
        size = self.number("image_size", {"image_size": side} | self.given, int, 1 if side else 0)
        if data == "folder":
            if not isinstance(root, str):
                raise UserError(f"{self.where}: data_root is missing; dataset folder is read there")
            _, kwargs = self.block("classifier")
            num_classes = self.number("classifier.kwargs.num_class", kwargs, int, 1)
            settings |= {"data.path": root, "data.image_size": size}
        else:
            if root is not None:
                self.note("data_root", root, f"{data} is downloaded, or read in config.data.dir")
            if size != side:
                self.note("image_size", size, f"the images of {data} keep their size, {side}")
        return data, num_classes, settings

    def dataset_name(self) -> str:
        """Returns the key of _DATASETS; old files name the dataset in the backbone's args alone."""
        _, kwargs = self.block("backbone")
        args = kwargs.get("args")
        of_backbone = args.get("dataset") if isinstance(args, dict) else None
        name = str(self.values.get("dataset") or of_backbone)
        if name == "cifar":  # names LibContinual's transforms
            name = str(of_backbone)
            name = {"cifar": "cifar100"}.get(name, name)
        if name not in _DATASETS:
            self.fail("dataset", name, f"unknown dataset; {hint(name, _DATASETS)}")
        of_backbone = str(of_backbone)
        if of_backbone in _DATASETS and _DATASETS[of_backbone][0] != _DATASETS[name][0]:
            self.fail("dataset", name, f"backbone.kwargs.args.dataset is {of_backbone}; use one")
        return name

    def tasks(self, kwargs: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
        counts = {}
        for key in ("init_cls_num", "inc_cls_num", "task_num"):
            counts[key] = self.number(key, self.values, int, 1)
            if key in kwargs and kwargs[key] != counts[key]:
                self.fail(f"classifier.kwargs.{key}", kwargs[key], f"{key} is {counts[key]}; use one")
        first, later, tasks = counts.values()
        if first + (tasks - 1) * later > num_classes:
            what = f"with {first} + {tasks - 1} x {later} classes there are more than {num_classes}"
            self.fail("task_num", tasks, f"{what}; use fewer tasks or classes")
        return split_classes(num_classes, [first, *[later] * (tasks - 1)])

    def transforms(self, data: str) -> dict[str, Any]:
        try:
            settings, notes = preprocessing(
                self.values.get("train_trfms"), self.values.get("test_trfms"), data
            )
        except ValueError as error:
            raise UserError(f"{self.where}: {error}") from error
        self.notes += notes
        return settings

    def optimizer(self, method: str) -> dict[str, Any]:
        """Returns the settings of optimizer and schedule."""
        name, kwargs = self.block("optimizer")
        if name != "SGD":
            self.fail("optimizer.name", name, "cljax trains with SGD; use it, with its own lr")
        known = ("lr", "momentum", "weight_decay", "nesterov", "dampening")
        self.check_keys("optimizer.kwargs.", kwargs, known)
        for key in known[3:]:
            if kwargs.get(key):
                self.fail(f"optimizer.kwargs.{key}", kwargs[key], "cljax has none; remove it")
        rate, momentum, decay = (
            self.number(f"optimizer.kwargs.{key}", {"momentum": 0, "weight_decay": 0} | kwargs, float)
            for key in known[:3]
        )
        fixed = {"LUCIR": (0.1, 5e-4), "bic": (0.1, None)}.get(method)
        if fixed and (rate != fixed[0] or fixed[1] not in (None, decay)):
            self.notes.append(
                f"optimizer: LibContinual's {method} has lr {fixed[0]} of its own; these values are "
                "used"
            )
        return {
            "optimizer.lr": rate,
            "optimizer.momentum": momentum,
            "optimizer.weight_decay": decay,
            **self.schedule(),
        }

    def schedule(self) -> dict[str, Any]:
        """Returns epochs, milestones and the factor of the learning rate."""
        name, kwargs = self.block("lr_scheduler")
        epochs = self.number("epoch", self.values, int, 1)
        if "init_epoch" in self.given and self.number("init_epoch", self.given, int, 1) != epochs:
            self.note("init_epoch", self.given["init_epoch"], f"all tasks have {epochs} epochs")
        prefix = "lr_scheduler.kwargs."
        milestones: list[int] = []
        gamma = 0.1  # PyTorch's default
        if name in ("MultiStepLR", "StepLR", "ExponentialLR"):
            gamma = self.number(f"{prefix}gamma", {"gamma": gamma} | kwargs, float)
        if name == "MultiStepLR":
            self.check_keys(prefix, kwargs, ("gamma", "milestones"))
            found = kwargs.get("milestones")
            if not isinstance(found, list):
                self.fail(f"{prefix}milestones", found, "must be a list of epochs")
            milestones = [self.number("milestones", {"milestones": m}) for m in found]
            epochs = self.epochs_for(milestones, epochs)
        elif name in ("StepLR", "ExponentialLR"):
            self.check_keys(prefix, kwargs, ("gamma", "step_size"))
            step = self.number(f"{prefix}step_size", {"step_size": 1} | kwargs, int, 1)
            if (epochs - 1) // step > _MOST_DROPS and gamma != 1:
                self.fail("epoch", epochs, f"the rate would change more than {_MOST_DROPS} times")
            milestones = [] if gamma == 1 else list(range(step, epochs, step))
        elif name != "Constant":
            self.note(
                "lr_scheduler.name",
                name,
                "cljax has milestones only, so the learning rate stays at optimizer.lr; "
                "--config.milestones sets some",
            )
        settings = {"epochs": epochs, "milestones": tuple(milestones)}
        return settings | {"optimizer.decay": gamma if milestones else 0.1}

    def epochs_for(self, milestones: list[int], epochs: int) -> int:
        """Returns the number of epochs, which a file with milestones alone leaves to its reader."""
        if "epoch" in self.given or not milestones or milestones[-1] < epochs:
            return epochs
        last = [0, *milestones][-2:]
        longer = 2 * last[1] - last[0]
        self.note(
            "epoch",
            epochs,
            f"LibContinual's default, ends before milestone {last[1]}; {longer} epochs are used, so "
            "that the last part is as long as the one before",
        )
        return longer

    def batches(self, method: _Method) -> dict[str, Any]:
        size = self.number("batch_size", self.values, int, 1)
        first = self.number("train_batch_size", {"train_batch_size": size} | self.given, int, 1)
        if first != size and method.takes_exemplars:
            self.note(
                "train_batch_size",
                first,
                f"used for all tasks; LibContinual has batches of {size} when exemplars are added",
            )
        settings = {"batch_size": first}
        if "test_batch_size" in self.given:
            settings["eval.batch_size"] = self.number("test_batch_size", self.given, int, 1)
        return settings

    def network(self, method: str, classifier: Mapping[str, Any]) -> dict[str, Any]:
        name, kwargs = self.block("backbone")
        self.check_keys("backbone.kwargs.", kwargs, ("num_classes", "args", "pretrained"))
        if kwargs.get("pretrained"):
            self.fail("backbone.kwargs.pretrained", True, "use --config.model.pretrained=FILE")
        if name not in _NETWORKS:
            self.fail("backbone.name", name, f"unknown network; {hint(name, _NETWORKS)}")
        args = kwargs.get("args") or {}
        if not isinstance(args, dict):
            self.fail("backbone.kwargs.args", args, "must be a block")
        network, features = _NETWORKS[name]
        if name == "cifar_resnet32_V2":
            self.note("backbone.name", name, f"cljax has no pre-activations; {network} is used")
        if "imagenet" in str(args.get("dataset")) and features >= 512:
            network += "_imagenet"
            if self.values["init_cls_num"] != self.values["inc_cls_num"]:
                self.note(
                    "backbone.name",
                    name,
                    "LibContinual's first convolution is 3x3 if the first task is larger; cljax's "
                    "is 7x7",
                )
        size = classifier.get("feat_dim", features)
        if size != features:
            self.note(
                "classifier.kwargs.feat_dim",
                size,
                f"{name} has {features} features; the number is taken from the network",
            )
        is_cosine = method == "LUCIR" or bool(args.get("cosine_fc"))
        return {"model.name": network, "model.head": "cosine" if is_cosine else "linear"}

    def buffer(self, method_name: str, method: _Method) -> dict[str, Any]:
        name, kwargs = self.block("buffer")
        if name not in _BUFFERS:
            self.fail("buffer.name", name, f"unknown buffer; {hint(name, _BUFFERS)}")
        known = ("buffer_size", "batch_size", "strategy", "val_ratio", "memory_size")
        self.check_keys("buffer.kwargs.", kwargs, known)
        size = self.number("buffer.kwargs.buffer_size", {"buffer_size": 0} | kwargs)
        for key in ("batch_size", "val_ratio", "memory_size"):
            if kwargs.get(key) is not None and "buffer" in self.given:
                self.note(f"buffer.kwargs.{key}", kwargs[key], "without effect in LibContinual")
        strategy = "herding"
        if name != "LinearHerdingBuffer":
            strategy = str(kwargs.get("strategy"))
        if strategy not in _STRATEGIES:
            self.fail(
                "buffer.kwargs.strategy", strategy, f"unknown; {hint(strategy, _STRATEGIES)}"
            )
        strategy = _STRATEGIES[strategy]
        if size and not method.takes_exemplars:
            self.note("buffer.kwargs.buffer_size", size, f"{method_name} keeps no exemplars")
            size = 0
        if size and name == "LinearBuffer" and strategy in ("equal_random", "reservoir"):
            if method_name != "bic":
                self.note(
                    "buffer.kwargs.strategy", strategy, "in LibContinual it keeps nothing; here it does"
                )
        if size and name == "LinearBuffer" and strategy == "herding":
            self.note(
                "buffer.kwargs.strategy",
                strategy,
                "herding as published; LibContinual's is exemplars.strategy=libcontinual_herding",
            )
        if strategy == "none":
            size = 0
        return {"exemplars.total": size, "exemplars.strategy": strategy, "exemplars.replay": "all"}

    def own(self, name: str, method: _Method, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the method's own settings."""
        of_all = ("num_class", "feat_dim", "init_cls_num", "inc_cls_num", "task_num")
        prefix = "classifier.kwargs."
        self.check_keys(prefix, kwargs, (*of_all, *method.keys, *method.ignored))
        for key in method.ignored:
            if key in kwargs:
                self.note(prefix + key, kwargs[key], f"without effect in LibContinual's {name}")
        own = dict(method.own)
        for key, (setting, kind) in method.keys.items():
            if key in kwargs:
                own[setting] = self.number(prefix + key, kwargs, kind)
        paper = method.name.removeprefix("libcontinual_")
        if paper != method.name:
            self.note(
                "classifier.name",
                name,
                f"{method.name}, which computes as LibContinual; --config.method.name={paper} is "
                "the paper's",
            )
        return own
