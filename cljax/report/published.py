"""Lists published results and the settings behind them: of ABD's paper, and of R-DFCIL."""

from typing import Any, NamedTuple

Config = dict[str, Any]  # content of config.json

SOURCE = (
    "Smith et al., Always Be Dreaming, ICCV 2021, arXiv 2106.09701: final accuracy on CIFAR-100, "
    "mean and standard deviation of three trials; R-DFCIL: Gao et al., ECCV 2022, arXiv "
    "2203.13104, with half of the classes first, as quoted by arXiv 2407.14029 (PASS++)"
)
# Final accuracies are measured over all classes of a dataset.
CLASSES = {"cifar100": 100, "tiny_imagenet": 200}
SEEDS = 3

# Names and order of the methods in the paper's tables, which call ABD "Ours". `deep_inversion_lwf`
# is in the scripts of the ABD reference code, but not in the tables.
NAMES = {
    "oracle": "UB (oracle)",
    "base": "Base",
    "lwf": "LwF",
    "lwf_mc": "LwF.MC",
    "dgr": "DGR",
    "deep_inversion": "DeepInversion",
    "deep_inversion_lwf": "DeepInversion LwF",
    "abd": "ABD",
    "rdfcil": "R-DFCIL",
    "e2e": "E2E",
    "bic": "BiC",
}


class MeanStd(NamedTuple):
    """Holds the mean and the population standard deviation over seeds, None if not published."""

    mean: float
    std: float | None = None


def _results(*pairs: tuple[float, float]) -> dict[int, MeanStd]:
    # By the number of tasks, which have equal numbers of classes.
    return {tasks: MeanStd(*pair) for tasks, pair in zip((5, 10, 20), pairs, strict=True)}


# (method, exemplars in all): {tasks: final accuracy in percent}
RESULTS: dict[tuple[str, int], dict[int, MeanStd]] = {
    # In both tables. Joint training is the same for any number of tasks, one task included.
    ("oracle", 0): dict.fromkeys((1, 5, 10, 20), MeanStd(69.9, 0.2)),
    ("base", 0): _results((16.4, 0.4), (8.8, 0.1), (4.4, 0.3)),
    ("lwf", 0): _results((17.0, 0.1), (9.2, 0.0), (4.7, 0.1)),
    ("lwf_mc", 0): _results((32.5, 1.0), (17.1, 0.1), (7.7, 0.5)),
    ("dgr", 0): _results((14.4, 0.4), (8.1, 0.1), (4.1, 0.3)),
    ("deep_inversion", 0): _results((18.8, 0.3), (10.9, 0.6), (5.7, 0.3)),
    ("abd", 0): _results((43.9, 0.9), (33.7, 1.2), (20.0, 1.4)),
    ("base", 2000): _results((34.0, 0.2), (24.0, 1.0), (14.9, 0.7)),
    ("lwf", 2000): _results((39.4, 0.3), (27.4, 0.8), (16.6, 0.4)),
    ("e2e", 2000): _results((47.4, 0.8), (38.4, 1.3), (32.7, 1.9)),
    ("bic", 2000): _results((53.7, 0.4), (45.9, 1.8), (37.5, 3.2)),
}

# (method, dataset), with half of the classes in the first task: {tasks: final accuracy in percent}.
# Its deviations on CIFAR-100 are quoted by another document from the paper's second version.
HALF_FIRST_RESULTS: dict[tuple[str, str], dict[int, MeanStd]] = {
    ("rdfcil", "cifar100"): {
        6: MeanStd(54.76, 0.76),
        11: MeanStd(49.70, 0.61),
        26: MeanStd(30.01, 0.56),
    },
    ("rdfcil", "tiny_imagenet"): {6: MeanStd(40.44), 11: MeanStd(38.19), 26: MeanStd(27.29)},
}

# A run that differs in these settings is another experiment, without a published result.
EXPERIMENT = {"data.name": "cifar100", "first_task_size": 0, "task_sizes": ()}

# Other values shorten a run on any dataset, or count another accuracy.
FULL_RUN = {
    "schedule_scale": 1.0,
    "max_tasks": 0,
    "data.per_class": 0,
    "data.validation": False,
    "eval.top_k": 1,
}

SHARED_SETTINGS = FULL_RUN | {
    "epochs": 250,
    "milestones": (100, 150, 200),
    "batch_size": 128,
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 2e-4,
    "optimizer.decay": 0.1,
    "optimizer.name": "sgd",
    "optimizer.init_lr": 0.0,
    "optimizer.clip_norm": 0.0,
    "schedule.name": "multistep",
    "init_epochs": 0,
    "model.name": "resnet32",
    "model.width": 16,
    "dtype": "float32",
    "data.class_order": "shuffled",
    "data.augmentation.brightness": 63 / 255,
    "data.augmentation.contrast": 0.8,
    "data.augmentation.flip": True,
    "data.augmentation.crop_padding": 4,
    "data.augmentation.crop_fill": "black",
}
INVERSION = {
    "inversion.generator": "cifar",
    "inversion.steps": 10_000,
    "inversion.lr": 1e-3,
    "inversion.content": 1.0,
    "inversion.temperature": 1000.0,
    "inversion.statistics": 50.0,
    "inversion.prior": 1e-3,
}
# The reference code has no config with half of the classes first; these are those of equal splits.
_RDFCIL = SHARED_SETTINGS | {
    "method.lambda_ce": 0.5,
    "method.lambda_hkd": 0.15,
    "method.lambda_rkd": 0.5,
    "method.finetuning_epochs": 40,
    "method.finetuning_lr": 0.005,
    "epochs": 160,
    "milestones": (80, 120),
    "model.name": "resnet32_rdfcil",
    "data.augmentation.brightness": 0.0,
    "data.augmentation.contrast": 0.0,
    "data.augmentation.crop_fill": "mean",
}
HALF_FIRST_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("rdfcil", "cifar100"): _RDFCIL
    | INVERSION
    | {
        "inversion.steps": 5000,
        "optimizer.weight_decay": 5e-4,
        "data.mean": (0.5071, 0.4867, 0.4408),
        "data.std": (0.2675, 0.2565, 0.2761),
    },
    ("rdfcil", "tiny_imagenet"): _RDFCIL
    | INVERSION
    | {
        "inversion.steps": 5000,
        "inversion.generator": "tiny_imagenet",
        "data.mean": (0.4803, 0.4481, 0.3976),
        "data.std": (0.2764, 0.2688, 0.2816),
    },
}
REHEARSAL = {
    "exemplars.strategy": "random_redraw",
    "exemplars.replay": "bootstrap",
    "exemplars.class_weighting": False,
}

