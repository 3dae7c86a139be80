"""A tiny experiment, run in this process or as its user runs it, and what it leaves behind."""

import functools
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from rich.console import Console

from cljax import build, experiment, problem
from cljax import settings as settings_lib
from cljax.data.sources import Dataset
from cljax.output import checkpoints
from cljax.output.checkpoints import Checkpoints
from tests import FAST_COMPILE

ROOT = Path(__file__).resolve().parents[2]

# Two tasks of two epochs with an inversion of two stretches between them, two steps each. A test
# in which the network proves something names another.
TINY = {
    "model.name": "tests.helpers.tiny_network:TinyNetwork",
    "model.width": 4,
    "epochs": 2,
    "milestones": (1,),
    "batch_size": 8,
    "max_tasks": 2,
    "data.per_class": 10,
    "eval.batch_size": 64,
    "checkpoint.every_epochs": 1,
    "checkpoint.every_inversion_steps": 2,
}
TINY_INVERSION = {"inversion.steps": 4, "inversion.steps_per_epoch": 2}
TINY_FINETUNING = {"method.finetuning_epochs": 2}
STABLE = {"inversion__lr": 1e-5}  # for `assert_near_run`
# Of 20 images a task, BiC holds out 2 x 2 of each class: a batch.
TINY_MEMORY = {"exemplars.total": 40, "batch_size": 4}


def make_config(name: str = "abd", **settings):
    """The tiny config of configs/NAME_digits.py; settings have __ for dots: optimizer__lr=0.5."""
    config = _digits(name)
    config.update_from_flattened_dict(
        _tiny(config) | {key.replace("__", "."): value for key, value in settings.items()}
    )
    return config


def _digits(name):
    return importlib.import_module(f"configs.{name}_digits").get_config()


def _tiny(config):
    tiny = TINY | (TINY_INVERSION if "inversion" in config else {})
    tiny |= TINY_FINETUNING if "finetuning_epochs" in config.method else {}
    return tiny | (TINY_MEMORY if config.exemplars.total else {})


def make_problem(config):
    """The problem of a config."""
    return problem.make_problem(settings_lib.read(config))


def empty_dataset(*image_shape: int, num_classes: int = 10, input_size: int = 0) -> Dataset:
    """A dataset of one black image, for what needs to know shapes only."""
    images, labels = np.zeros((1, *image_shape), np.uint8), np.zeros(1, np.int32)
    names = tuple(map(str, range(num_classes)))
    moments = [(value,) * image_shape[-1] for value in (0.5, 0.25)]
    return Dataset(
        "empty", images, labels, images, labels, num_classes, names, *moments, input_size
    )


def make_method(config, dataset):
    """The method of a config."""
    return build.make_method(settings_lib.read(config), dataset)


def run(config, workdir: Path) -> str:
    """Runs a config in this process; returns what the console showed."""
    console = Console(file=io.StringIO(), width=200)
    experiment.run(config, workdir, console)
    return console.file.getvalue()


def on_demand(make_config: Callable, make_folder: Callable[[str], Path]) -> Callable[[str], Path]:
    """A function from a name to the workdir of its run, which starts when it is first asked for."""

    @functools.cache
    def workdir(name):
        path = make_folder(name) / "run"
        run(make_config(name), path)
        return path

    return workdir


def arguments(workdir: Path, name: str = "", **settings) -> list[str]:
    """The command line of `make_config`'s tiny config; without a name that of the default, ABD."""
    settings = _tiny(_digits(name or "abd")) | {
        key.replace("__", "."): value for key, value in settings.items()
    }
    config = [f"--config={ROOT}/configs/{name}_digits.py"] if name else []
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    return [*config, f"--workdir={workdir}", *flags]


def start(
    *args,
    cache: str | None = None,
    fault: tuple[str, ...] = (),
    devices: int = 1,
    variables: Mapping[str, str] = MappingProxyType({}),
    **kwargs,
):
    """Starts main.py, or tests/helpers/faults.py with main.py inside, with so many virtual devices.

    `variables` are added to its environment.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    if devices > 1:
        environment["XLA_FLAGS"] = (
            f"--xla_force_host_platform_device_count={devices} {FAST_COMPILE}"
        )
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    program = [ROOT / "tests" / "helpers" / "faults.py", *fault] if fault else [ROOT / "main.py"]
    return subprocess.Popen(
        [sys.executable, *program, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **kwargs,
    )


def command(*args, timeout: float = 300, **kwargs) -> tuple[int, str, str]:
    """Runs main.py to its end: (exit status, standard output, standard error)."""
    process = start(*args, **kwargs)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def assert_one_line(status: int, err: str, *words: str) -> None:
    """A user's mistake: exit status 1 and one line on standard error that has the words."""
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert status == 1
    for word in words:
        assert word in err, err


def results(workdir: Path) -> dict:
    """results.json without what differs from run to run."""
    content = json.loads((workdir / "results.json").read_text())
    del content["seconds"], content["cost"]
    content["versions"].pop("commit", None)  # someone may commit while tests run
    return content


def metrics(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl without what differs from run to run."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["images_per_second"]
    return rows


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint."""
    saved = Checkpoints(workdir / "checkpoints", keep=None, read_only=True)
    found, _ = saved.restore()
    saved.close()
    return found


def change_record(checkpoint: Path, change) -> None:
    """Applies `change` to a checkpoint's record, as another version of the program writes it."""
    path = checkpoint / "record" / "metadata"
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content["record"])
    content["checksum"] = checkpoints._checksum_of_json(content)
    path.write_text(json.dumps(content))


def models(workdir: Path, task: int = 1) -> dict[str, np.ndarray]:
    """The arrays of the classifiers after a task, counted from 1."""
    saved = Checkpoints(workdir / "models", keep=None, read_only=True)
    found, _ = saved.read(task)
    saved.close()
    return found


def assert_same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def assert_near_run(workdir: Path, reference: Path) -> None:
    """Two runs differ by no more than the order of their sums.

    After few steps that is a matter of 1e-6; later a ReLU that switches makes more of it, so
    parameters are compared after the first task only. Adam's first steps are as long on gradients
    that are zero but for rounding, such as those of biases before batch norm, as on all others:
    STABLE keeps them short. Seeds that were added later have their lines later.
    """
    one, other = (
        sorted(metrics(path), key=lambda row: (row["seed"], row["global_epoch"]))
        for path in (workdir, reference)
    )
    assert len(one) == len(other)
    for row, right in zip(one, other, strict=True):
        assert row.keys() == right.keys()
        for name, value in right.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=2e-3, abs=2e-4)
            assert row[name] == value, (name, right)
    one, other = models(workdir), models(reference)
    assert one.keys() == other.keys()
    for name, array in other.items():
        assert one[name].dtype == array.dtype, name
        if "['generator']" not in name:  # whose metrics are compared above
            np.testing.assert_allclose(one[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Two runs have left the same, bit for bit, but for what a clock says."""
    assert results(workdir) == results(reference)
    assert metrics(workdir) == metrics(reference)
    assert_same_arrays(arrays(workdir), arrays(reference))
    dreamed = [{path.name for path in run.rglob("dreamed*.png")} for run in (workdir, reference)]
    assert dreamed[0] == dreamed[1]
