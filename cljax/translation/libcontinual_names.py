"""Holds LibContinual's names and default values, and what they are in cljax."""

from typing import Any, NamedTuple

# Values of the files that LibContinual's default.yaml includes.
DEFAULTS: dict[str, Any] = {
    "seed": 1993,
    "epoch": 50,
    "batch_size": 64,
    "buffer": {"name": "LinearBuffer", "kwargs": {"buffer_size": 0, "strategy": "herding"}},
    "lr_scheduler": {"name": "StepLR", "kwargs": {"gamma": 1.0, "step_size": 20}},
}
NO_COUNTERPART = {
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
}
KNOWN = (
    *NO_COUNTERPART,
    *DEFAULTS,
    *("data_root", "dataset", "image_size", "init_cls_num", "inc_cls_num", "task_num"),
    *(
        "optimizer",
        "init_optimizer",
        "backbone",
        "classifier",
        "init_epoch",
        "train_batch_size",
        "test_batch_size",
    ),
    *("train_trfms", "test_trfms", "class_order"),
)
# dataset: (config.data.name, number of classes, side of the images)
DATASETS = {
    "cifar10": ("cifar10", 10, 32),
    "cifar100": ("cifar100", 100, 32),
    "binary_cifar10": ("cifar10", 10, 32),
    "binary_cifar100": ("cifar100", 100, 32),
    "tiny-imagenet": ("tiny_imagenet", 200, 64),
    "folder": ("folder", 0, 0),  # cljax's own name: data_root is read as it is
}


class Method(NamedTuple):
    """Describes a method of LibContinual: its counterpart, own settings, and what it supports."""

    name: str
    own: dict[str, Any] = {}  # noqa: RUF012, never changed
    keys: dict[str, tuple[str, type]] = {}  # noqa: RUF012, key of classifier.kwargs: setting
    takes_exemplars: bool = True
    drops_last: bool = False
    unused: tuple[str, ...] = ()  # keys of classifier.kwargs without effect in LibContinual


_DISTILLS = {"mu": 1.0, "temperature": 2.0}
METHODS = {
    "Finetune": Method("base"),
    "LUCIR": Method(
        "libcontinual_lucir",
        keys={
            "dist": ("margin", float),
            "lamda": ("lamda", float),
            "K": ("num_hard_negatives", int),
            "lw_mr": ("ranking_weight", float),
        },
    ),
    "LWF": Method(
        "libcontinual_lwf",
        _DISTILLS | {"mu": 3.0},
        takes_exemplars=False,
        unused=("dist", "lamda", "K", "lw_mr"),
    ),
    "ICarl": Method("libcontinual_icarl", _DISTILLS, drops_last=True),
    "WA": Method("libcontinual_wa", _DISTILLS),
    "EWC": Method("libcontinual_ewc", keys={"lamda": ("lamda", float)}, takes_exemplars=False),
    "bic": Method("bic", {"temperature": 2.0, "correct_at_test": True}, drops_last=True),
}
# backbone: (network, number of features)
NETWORKS = {
    "resnet32": ("resnet32_lucir", 64),
    "resnet32_V2": ("resnet32_lucir", 64),
    "cifar_resnet20": ("resnet20_projection", 64),
    "cifar_resnet32": ("resnet32_projection", 64),
    "cifar_resnet32_V2": ("resnet32_projection", 64),
    "resnet18": ("resnet18", 512),
    "resnet34": ("resnet34", 512),
    "resnet50": ("resnet50", 2048),
}
# strategy: exemplars.strategy
STRATEGIES = {
    "herding": "herding",
    "random": "random",
    "equal_random": "equal_random",
    "reservoir": "reservoir",
    "balance_random": "equal_random",
    "None": "none",
}
BUFFERS = ("LinearBuffer", "LinearHerdingBuffer", "LinearSpiltBuffer")
