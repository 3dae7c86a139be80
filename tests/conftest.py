"""Where the tests find the golden numbers and the prepared data sets, and fixtures they share."""

import gc
import logging
import os
import shutil
import signal
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cljax import build, training
from cljax.compute import executor
from cljax.output import plots
from tests import AS_USERS_ROUND
from tests.helpers import compact, golden_updates, tiny_runs
from tests.helpers.goldens import GOLDENS, PRECISIONS, SHARED

TFDS = Path(os.environ.get("CLJAX_TFDS", SHARED / "tfds"))
TINY_IMAGENET = Path(
    os.environ.get("CLJAX_TINY_IMAGENET", SHARED / "tiny-imagenet-200.zip")
).absolute()
IMAGENET_SAMPLES = Path(
    os.environ.get("CLJAX_IMAGENET_SAMPLES", SHARED / "imagenet_samples")
).absolute()

# Orbax leaves tasks behind whose failure asyncio would tell after the tests of damaged files.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


# Files of more than half a minute start first: no process is left alone with one at the end.
LONG = (
    "runs/test_real_data.py",
    "goldens/test_methods.py",
    "runs/test_resume_learners.py",
    "runs/test_distributed.py",
    "plans/test_table.py",
    "compute/test_mesh.py",
    "goldens/test_lucir_updates.py",
    "runs/test_residence.py",
    "goldens/test_staged_methods.py",
    "runs/test_memory_bound.py",
    "runs/test_resume_killed.py",
    "goldens/test_rdfcil_updates.py",
    "test_experiment.py",
    "runs/test_imagenet.py",
    "goldens/test_dgr.py",
    "runs/test_first_contact.py",
    "compute/test_lowering.py",
    "runs/test_growth.py",
    "benchmark/test_benchmark.py",
    "goldens/test_inversion.py",
    "runs/test_interleaved.py",
    "docs/test_adding_a_dataset.py",
    "plans/test_grid.py",
)


def pytest_collection_modifyitems(items):
    """Puts the tests of `LONG` first, in its order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def goldens(tmp_path_factory):
    """A function from a name to the arrays of `dfcil/NAME.npz`, numbers of the original code."""
    return _golden_folder("dfcil", tmp_path_factory)


@pytest.fixture(scope="session")
def lucir_goldens(tmp_path_factory):
    """The same for `lucir/NAME.npz`."""
    return _golden_folder("lucir", tmp_path_factory)


@pytest.fixture(scope="session")
def rdfcil_goldens(tmp_path_factory):
    """The same for `rdfcil/NAME.npz`, which is not in the compact set."""
    if not (GOLDENS / "rdfcil").is_dir():
        pytest.skip(f"no golden numbers of R-DFCIL at {GOLDENS}; set CLJAX_GOLDENS")
    return _golden_folder("rdfcil", tmp_path_factory)


def _golden_folder(name, tmp_path_factory):
    folder, archive = GOLDENS / name, GOLDENS / f"{name}.zip"
    if archive.is_file():
        folder = tmp_path_factory.mktemp(f"goldens_{name}")
        compact.expand(archive, folder)
    elif not folder.is_dir():
        pytest.fail(f"no golden numbers at {folder}; set CLJAX_GOLDENS to the folder of {name}/")
    cache = {}

    def load(name):
        if name not in cache:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
                cache[name] = dict(archive)
        return cache[name]

    load.folder = folder
    return load


@pytest.fixture(scope="module", params=PRECISIONS)
def original(goldens, request):
    """The original's networks and inputs, once per precision: `golden_updates.make_original`."""
    return golden_updates.make_original(goldens, request.param)


@pytest.fixture(scope="session")
def tfds_dir():
    """The folder of the prepared TFDS sets `cifar10` and `cifar100`."""
    if not TFDS.is_dir():
        pytest.skip(f"no prepared data sets at {TFDS}; set CLJAX_TFDS to a TFDS data_dir")
    return TFDS


