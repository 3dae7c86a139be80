"""The shipped configs hold the published values, and become the right parts."""

import importlib
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from cljax import build, settings
from cljax.errors import UserError
from cljax.methods import METHODS
from tests.helpers.tiny_runs import empty_dataset, make_method

PATHS = (Path(__file__).parents[1] / "configs").glob("[a-z]*_*.py")
CONFIGS = sorted(path.stem for path in PATHS if not path.stem.startswith("table_"))
CIFAR = empty_dataset(32, 32, 3, num_classes=100)


def load(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.lock()
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_builds_its_method(name):
    config = load(name)
    config.grid = ()  # which is not of a single run
    shapes = {"digits": (8, 8, 1), "tiny_imagenet": (64, 64, 3)}
    dataset = empty_dataset(
        *shapes.get(config.data.name, (32, 32, 3)), input_size=config.data.image_size
    )
    assert type(make_method(config, dataset)).__name__ == METHODS[config.method.name][1]


ORIGINAL = {  # our name: the run in the original scripts
    "abd": "abd",
    "base": "base",
    "lwf": "lwf",
    "lwf_mc": "lwf_mc",
    "deep_inversion": "deepinv",
    "deep_inversion_lwf": "lwf_synthetic",
    "oracle": "oracle",
    "dgr": "dgr",
    "rehearsal": "rehearsal",
    "lwf_rehearsal": "lwf_coreset",
    "e2e": "e2e",
    "bic": "bic",
}


SCRIPTS = {
    "cifar100": ("cifar100-fivetask", 100),
    "tiny_imagenet": ("tinyimnet-twentytask", 200),
    "imagenet50": ("imnet-fivetask", 50),
}
# our names of the script's networks: one without projections has 6n+2 layers
MODELS = {"resnet18": "resnet14"}
GENERATORS = {"CIFAR_GEN": "cifar", "TINYIMNET_GEN": "tiny_imagenet", "IMNET_GEN": "imagenet"}
ON_IMAGENET = ("abd", "base", "lwf", "lwf_mc", "oracle", "rehearsal", "lwf_rehearsal")


@pytest.mark.parametrize(
    ("data", "name"),
    [("cifar100", name) for name in ORIGINAL]
    + [("tiny_imagenet", name) for name in ORIGINAL if name != "dgr"]  # the script has no DGR
    + [("imagenet50", name) for name in ON_IMAGENET],
)
def test_configs_hold_the_values_of_the_original_scripts(goldens, data, name):
    hparams = json.loads((goldens.folder / "hparams.json").read_text())
    script, num_classes = SCRIPTS[data]
    original = hparams["experiments"][script][ORIGINAL[name]]
    config = load(f"{name}_{data}")
    assert config.data.name == data
    first, later = original["first_split_size"], original["other_split_size"]
    assert config.num_tasks == num_classes // first and first == later
    if original["max_task"] > 0:
        assert config.task_sizes == (first,) * original["max_task"]
    assert [*config.milestones, config.epochs] == original["schedule"]
    assert config.batch_size == original["batch_size"]
    assert config.model.name == MODELS.get(original["model_name"], original["model_name"])
    # Their loader of ImageNet gets its order from NumPy, and `main` counts its top-5 accuracy.
    is_imagenet = original["dataset"] == "ImageNet"
    assert config.eval.top_k == (5 if is_imagenet else 1)
    assert config.data.class_order == ("numpy:1993" if is_imagenet else "shuffled")
    optimizer = config.optimizer
    found = optimizer.lr, optimizer.momentum, optimizer.weight_decay
    assert found == (original["lr"], original["momentum"], original["weight_decay"])
    if "mu" in config.method:
        assert config.method.mu == original["mu"]
    if "temperature" in config.method:
        assert config.method.temperature == original["temp"]
    assert config.exemplars.total == original["memory"]
    assert (config.method.name == "oracle") == original["oracle_flag"]
    if "inversion" in config:
        settings = config.inversion
        weights = (
            settings.lr,
            settings.statistics,
            settings.prior,
            settings.temperature,
            settings.content,
        )
        assert list(weights) == original["deep_inv_params"]
        assert settings.steps == original["power_iters"]
        assert settings.generator == GENERATORS[original["gen_model_name"]]


def test_schedule_scale_shortens_everything_together():
    config = load("abd_cifar100")
    config.schedule_scale = 0.1
    method = make_method(config, CIFAR)
    assert method.training.epochs == 25
    assert method.training.schedule.milestones == (10, 15, 20)
    assert method.inversion_stage.inversion.steps == 1000
    config.schedule_scale = 1e-6
    assert make_method(config, CIFAR).training.epochs == 1


def test_inversion_steps_are_split_into_epochs_that_add_up():
    config = load("abd_cifar100")
    config.inversion.steps, config.inversion.steps_per_epoch = 1100, 500
    stage = make_method(config, CIFAR).inversion_stage
    assert [stage.num_steps(epoch, 0) for epoch in range(stage.epochs)] == [500, 500, 100]
    assert stage.log_scalars(2) == {"step": 1100}


@pytest.mark.parametrize(
    ("dtype", "expected", "precision"),
    [
        ("auto", jnp.float32, "highest"),  # on CPU
        ("float32", jnp.float32, "highest"),
        ("tf32", jnp.float32, "tensorfloat32"),
        ("bfloat16", jnp.bfloat16, "default"),
    ],
)
def test_dtype_reaches_networks_and_images(dtype, expected, precision):
    config = load("abd_cifar100")
    config.dtype = dtype
    method = make_method(config, CIFAR)
    assert method.classifier.backbone.dtype == expected
    assert method.inversion_stage.inversion.generator.dtype == expected
    assert method.preprocessing.dtype == expected
    assert build.matmul_precision(settings.read(config)) == precision


def test_a_setting_that_the_method_lacks_names_the_nearest():
    config = load("abd_cifar100")
    with config.unlocked():
        config.method.mue = 1.0
    with pytest.raises(UserError, match=r"config\.method\.mue.*did you mean config\.method\.mu"):
        make_method(config, CIFAR)


def test_a_method_that_dreams_needs_a_block_inversion():
    config = load("base_cifar100")
    config.method.name = "abd"
    with pytest.raises(UserError, match=r"config\.inversion is missing"):
        make_method(config, CIFAR)
