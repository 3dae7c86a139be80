"""How devices share seeds and batches."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from cljax.compute.mesh import make_mesh, mesh_shape, shard_batch
from cljax.errors import UserError
from tests import FAST_COMPILE
from tests.helpers import tiny_runs

PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]


@pytest.mark.parametrize(
    ("num_devices", "wanted", "num_seeds", "batch_size", "shape"),
    [
        (1, (0, 0), 3, 128, (1, 1)),
        (8, (0, 0), 1, 128, (1, 8)),
        (8, (0, 0), 3, 128, (3, 2)),  # seeds first, although two devices are idle
        (8, (0, 0), 4, 128, (4, 2)),
        (8, (0, 0), 16, 128, (8, 1)),
        (8, (0, 0), 6, 128, (6, 1)),
        (8, (0, 0), 5, 100, (5, 1)),
        (8, (0, 0), 1, 100, (1, 5)),
        (8, (0, 0), 7, 13, (7, 1)),
        (8, (2, 0), 4, 128, (2, 4)),
        (8, (0, 4), 4, 128, (2, 4)),
        (8, (1, 1), 4, 128, (1, 1)),
        (6, (0, 0), 4, 128, (4, 1)),
    ],
)
def test_shape(num_devices, wanted, num_seeds, batch_size, shape):
    assert mesh_shape(num_devices, *wanted, num_seeds, batch_size) == shape


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ((3, 0), "config.mesh.seeds=3: must divide the 4 seeds"),
        ((0, 3), "config.mesh.data=3: must divide both config.batch_size"),
        ((4, 4), "4 x 4 devices .* only 8 exist"),
        ((0, 16), "1 x 16 devices .* only 8 exist"),
        ((-1, 0), "config.mesh.seeds=-1: must be"),
        ((0, -2), "config.mesh.data=-2: must be"),
    ],
)
def test_shape_that_does_not_fit(wanted, words):
    with pytest.raises(UserError, match=words):
        mesh_shape(8, *wanted, 4, 128)


def test_single_device_needs_no_mesh():
    assert make_mesh(0, 0, 3, 128) is None
    batch = {"images": jnp.ones((8, 2)), "labels": jnp.arange(8)}
    shared = shard_batch(batch)
    assert all(shared[name] is batch[name] for name in batch)


def test_mesh_too_large_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.mesh: 2 x 1 devices"):
        tiny_runs.run(tiny_runs.make_config(seeds=(0, 1), mesh__seeds=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tests", ["not test_run", "test_run"])
def test_eight_devices(tests):
    flags = f"--xla_force_host_platform_device_count=8 {FAST_COMPILE}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    environment.pop("PYTEST_XDIST_WORKER", None)  # it is a session of its own
    done = subprocess.run(
        [*PYTEST, "-k", tests, "tests/helpers/eight_devices.py"],
        cwd=tiny_runs.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_near_runs_are_told_apart(reference, tmp_path):
    """The comparison that the tests of many devices rest on."""
    tiny_runs.assert_near_run(reference, reference)
    tiny_runs.run(tiny_runs.make_config(streams__augmentation=1), tmp_path)
    with pytest.raises(AssertionError):
        tiny_runs.assert_near_run(tmp_path, reference)
    assert np.isfinite([row["loss"] for row in tiny_runs.metrics(tmp_path)]).all()
