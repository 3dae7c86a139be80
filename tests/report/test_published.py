"""Published figures and settings: as the paper has them, and as the shipped configs have them."""

import importlib
import json
from pathlib import Path

import pytest

from cljax.report import published
from cljax.report.published import MeanStd

PATHS = (Path(__file__).parents[2] / "configs").glob("*_cifar100.py")
CONFIGS = sorted(path.stem for path in PATHS if not path.stem.startswith("table_"))
SCRIPTS = {  # (method, exemplars): the run in the original scripts
    ("oracle", 0): "oracle",
    ("base", 0): "base",
    ("lwf", 0): "lwf",
    ("lwf_mc", 0): "lwf_mc",
    ("dgr", 0): "dgr",
    ("deep_inversion", 0): "deepinv",
    ("abd", 0): "abd",
    ("base", 2000): "rehearsal",
    ("lwf", 2000): "lwf_coreset",
    ("e2e", 2000): "e2e",
    ("bic", 2000): "bic",
}


def load(name, **settings):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(settings)
    return json.loads(config.to_json())


def minimal(method, total, tasks):
    """A config of no more than what tells experiments apart."""
    return {
        "method": {"name": method},
        "exemplars": {"total": total},
        "data": {"name": "cifar100"},
        "num_tasks": tasks,
        "first_task_size": 0,
        "task_sizes": [],
    }


IN_THE_TABLES = [
    name
    for name in CONFIGS
    if published.method_key(load(name)) in published.RESULTS and not name.startswith("sweep_")
]


@pytest.mark.parametrize("name", IN_THE_TABLES)
def test_shipped_configs_hold_the_published_setting(name):
    config = load(name)
    learner = published.method_key(config)
    assert published.result(config) == published.RESULTS[learner][config["num_tasks"]]
    wanted = published.setting(config)
    assert (
        wanted.keys()
        >= published.SHARED_SETTINGS.keys() | published.METHOD_SETTINGS[learner].keys()
    )
    assert published.differences(config, wanted) == []
    # A misspelt key would never differ.
    assert [key for key in wanted if published.lookup(config, key) is None] == []


def test_every_learner_of_the_tables_has_a_setting_and_a_name():
    assert published.RESULTS.keys() == published.METHOD_SETTINGS.keys() == SCRIPTS.keys()
    assert {published.method_key(load(name)) for name in IN_THE_TABLES} == published.RESULTS.keys()
    assert {method for method, _ in SCRIPTS} < published.NAMES.keys()


@pytest.mark.parametrize(
    ("method", "total", "tasks", "expected"),
    [
        ("abd", 0, 5, (43.9, 0.9)),
        ("abd", 0, 20, (20.0, 1.4)),
        ("dgr", 0, 10, (8.1, 0.1)),
        ("oracle", 0, 1, (69.9, 0.2)),
        ("oracle", 0, 20, (69.9, 0.2)),
        ("lwf", 0, 10, (9.2, 0.0)),
        ("lwf", 2000, 10, (27.4, 0.8)),
        ("base", 2000, 5, (34.0, 0.2)),
        ("e2e", 2000, 20, (32.7, 1.9)),
        ("bic", 2000, 10, (45.9, 1.8)),
        ("bic", 2000, 4, None),
        ("base", 500, 5, None),
        ("abd", 0, 1, None),
        ("deep_inversion_lwf", 0, 5, None),
    ],
)
def test_figures_belong_to_a_learner_its_memory_and_a_split(method, total, tasks, expected):
    found = published.result(minimal(method, total, tasks))
    assert found == (expected and MeanStd(*expected))


@pytest.mark.parametrize(
    "other", [{"task_sizes": [60, 10, 10, 10, 10]}, {"first_task_size": 60}, {"data": {}}]
)
def test_another_experiment_has_no_figure(other):
    assert published.result(minimal("abd", 0, 5) | other) is None


def test_a_config_without_exemplars_keeps_none():
    config = minimal("lwf", 0, 5)
    del config["exemplars"]
    assert published.method_key(config) == ("lwf", 0)
    assert published.result(config) == (17.0, 0.1)


def test_without_a_figure_only_short_cuts_count():
    config = load("abd_digits", **{"data.per_class": 10, "optimizer.lr": 0.5})
    found = published.differences(config, published.setting(config))
    assert list(map(str, found)) == ["data.per_class 10 instead of all"]