@pytest.fixture(scope="session")
def tiny_imagenet_dir():
    """The folder of `tiny-imagenet-200.zip`, the whole dataset or a part of it."""
    if not TINY_IMAGENET.is_file():
        pytest.skip(f"no file {TINY_IMAGENET}; set CLJAX_TINY_IMAGENET to tiny-imagenet-200.zip")
    return TINY_IMAGENET.parent


@pytest.fixture
def round_as_users_do(monkeypatch):
    """The tests' cheapest compilation makes other sums of programs that differ in their inputs."""
    usual = executor.compiler_options
    monkeypatch.setattr(
        executor, "compiler_options", lambda *args: (usual(*args) or {}) | AS_USERS_ROUND
    )
    monkeypatch.setattr(plots, "write_plots", lambda *args: [])


@pytest.fixture(scope="session")
def imagenet_samples():
    """A folder with a folder of images for each of some classes of ImageNet."""
    if not IMAGENET_SAMPLES.is_dir():
        pytest.skip(f"no images at {IMAGENET_SAMPLES}; set CLJAX_IMAGENET_SAMPLES to their folder")
    return IMAGENET_SAMPLES


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """XLA maps memory for every compiled program, and a process may map so much only."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def few_collections():
    """What is imported by now stays; to look through it again and again takes a tenth of the time.

    `forget_programs` collects the rest after every file.
    """
    gc.collect()
    gc.freeze()
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory):
    """The tests and what they start leave the user's cache folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_session_folder(tmp_path_factory) / "cache"))
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes seconds
        yield


def _session_folder(tmp_path_factory):
    """A folder of the session, the same in all its processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    """A folder of compiled programs, used by all processes of the session and those they start."""
    folder = str(_session_folder(tmp_path_factory) / "compiled")
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX has decided by now whether there is one
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def executors():
    """The executors of this session by their form."""
    return {}


@pytest.fixture(scope="module")
def fast_runs(compiled, executors):
    """Makes runs in this process fast: they share compiled programs, and draw no plots."""
    make = build.make_executor

    def make_executor(config):
        form = config.execution.seeds, config.execution.loop
        if form not in executors:
            executors[form] = make(config)
        return executors[form]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_executor", make_executor)
        patch.setattr(plots, "write_plots", lambda *args: [])
        yield


@pytest.fixture(scope="session")
def reference(compiled, tmp_path_factory):
    """The workdir of the tiny experiment, run without an interruption by its user's command."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    status, _, err = tiny_runs.command(*tiny_runs.arguments(workdir), cache=compiled)
    assert status == 0, err
    assert err == ""
    return workdir


@pytest.fixture(scope="session")
def resnet_run(compiled, tmp_path_factory):
    """The workdir of the tiny experiment with a ResNet, which has names in PyTorch."""
    workdir = tmp_path_factory.mktemp("resnet_run") / "run"
    tiny_runs.run(tiny_runs.make_config(model__name="resnet8"), workdir)
    return workdir


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(number, epoch, step): the signal comes at the step of the epoch, from 0."""
    run_epoch = training.run_epoch

    def arrange(number: int, epoch: int, step: int):
        left = [epoch]

        def interrupted(*args):
            *args, stopped = args
            step_left = [step if left[0] == 0 else -1]
            left[0] -= 1

            def asked():
                if step_left[0] == 0:
                    signal.raise_signal(number)
                step_left[0] -= 1
                return stopped()

            return run_epoch(*args, asked)

        monkeypatch.setattr(training, "run_epoch", interrupted)

    yield arrange


@pytest.fixture(scope="module")
def failed_run(fast_runs, tmp_path_factory):
    """A workdir whose run failed in the second task's second epoch."""
    workdir = tmp_path_factory.mktemp("failed")
    run_epoch, epochs = training.run_epoch, []

    class Failure(Exception):
        pass

    def failing(*args):
        epochs.append(None)
        if len(epochs) == 6:
            raise Failure
        return run_epoch(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Failure):
        patch.setattr(training, "run_epoch", failing)
        tiny_runs.run(tiny_runs.make_config(), workdir)
    return workdir


@pytest.fixture
def half(failed_run, tmp_path):
    """The workdir of a failed run, to do with as one likes."""
    return shutil.copytree(failed_run, tmp_path / "half")
