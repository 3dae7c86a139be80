"""Translates LibContinual's settings; docs/libcontinual_keys.md has its keys."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cljax.errors import UserError
from cljax.translation import Translation, split_classes
from cljax.translation.libcontinual_names import (
    BUFFERS,
    DATASETS,
    DEFAULTS,
    KNOWN,
    METHODS,
    NETWORKS,
    NO_COUNTERPART,
    STRATEGIES,
    Method,
)
from cljax.translation.schedules import optimizer
from cljax.translation.transforms import preprocessing
from cljax.translation.values import Values
from cljax.translation.yaml_files import read_with_includes

Settings = dict[str, Any]  # by dotted config key


def read(path: str) -> Translation:
    """Translates a YAML file of LibContinual, with its includes.

    Raises:
      UserError: a file is missing or damaged, a key or value is unknown, or values contradict each
        other.
    """
    path = os.path.expanduser(path)
    files = read_with_includes(path)
    found = translate(files.values, Path(path).name, files.headers)
    return found._replace(notes=files.notes + found.notes)


def translate(
    given: Mapping[str, Any],
    where: str = "libcontinual",
    headers: Mapping[str, Any] = MappingProxyType({}),
) -> Translation:
    """Translates the settings of one run.

    Args:
      given: values by LibContinual's keys.
      where: begins messages, such as the file's name.
      headers: values of other keys in LibContinual's headers, whose values are known if absent.

    Raises:
      UserError: a key or value is unknown, or values contradict each other.
    """
    values = Values(given, DEFAULTS | dict(headers), where)
    values.check_keys("", values.all, KNOWN)
    for key, reason in NO_COUNTERPART.items():
        if key in values.all:
            values.note(key, values.all[key], reason)
    name, kwargs = values.block("classifier")
    method = METHODS[values.choice("classifier.name", name, METHODS, "method")]
    data, num_classes, settings = _data(values, kwargs)
    settings |= _tasks(values, kwargs, num_classes)
    settings |= _preprocessing(values, data)
    settings |= optimizer(values, name)
    settings |= _batches(values, name, method)
    settings |= _network(values, name, kwargs)
    settings |= _buffer(values, name, method)
    own = _own(values, name, method, kwargs)
    return Translation(method.name, own, data, settings, values.notes)


def _data(values: Values, classifier: Mapping[str, Any]) -> tuple[str, int, Settings]:
    """Returns the dataset, the number of its classes, and settings of images and class order."""
    name, root = _dataset(values), values.all.get("data_root")
    data, num_classes, side = DATASETS[name]
    seed = values.number("", values.all, "seed")
    settings: Settings = {"seeds": (seed,), "data.class_order": f"numpy:{seed}"}
    order = values.all.get("class_order")
    if order is not None:
        if not (isinstance(order, list) and order and all(type(c) is int for c in order)):
            values.fail("class_order", order, "must be a list of class ids")
        settings["data.class_order"] = ",".join(map(str, order))
    elif name.startswith("binary_"):
        settings["data.class_order"] = "sequential"
    size = values.number("", {"image_size": side or None} | dict(values.given), "image_size")
    if data == "folder":
        if not isinstance(root, str):
            raise UserError(f"{values.where}: data_root is missing; add the folder of the images")
        num_classes = values.number("classifier.kwargs.", classifier, "num_class", least=1)
        return data, num_classes, settings | {"data.path": root, "data.image_size": size}
    if root is not None:
        values.note("data_root", root, f"{data} is downloaded, or read in --config.data.dir")
    if size != side:
        values.note("image_size", size, f"the images of {data} keep their size, {side}")
    return data, num_classes, settings


def _dataset(values: Values) -> str:
    """Returns the key of DATASETS that `dataset`, the backbone or else `data_root` names."""
    kwargs = values.block("backbone")[1]
    of_backbone = values.mapping("backbone.kwargs.args", kwargs.get("args")).get("dataset")
    name, of_backbone = str(values.all.get("dataset")), str(of_backbone)
    if name in ("None", "cifar"):  # "cifar" names LibContinual's transforms alone
        name = of_backbone
    if name == "None":
        name = Path(str(values.all.get("data_root"))).name
    values.choice("dataset", name, DATASETS, "dataset")
    is_known = name != "folder" and of_backbone in DATASETS
    if is_known and DATASETS[of_backbone][0] != DATASETS[name][0]:
        values.fail("dataset", name, f"backbone.kwargs.args.dataset is {of_backbone}; use one")
    return name


def _tasks(values: Values, classifier: Mapping[str, Any], num_classes: int) -> Settings:
    """Returns the settings of the tasks."""
    counts = {}
    for key in ("init_cls_num", "inc_cls_num", "task_num"):
        counts[key] = values.number("", values.all, key, least=1)
        if classifier.get(key, counts[key]) != counts[key]:
            found = classifier[key]
            values.fail(f"classifier.kwargs.{key}", found, f"{key} is {counts[key]}; use one")
    first, later, tasks = counts.values()
    total = first + (tasks - 1) * later
    if total > num_classes:
        values.fail("task_num", tasks, f"has {total} classes, but there are only {num_classes}")
    head = classifier.get("num_class", num_classes)
    if head != num_classes:
        if not (type(head) is int and head >= total):
            values.fail("classifier.kwargs.num_class", head, f"the tasks have {total} classes")
        what = f"the head has a column for each of the dataset's {num_classes} classes"
        values.note("classifier.kwargs.num_class", head, what)
    return split_classes(num_classes, [first, *[later] * (tasks - 1)])


def _preprocessing(values: Values, data: str) -> Settings:
    """Returns the settings of augmentation and standardization."""
    lists = values.all.get("train_trfms"), values.all.get("test_trfms")
    try:
        settings, notes = preprocessing(*lists, data)
    except ValueError as error:
        raise UserError(f"{values.where}: {error}") from error
    values.notes += notes
    return settings


def _batches(values: Values, name: str, method: Method) -> Settings:
    """Returns the settings of batches and evaluation."""
    merged = values.number("", values.all, "batch_size", least=1)
    size = {"train_batch_size": merged} | dict(values.given)
    size = values.number("", size, "train_batch_size", least=1)
    if size != merged and method.takes_exemplars:
        what = f"for all tasks; LibContinual's batches with exemplars have batch_size={merged}"
        values.note("train_batch_size", size, what)
    if method.drops_last and name != "bic":
        values.notes.append(f"{name}: an epoch's last, incomplete batch is left out in cljax only")
    settings = {"batch_size": size, "drop_last": method.drops_last, "eval.read_outs": ()}
    if "test_batch_size" in values.given:
        size = values.number("", values.given, "test_batch_size", least=1)
        settings["eval.batch_size"] = size
    return settings


def _network(values: Values, method: str, classifier: Mapping[str, Any]) -> Settings:
    """Returns the settings of backbone and head."""
    name, kwargs = values.block("backbone")
    values.check_keys("backbone.kwargs.", kwargs, ("num_classes", "args", "pretrained"))
    if kwargs.get("pretrained"):
        values.fail("backbone.kwargs.pretrained", True, "set --config.model.pretrained instead")
    network, features = NETWORKS[values.choice("backbone.name", name, NETWORKS, "network")]
    args = values.mapping("backbone.kwargs.args", kwargs.get("args"))
    if name == "cifar_resnet32_V2":
        values.note("backbone.name", name, f"cljax has no pre-activations; {network} is used")
    if "imagenet" in str(args.get("dataset")) and features >= 512:
        network += "_imagenet"
        if values.all["init_cls_num"] != values.all["inc_cls_num"]:
            what = "its stem has 3x3 convolutions if the first task is larger; cljax's has 7x7"
            values.note("backbone.name", name, what)
    size = classifier.get("feat_dim", features)
    if size != features:
        what = f"{name} has {features} features; the number is taken from the network"
        values.note("classifier.kwargs.feat_dim", size, what)
    is_cosine = method == "LUCIR" or bool(args.get("cosine_fc"))
    return {"model.name": network, "model.head": "cosine" if is_cosine else "linear"}


def _buffer(values: Values, method_name: str, method: Method) -> Settings:
    """Returns the settings of the exemplars."""
    name, kwargs = values.block("buffer")
    values.choice("buffer.name", name, BUFFERS, "buffer")
    prefix = "buffer.kwargs."
    unused = ("batch_size", "val_ratio", "memory_size")
    values.check_keys(prefix, kwargs, ("buffer_size", "strategy", *unused))
    size = values.number(prefix, {"buffer_size": 0} | kwargs, "buffer_size")
    for key in unused:
        if kwargs.get(key) is not None:
            values.note(prefix + key, kwargs[key], "without effect in LibContinual")
    if size and not method.takes_exemplars:
        values.note(f"{prefix}buffer_size", size, f"{method_name} keeps no exemplars")
        size = 0
    found = "herding" if name == "LinearHerdingBuffer" else str(kwargs.get("strategy"))
    strategy = STRATEGIES[values.choice(f"{prefix}strategy", found, STRATEGIES, "strategy")]
    size = 0 if strategy == "none" else size
    if size and name == "LinearBuffer" and found in ("equal_random", "reservoir"):
        values.note(f"{prefix}strategy", found, "LibContinual keeps nothing then, cljax does")
    if size and name == "LinearBuffer" and found == "herding":
        what = "as published; --config.exemplars.strategy=libcontinual_herding is LibContinual's"
        values.note(f"{prefix}strategy", found, what)
    return {"exemplars.total": size, "exemplars.strategy": strategy, "exemplars.replay": "all"}


def _own(values: Values, name: str, method: Method, kwargs: Mapping[str, Any]) -> Settings:
    """Returns the method's own settings."""
    prefix = "classifier.kwargs."
    of_all = ("num_class", "feat_dim", "init_cls_num", "inc_cls_num", "task_num")
    values.check_keys(prefix, kwargs, (*of_all, *method.keys, *method.unused))
    for key in method.unused:
        if key in kwargs:
            values.note(prefix + key, kwargs[key], f"without effect in LibContinual's {name}")
    paper = method.name.removeprefix("libcontinual_")
    if paper != method.name:
        what = f"{method.name}; --config.method.name={paper} computes as the paper"
        values.note("classifier.name", name, what)
    given = {
        setting: values.number(prefix, kwargs, key, kind)
        for key, (setting, kind) in method.keys.items()
        if key in kwargs
    }
    return method.own | given