def test_differences_are_told_with_both_values():
    settings = {"epochs": 25, "milestones": (10, 15), "optimizer.lr": 0.2, "max_tasks": 2}
    config = load("abd_cifar100", **settings, **{"inversion.steps": 20_000})
    found = published.differences(config, published.setting(config))
    assert {(str(difference), difference.shortens) for difference in found} == {
        ("epochs 25 instead of 250", True),
        ("milestones (10, 15) instead of (100, 150, 200)", False),
        ("optimizer.lr 0.2 instead of 0.1", False),
        ("max_tasks 2 instead of all", True),
        ("inversion.steps 20000 instead of 10000", False),
    }


@pytest.mark.parametrize(
    ("dtype", "differs"), [("auto", 0), ("float32", 0), ("tf32", 0), ("bfloat16", 1)]
)
def test_precisions_of_pytorch_are_as_published(dtype, differs):
    config = load("abd_cifar100", dtype=dtype)
    assert len(published.differences(config, published.setting(config))) == differs


def test_keys_that_an_older_config_lacks_do_not_differ():
    config = minimal("abd", 0, 5)
    assert published.differences(config, published.setting(config)) == []


@pytest.mark.parametrize("learner", SCRIPTS)
@pytest.mark.parametrize(("tasks", "word"), [(5, "five"), (10, "ten"), (20, "twenty")])
def test_settings_are_those_of_the_original_scripts(goldens, learner, tasks, word):
    hparams = json.loads((goldens.folder / "hparams.json").read_text())
    original = hparams["experiments"][f"cifar100-{word}task"][SCRIPTS[learner]]
    setting = published.setting(minimal(*learner, tasks))
    assert original["memory"] == learner[1]
    assert original["first_split_size"] == original["other_split_size"] == 100 // tasks
    found = {
        "schedule": [*setting["milestones"], setting["epochs"]],
        "batch_size": setting["batch_size"],
        "lr": setting["optimizer.lr"],
        "momentum": setting["optimizer.momentum"],
        "weight_decay": setting["optimizer.weight_decay"],
        "model_name": setting["model.name"],
        "validation": setting["data.validation"],
        "rand_split": setting["data.class_order"] == "shuffled",
        "mu": setting.get("method.mu", original["mu"]),
        "temp": setting.get("method.temperature", original["temp"]),
    }
    if "inversion.steps" in setting:
        names = ("lr", "statistics", "prior", "temperature", "content")
        found["deep_inv_params"] = [setting[f"inversion.{name}"] for name in names]
        found["power_iters"] = setting["inversion.steps"]
        found["gen_model_name"] = f"{setting['inversion.generator'].upper()}_GEN"
    assert found == {key: original[key] for key in found}
    assert ("inversion.steps" in setting) == (original["learner_type"] == "datafree")


def test_the_augmentation_is_that_of_the_original(goldens):
    hparams = json.loads((goldens.folder / "hparams.json").read_text())
    steps = hparams["transforms"]["CIFAR100/train/dgr0"]
    names = [step["name"] for step in steps]
    found = {name: value for step in steps for name, value in step["kwargs"].items()}
    wanted = {
        k.rpartition(".")[2]: v for k, v in published.SHARED_SETTINGS.items() if "augmentation" in k
    }
    assert wanted == {
        "brightness": found["brightness"],
        "contrast": found["contrast"],
        "crop_padding": found["padding"],
        "flip": found["p"] == 0.5,
        "crop_fill": "black" if names.index("RandomCrop") < names.index("Normalize") else "mean",
    }


HALF_FIRST = [
    (data, tasks, pair)
    for (_, data), results in published.HALF_FIRST_RESULTS.items()
    for tasks, pair in results.items()
]


@pytest.mark.parametrize(("data", "tasks", "pair"), HALF_FIRST)
def test_the_config_of_rdfcil_holds_its_setting_with_half_of_the_classes_first(data, tasks, pair):
    split = {"first_task_size": published.CLASSES[data] // 2, "num_tasks": tasks}
    config = load(f"rdfcil_{data}", **split)
    assert published.result(config) == pair
    wanted = published.setting(config)
    assert wanted.keys() > published.SHARED_SETTINGS.keys()
    assert published.differences(config, wanted) == []
    assert [key for key in wanted if published.lookup(config, key) is None] == []


def test_rdfcil_has_no_figure_for_equal_tasks_or_on_another_ground():
    config = load("rdfcil_cifar100")
    assert published.result(config) is None
    assert published.result(config | {"first_task_size": 50, "num_tasks": 7}) is None
    other = load("rdfcil_cifar100", first_task_size=50, num_tasks=6, **{"model.name": "resnet32"})
    found = published.differences(other, published.setting(other))
    assert list(map(str, found)) == ["model.name resnet32 instead of resnet32_rdfcil"]