# (method, exemplars in all): settings of this method
METHOD_SETTINGS: dict[tuple[str, int], dict[str, Any]] = {
    ("oracle", 0): {},
    ("base", 0): {},
    ("lwf", 0): {"method.mu": 1.0, "method.temperature": 2.0},
    ("lwf_mc", 0): {},  # has neither loss weight nor temperature
    ("dgr", 0): {"method.mu": 1.0, "method.temperature": 2.0, "optimizer.weight_decay": 0.0},
    ("deep_inversion", 0): {"method.mu": 1.0, "method.temperature": 2.0} | INVERSION,
    ("abd", 0): {"method.mu": 0.1} | INVERSION,
    ("base", 2000): REHEARSAL,
    ("lwf", 2000): {"method.mu": 1.0, "method.temperature": 2.0} | REHEARSAL,
    ("e2e", 2000): {
        "method.mu": 1.0,
        "method.temperature": 2.0,
        "method.new_class_teacher": "previous",  # as the reference code computes it
        "exemplars.strategy": "nearest",
        "exemplars.replay": "all",
    },
    ("bic", 2000): {
        "method.temperature": 2.0,
        "method.correct_at_test": False,  # as the reference code evaluates
        "exemplars.strategy": "herding_raw",
        "exemplars.replay": "all",
    },
}


def method_key(config: Config) -> tuple[str, int]:
    """Returns a run's method and its number of exemplars in all, a key of RESULTS."""
    total = lookup(config, "exemplars.total")
    return str(config["method"]["name"]), 0 if total is None else total


def display_name(method: str, exemplars: int) -> str:
    """Returns the method's name in the paper's tables; other methods keep their name."""
    if method == "base" and exemplars:
        return "Naive rehearsal"
    return NAMES.get(method, method)


def result(config: Config) -> MeanStd | None:
    """Returns the published final accuracy of a run's experiment in percent, or None."""
    if _has_half_first(config):
        return HALF_FIRST_RESULTS.get(_half_first_key(config), {}).get(lookup(config, "num_tasks"))
    if any(lookup(config, key) != value for key, value in EXPERIMENT.items()):
        return None
    return RESULTS.get(method_key(config), {}).get(lookup(config, "num_tasks"))


def setting(config: Config) -> dict[str, Any]:
    """Returns the values that a run's config must have, by dotted key.

    With a published result these are all published settings, from the scripts of the ABD reference
    code, or from that of R-DFCIL. Without one, only FULL_RUN.
    """
    if not result(config):
        return FULL_RUN
    if _has_half_first(config):
        return HALF_FIRST_SETTINGS[_half_first_key(config)]
    return SHARED_SETTINGS | METHOD_SETTINGS[method_key(config)]


def _has_half_first(config):
    size = CLASSES.get(lookup(config, "data.name"), 0) // 2
    is_half = size > 0 and lookup(config, "first_task_size") == size
    return is_half and not lookup(config, "task_sizes")


def _half_first_key(config):
    return str(config["method"]["name"]), lookup(config, "data.name")


def lookup(config: Config, key: str) -> Any:
    """Returns the value of a dotted key, lists as tuples; None if the config has no such key."""
    value = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return tuple(value) if isinstance(value, list) else value


class Difference(NamedTuple):
    """Holds a setting of a run that differs from the published one.

    Attributes:
      key: dotted key.
      found: value in the run's config.
      wanted: published value.
    """

    key: str
    found: Any
    wanted: Any

    @property
    def shortens(self) -> bool:
        """Whether the run trains or tests less because of this setting."""
        if self.key in _ALL_IF_0:
            return True
        return self.key in _LENGTHS and self.found < self.wanted

    def __str__(self) -> str:
        found, wanted = _plain(self.found), _plain(self.wanted)
        return f"{self.key} {found} instead of {'all' if self.key in _ALL_IF_0 else wanted}"


_ALL_IF_0 = ("max_tasks", "data.per_class")
_LENGTHS = ("schedule_scale", "epochs", "inversion.steps")


def differences(config: Config, wanted: dict[str, Any]) -> list[Difference]:
    """Lists the settings of a config that differ from the wanted ones; absent keys do not count."""
    found = {key: lookup(config, key) for key in wanted}
    return [
        Difference(key, found[key], value)
        for key, value in wanted.items()
        if found[key] is not None and found[key] != value and (key, found[key]) not in _AS_PUBLISHED
    ]


# PyTorch, on whose defaults the published results were computed, takes TF32 where a GPU has it.
_AS_PUBLISHED = {("dtype", "tf32"), ("dtype", "auto")}


def _plain(value) -> str:
    # Short, and the same for 1 and 1.0, such as 0.247, 10000, (10, 15).
    if isinstance(value, tuple):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
