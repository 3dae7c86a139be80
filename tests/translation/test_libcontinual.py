"""Settings of LibContinual start the runs of our configs; what differs is listed, key by key."""

import copy
from types import MappingProxyType

import pytest
import yaml

from cljax import errors, experiment
from cljax.errors import UserError
from cljax.output import workdir
from cljax.plans import table
from cljax.translation import libcontinual as translation
from configs import common, libcontinual
from tests.helpers.configs import changed, shipped
from tests.helpers.libcontinual_files import CROP, FILES, FLIP, MEAN, STD
from tests.helpers.tiny_runs import empty_dataset, make_method

# LibContinual draws the class order and everything else with one seed, 1993 if none is given.
SEED = {"seeds": (1993,)}
ORDER = SEED | {"data.class_order": "numpy:1993"}
MOMENTS = {"data.mean": (0.5071, 0.4866, 0.4409), "data.std": (0.2675, 0.2565, 0.2761)}
# Our configs have the ABD paper's augmentation and network.
GROUND = ORDER | MOMENTS | {"data.augmentation.contrast": 0.0}

# file: (our config, what differs from it)
RUNS = {
    "document": ("lucir_cifar100_libcontinual", SEED | {"batch_size": 64}),
    "lucir": (
        "lucir_cifar100_libcontinual",
        {
            "num_tasks": 11,
            "seeds": (2,),
            "data.class_order": "numpy:2",
            "data.std": (0.2009, 0.1984, 0.2023),
            "data.augmentation.brightness": 0.0,
            "eval.batch_size": 100,
        },
    ),
    "wa": ("wa_cifar100", GROUND | {"method.name": "libcontinual_wa", "model.name": "resnet18"}),
    "icarl": (
        "icarl_cifar100",  # has the paper's rates and epochs
        ORDER
        | MOMENTS
        | {
            "method.name": "libcontinual_icarl",
            "model.name": "resnet32_projection",
            "data.augmentation.brightness": 63 / 255,
            "eval.read_outs": (),
            "epochs": 170,
            "init_epochs": 200,
            "milestones": (),
            "schedule.name": "cosine",
            "schedule.arguments.decay_steps": 100,
            "schedule.arguments.alpha": 0.0,
            "optimizer.lr": 0.1,
            "optimizer.decay": 0.1,
            "optimizer.weight_decay": 5e-4,
        },
    ),
    "lwf": (
        "lwf_cifar100",
        GROUND
        | {
            "method.name": "libcontinual_lwf",
            "method.mu": 3.0,
            "model.name": "resnet34",
            "drop_last": False,
            "epochs": 100,
            "milestones": (30, 60, 90),
            "optimizer.decay": 0.5,
            "optimizer.momentum": 0.0,
            "optimizer.weight_decay": 0.0,
        },
    ),
    "ewc": (
        "ewc_cifar100",
        GROUND
        | {
            "method.name": "libcontinual_ewc",
            "method.lamda": 1000.0,
            "model.name": "resnet34",
            "num_tasks": 10,
            "epochs": 100,
            "milestones": (60, 120, 170),
            "optimizer.weight_decay": 5e-4,
        },
    ),
    "bic": (
        "bic_cifar100",
        {
            "method.correct_at_test": True,
            "model.name": "resnet32_projection",
            "exemplars.strategy": "equal_random",
            "seeds": (2,),
            "data.class_order": "sequential",  # of the data set binary_cifar100
            "data.mean": (0.5071, 0.4866, 0.4409),
            "data.std": (0.2673, 0.2564, 0.2762),
            "data.augmentation.brightness": 0.0,
            "data.augmentation.contrast": 0.0,
        },
    ),
    "finetune": (
        "base_cifar10",
        GROUND
        | {
            "model.name": "resnet18",
            "exemplars.total": 500,
            "exemplars.strategy": "random",
            "batch_size": 64,
            "drop_last": False,
            "epochs": 3,
            "milestones": (),
            "optimizer.momentum": 0.0,
            "optimizer.weight_decay": 0.0,
        },
    ),
}


def write(folder, values, name="x.yaml"):
    (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))
    return str(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_starts_our_run(tmp_path, name):
    ours, differences = RUNS[name]
    found = libcontinual.get_config(write(tmp_path, FILES[name]))
    assert changed(found, shipped(ours)) == differences
    make_method(found, empty_dataset(32, 32, 3, num_classes=10 if name == "finetune" else 100))


def with_changes(name, changes):
    """A file's settings with values at dotted keys; None: without the key."""
    values = copy.deepcopy(FILES[name])
    for key, value in changes.items():
        *blocks, last = key.split(".")
        block = values
        for part in blocks:
            block = block.setdefault(part, {})
        block[last] = value
        if value is None:
            del block[last]
    return values


def test_what_has_no_counterpart_or_contradicts_itself_is_told(tmp_path):
    with errors.keeping_notes():
        libcontinual.get_config(write(tmp_path, FILES["document"], "lucir.yaml"))
    records, errors.EARLY_NOTES.buffer = errors.EARLY_NOTES.buffer, []
    header = "not found; LibContinual's own values are used"
    assert [record.getMessage() for record in records] == [
        f"lucir.yaml: {line}"
        for line in (
            f"includes headers/data.yaml: {header}",
            f"includes headers/device.yaml: {header}",
            f"includes headers/model.yaml: {header}",
            "save_path=./: results go to --workdir",
            "data_root=/data/cifar100: cifar100 is downloaded, or read in --config.data.dir",
            "epoch=50: LibContinual's default ends before milestone 120; 160 is used, so that the "
            "last part is as long as the one before",
            "classifier.kwargs.feat_dim=512: resnet32 has 64 features; the number is taken from "
            "the network",
            "buffer.kwargs.batch_size=128: without effect in LibContinual",
            "buffer.kwargs.strategy=herding: as published; "
            "--config.exemplars.strategy=libcontinual_herding is LibContinual's",
            "classifier.name=LUCIR: libcontinual_lucir; --config.method.name=lucir computes as the "
            "paper",
        )
    ]


def test_libcontinuals_headers_beside_the_file_change_nothing(tmp_path):
    alone = libcontinual.get_config(write(tmp_path, FILES["document"]))
    (tmp_path / "headers").mkdir()
    write(tmp_path / "headers", {"pin_memory": False, "image_size": 32}, "data.yaml")
    write(tmp_path / "headers", {"n_gpu": 1, "seed": 1993}, "device.yaml")
    write(tmp_path / "headers", {"epoch": 50, "batch_size": 64}, "model.yaml")
    path = write(tmp_path, FILES["document"])
    assert changed(libcontinual.get_config(path), alone) == {}
    notes = translation.read(path).notes
    assert "pin_memory=False: images are on the device" in notes
    write(tmp_path / "headers", {"epoch": 200, "batch_size": 32}, "model.yaml")
    assert changed(libcontinual.get_config(path), alone) == {"epochs": 200, "batch_size": 32}


@pytest.mark.parametrize(
    ("name", "changes", "settings", "note"),
    [
        ("lucir", {"optimizer.kwargs.lr": 0.2}, {"optimizer.lr": 0.2}, "LUCIR has 0.1"),
        ("lucir", {"class_order": [1, 0]}, {"data.class_order": "1,0"}, ""),
        (
            "lucir",
            {"task_num": 2},
            {"task_sizes": (50, 5), "num_tasks": 5, "first_task_size": 0},
            "",
        ),
        (
            "lucir",
            {"inc_cls_num": 50, "task_num": 2, "classifier.kwargs.inc_cls_num": None},
            {"num_tasks": 2, "first_task_size": 0},
            "",
        ),
        ("lucir", {"init_epoch": 90}, {"init_epochs": 90}, ""),
        (
            "lucir",
            {"init_optimizer": {"name": "SGD", "kwargs": {"lr": 0.2, "momentum": 0.8}}},
            {"optimizer.init_lr": 0.2},
            "init_optimizer.kwargs.momentum=0.8: the first task has the optimizer's, 0.9",
        ),
        (
            "lucir",
            {"optimizer.kwargs.nesterov": True},
            {"optimizer.arguments.nesterov": True},
            "",
        ),
        (
            "wa",
            {"optimizer": {"name": "AdamW", "kwargs": {"lr": 0.01, "betas": [0.8, 0.9]}}},
            {
                "optimizer.name": "adamw",
                "optimizer.lr": 0.01,
                "optimizer.weight_decay": 0.01,
                "optimizer.arguments.b1": 0.8,
                "optimizer.arguments.b2": 0.9,
                "optimizer.arguments.eps": 1e-8,
            },
            "",
        ),
        (
            "wa",
            {
                "lr_scheduler": {
                    "name": "CosineAnnealingLR",
                    "kwargs": {"T_max": 250, "eta_min": 0.05},
                }
            },
            {
                "milestones": (),
                "schedule.name": "cosine",
                "schedule.arguments.decay_steps": 250,
                "schedule.arguments.alpha": 0.5,
            },
            "",
        ),
        (
            "wa",
            {"lr_scheduler": {"name": "PolynomialLR", "kwargs": {"total_iters": 250}}},
            {
                "milestones": (),
                "schedule.name": "polynomial",
                "schedule.arguments.transition_steps": 250,
                "schedule.arguments.power": 1.0,
                "schedule.arguments.end_value": 0.0,
            },
            "",
        ),
        ("wa", {"lr_scheduler": {"name": "CosineSchedule"}}, {"milestones": ()}, "stays as it is"),
        ("lucir", {"image_size": 64}, {}, "image_size=64: the images of cifar100 keep their"),
        (
            "lucir",
            {"buffer.kwargs.strategy": "reservoir"},
            {"exemplars.strategy": "reservoir"},
            "LibContinual keeps nothing then",
        ),
        (
            "lucir",
            {"buffer.kwargs.strategy": None},
            {"exemplars.strategy": "none", "exemplars.total": 0},
            "",
        ),
        ("lucir", {"buffer": None}, {"exemplars.total": 0}, ""),
        ("lucir", {"classifier.kwargs.num_class": 105}, {}, "num_class=105: the head has a column"),
        ("lucir", {"lr_scheduler": {"name": "Constant"}}, {"milestones": ()}, ""),
        (
            "lucir",
            {"epoch": 4, "lr_scheduler": {"name": "ExponentialLR", "kwargs": {"gamma": 0.9}}},
            {"epochs": 4, "milestones": (1, 2, 3), "optimizer.decay": 0.9},
            "",
        ),
        ("lucir", {"classifier.kwargs": {"lamda": 2}}, {"method.lamda": 2.0}, ""),
        ("ewc", {"backbone.kwargs.args.cosine_fc": True}, {"model.head": "cosine"}, ""),
        ("ewc", {"buffer": FILES["lucir"]["buffer"]}, {}, "=2000: EWC keeps no exemplars"),
        ("ewc", {"backbone.name": "resnet50"}, {"model.name": "resnet50"}, "has 2048 features"),
        (
            "ewc",
            {"dataset": "tiny-imagenet", "backbone.kwargs.args.dataset": "tiny-imagenet"},
            {
                "data.name": "tiny_imagenet",
                "model.name": "resnet34_imagenet",
                "data.mean": (),
                "data.std": (),
                "task_sizes": (10,) * 10,
                "num_tasks": 5,
            },
            "train_trfms: absent; the moments of tiny_imagenet are cljax's",
        ),
        (
            "ewc",
            {"dataset": "folder", "data_root": "/x", "image_size": 48},
            {
                "data.name": "folder",
                "data.path": "/x",
                "data.image_size": 48,
                "data.mean": (),
                "data.std": (),
            },
            "",
        ),
        ("ewc", {"backbone.kwargs.args": None, "data_root": "/data/cifar100"}, {}, "data_root="),
        (
            "ewc",
            {"train_trfms": [FLIP, {"ToTensor": None}]},
            {
                "data.standardise": False,
                "data.augmentation.crop_padding": 0,
                "data.augmentation.brightness": 0.0,
                "data.mean": (),
                "data.std": (),
            },
            "",
        ),
        (
            "bic",
            {
                "train_trfms": [
                    {"ColorJitter": {"brightness": 0.5}},
                    {"AutoAugment": {}},
                    CROP,
                    {"Normalize": {"mean": MEAN, "std": STD}},
                ]
            },
            {"data.augmentation.brightness": 0.5, "data.augmentation.flip": False},
            "train_trfms: AutoAugment: no counterpart; it is left out",
        ),
    ],
)
def test_what_a_key_changes(tmp_path, name, changes, settings, note):
    before = libcontinual.get_config(write(tmp_path, FILES[name]))
    path = write(tmp_path, with_changes(name, changes), "changed.yaml")
    assert changed(libcontinual.get_config(path), before) == settings
    notes = translation.read(path).notes
    assert not note or len([line for line in notes if note in line]) == 1, notes


MISTAKES = {
    "unknown key": ({"epochs": 3}, "x.yaml: epochs=3: unknown key; did you mean epoch"),
    "unknown key of a block": ({"buffer.kwargs.size": 3}, "buffer.kwargs.size=3: unknown key"),
    "unknown key of a method": ({"classifier.kwargs.lambda": 5}, "did you mean lamda"),
    "method": ({"classifier.name": "LUCIRR"}, "unknown method; did you mean LUCIR?"),
    "other method": ({"classifier.name": "DER"}, "unknown method; known: EWC, Finetune, ICarl"),
    "dataset": ({"dataset": "cifar1000"}, "unknown dataset; did you mean cifar100"),
    "no dataset": ({"dataset": None, "backbone.kwargs.args": None}, "dataset=None: unknown"),
    "two datasets": ({"dataset": "cifar10"}, "backbone.kwargs.args.dataset is cifar100; use one"),
    "network": ({"backbone.name": "resnet33"}, "unknown network; did you mean"),
    "buffer": ({"buffer.name": "Buffer"}, "unknown buffer; did you mean LinearBuffer"),
    "strategy": ({"buffer.kwargs.strategy": "herd"}, "unknown strategy; did you mean herding"),
    "optimizer": (
        {"optimizer.name": "Adan"},
        "optimizer.name=Adan: is not translated; did you mean",
    ),
    "dampening": ({"optimizer.kwargs.dampening": 0.1}, "dampening=0.1: cljax's sgd has none"),
    "momenta": (
        {"optimizer": {"name": "Adam", "kwargs": {"lr": 0.1, "betas": 0.9}}},
        "optimizer.kwargs.betas=0.9: must be a list of two numbers",
    ),
    "two optimizers": (
        {"init_optimizer": {"name": "Adam", "kwargs": {"lr": 0.1}}},
        "init_optimizer.name=Adam: all tasks have one optimizer; use SGD",
    ),
    "no rate": ({"optimizer.kwargs.lr": None}, "optimizer.kwargs.lr is missing"),
    "text": ({"optimizer.kwargs.lr": "fast"}, "kwargs.lr=fast: must be a number from 0 on"),
    "infinite": ({"optimizer.kwargs.lr": float("inf")}, "kwargs.lr=inf: must be a number"),
    "two lines": ({"seed": "a\nb"}, "seed=a\\nb: must be a whole number"),
    "truth": ({"epoch": True}, "epoch=True: must be a whole number from 1 on"),
    "fraction": ({"epoch": 1.5}, "epoch=1.5: must be a whole number from 1 on"),
    "block": ({"optimizer": 3}, "optimizer=3: must be a block with name and kwargs"),
    "kwargs": ({"optimizer.kwargs": [1]}, "optimizer.kwargs=[1]: must be a block"),
    "no block": ({"backbone": None}, "backbone is missing; add this block"),
    "milestones": ({"lr_scheduler.kwargs.milestones": 80}, "must be a list of epochs"),
    "drops": (
        {"epoch": 10**9, "lr_scheduler": {"name": "StepLR", "kwargs": {"step_size": 1}}},
        "the rate changes more than 1000 times",
    ),
    "classes": ({"task_num": 12}, "task_num=12: has 105 classes, but there are only 100"),
    "contradiction": (
        {"classifier.kwargs.inc_cls_num": 10},
        "classifier.kwargs.inc_cls_num=10: inc_cls_num is 5; use one",
    ),
    "head": ({"classifier.kwargs.num_class": 50}, "num_class=50: the tasks have 100 classes"),
    "pretrained": ({"backbone.kwargs.pretrained": True}, "set --config.model.pretrained"),
    "order": ({"class_order": "abc"}, "class_order=abc: must be a list of class ids"),
    "transforms": ({"train_trfms": "flip"}, "train_trfms=flip: must be a list of transforms"),
    "arguments": ({"train_trfms": [{"RandomCrop": 4}]}, "RandomCrop: must have arguments as a"),
    "moments": ({"train_trfms": [{"Normalize": {"mean": 0}}]}, "Normalize.mean=0: must be a list"),
    "two moments": ({"train_trfms": [FLIP]}, "Normalize differs; use the same values"),
    "no folder": ({"dataset": "folder"}, "data_root is missing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(tmp_path, name):
    changes, words = MISTAKES[name]
    with pytest.raises(UserError) as error:
        libcontinual.get_config(write(tmp_path, with_changes("lucir", changes)))
    assert words in str(error.value)
    assert str(error.value).startswith("x.yaml: ")
    assert "\n" not in str(error.value)


def test_the_mapping_stays_as_it_is():
    before = copy.deepcopy(FILES["lucir"])
    translation.translate(MappingProxyType(FILES["lucir"]))
    assert FILES["lucir"] == before


def test_without_a_file():
    with pytest.raises(UserError, match="write --config=libcontinual:FILE"):
        libcontinual.get_config()
    assert libcontinual.default_workdir("a/lucir.yaml") == "runs/libcontinual_lucir"


def test_a_run_of_a_table(tmp_path):
    config = common.table("digits", ("base",), (5,))
    config.runs.mine = libcontinual.get_config(write(tmp_path, FILES["finetune"]))
    config.learners, config.first_split_only = ("mine",), ()
    config.splits, config.seeds = (5, 2), (0, 1)
    plan = dict(table.make_plan(config))
    assert list(plan) == ["mine_5tasks", "mine_2tasks"]
    found = changed(plan["mine_2tasks"], config.runs.mine)
    assert found == {"num_tasks": 2, "seeds": (0, 1)}


def test_a_workdir_belongs_to_the_settings_not_to_the_file(tmp_path):
    """The run goes on without the file, but not with another one."""
    settings = experiment.check(
        libcontinual.get_config(write(tmp_path, FILES["document"])), tmp_path / "run"
    )
    with workdir.claim(tmp_path / "run", settings):
        workdir.begin(tmp_path / "run", settings)
    (tmp_path / "x.yaml").unlink()
    ours = shipped("lucir_cifar100_libcontinual")
    ours.update(seeds=(1993,), batch_size=64)
    assert experiment.check(ours, tmp_path / "run") == settings
    path = write(tmp_path, with_changes("document", {"classifier.kwargs.lamda": 6}))
    with pytest.raises(UserError, match=r"other settings \(method\.lamda: 5\.0 -> 6\.0\)"):
        experiment.check(libcontinual.get_config(path), tmp_path / "run")
