"""Tests for a process with eight devices, which tests/compute/test_mesh.py starts."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from rich.console import Console

from cljax import build
from cljax.compute import mesh as mesh_lib
from cljax.compute.executor import Executor
from cljax.models import norm
from cljax.output import plots
from cljax.plans import grid
from tests.compute.test_executor import FORMS, SHARING, affine, double, expected
from tests.compute.test_lowering import check, lower, record
from tests.helpers import tiny_runs

SHAPES = [(4, 1), (4, 2), (2, 4), (1, 8)]  # devices along seeds and data


def make_executor(shape, sharing="sequential", loop=False):
    return Executor(sharing, loop, mesh_lib.make_mesh(*shape, num_seeds=4, batch_size=16))


def centre(shared, batch):
    """Rows of a batch without their mean, whose making the devices share."""
    batch = mesh_lib.shard_batch(shared * batch)
    return batch - batch.mean(0)


@pytest.mark.parametrize(("sharing", "loop"), FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_executor(shape, sharing, loop):
    executor = make_executor(shape, sharing, loop)
    constants = [np.float32(c) for c in (1, 2, -3, 4)]
    vectors = [np.arange(4, dtype=np.float32) + s for s in range(4)]
    for starts, stops in (([0] * 4, [5] * 4), ([2, 0, 5, 1], [5, 4, 5, 1])):
        carry = executor.distribute([(vector, np.int32(0)) for vector in vectors])
        inputs = jnp.float32(0.5), executor.distribute(constants)
        carry = executor.repeat(affine, inputs, carry, starts, stops)
        right = expected(0.5, constants, vectors, starts, stops)
        for (vector, count), (number, steps) in zip(executor.collect(carry), right, strict=True):
            np.testing.assert_allclose(vector, number, rtol=1e-6)
            assert count == steps
    assert executor.num_compilations() == {
        "affine": 1 if shape[0] == 1 and sharing == "sequential" else 2
    }
    values = [{"x": jnp.arange(3) + 10 * s} for s in range(4)]
    results = executor.collect(executor.call(double, 7, executor.distribute(values)))
    for value, result in zip(values, results, strict=True):
        np.testing.assert_array_equal(result["twice"], 2 * value["x"])
        np.testing.assert_array_equal(result["shifted"], value["x"] + 7)


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_share_seeds_and_batches(shape, sharing):
    executor = make_executor(shape, sharing)
    seeds = [np.random.default_rng(s).normal(size=(16, 3)).astype(np.float32) for s in range(4)]
    shared = mesh_lib.replicate(executor.mesh, np.float32([2]))
    value = executor.distribute(seeds)
    results = executor.collect(executor.call(centre, shared, value))
    for seed, result in zip(seeds, results, strict=True):
        np.testing.assert_allclose(result, 2 * (seed - seed.mean(0)), atol=1e-6)
    for group in value.groups:
        assert group.sharding.spec == P("seeds")
        assert (
            group.addressable_shards[0].data.shape[0]
            == (4 if sharing == "vmap" else shape[0]) / shape[0]
        )
    # Each device has its part of a batch, and must tell the others of its sum.
    program = executor.lower(centre).compile().as_text()
    assert ("all-reduce(" in program) == (shape[1] > 1)
    assert f"f32[{16 // shape[1]},3]" in program.replace("f32[1,", "f32[") or sharing == "vmap"


def moments_on_gpus(about, batch):
    """Batch norm's moments in the form of programs for GPUs."""
    return tuple(norm._one_pass(1.0, mesh_lib.shard_batch(batch), about))


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_share_one_reduction_of_two_arrays(shape, monkeypatch):
    monkeypatch.setattr(norm, "sums", norm._together)
    executor = make_executor(shape)
    draws = np.random.default_rng(0)
    seeds = [draws.normal(size=(16, 2, 2, 3)).astype(np.float32) for _ in range(4)]
    about = mesh_lib.replicate(executor.mesh, np.float32([0.5, 0, -1]))
    found = executor.collect(executor.call(moments_on_gpus, about, executor.distribute(seeds)))
    for seed, (mean, var) in zip(seeds, found, strict=True):
        np.testing.assert_allclose(mean, seed.mean((0, 1, 2)), atol=1e-6)
        np.testing.assert_allclose(var, seed.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "execution"),
    [
        ("abd", (2, 4), "auto"),
        ("lucir", (2, 2), "auto"),
        ("bic", (1, 4), "vmap"),
        ("base", (1, 4), "interleaved"),
        ("rdfcil", (2, 4), "auto"),
    ],
)
def test_run(name, shape, execution, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "write_plots", lambda *args: None)
    settings = {"seeds": (0, 1), "mesh__seeds": shape[0], "mesh__data": shape[1]}
    settings["execution__seeds"] = execution
    settings |= tiny_runs.STABLE if name in ("abd", "rdfcil") else {}
    settings |= {"model__name": "resnet8"} if name == "abd" else {}
    residence = {"data__residence": "stream"} if name == "lucir" else {}
    tiny_runs.run(tiny_runs.make_config(name, **settings, **residence), tmp_path / "many")
    settings |= {"mesh__seeds": 1, "mesh__data": 1, "execution__seeds": "sequential"}
    tiny_runs.run(tiny_runs.make_config(name, **settings), tmp_path / "one")
    tiny_runs.assert_near_run(tmp_path / "many", tmp_path / "one")


def test_run_grows_on_a_mesh(tmp_path, monkeypatch):
    """Two seeds and one task, then four and two; the new seeds catch up on the same rows."""
    monkeypatch.setattr(plots, "write_plots", lambda *args: None)
    on_mesh = {"mesh__seeds": 2, "mesh__data": 2}
    begun = tiny_runs.make_config("base", seeds=(0, 1), max_tasks=1, **on_mesh)
    tiny_runs.run(begun, tmp_path / "grown")
    shown = tiny_runs.run(
        tiny_runs.make_config("base", seeds=(0, 1, 2, 3), **on_mesh), tmp_path / "grown"
    )
    assert "adds seeds 2, 3 and tasks 2 to 2 to this run" in shown
    on_one = {"mesh__seeds": 1, "mesh__data": 1}
    whole = tiny_runs.make_config("base", seeds=(0, 1, 2, 3), **on_one)
    tiny_runs.run(whole, tmp_path / "one")
    tiny_runs.assert_near_run(tmp_path / "grown", tmp_path / "one")


def test_points_of_a_grid_are_side_by_side_on_a_mesh(tmp_path, monkeypatch):
    """Alone, a point of one seed would spread its batches over all devices."""
    monkeypatch.setattr(plots, "write_plots", lambda *args: None)
    settings = {"epochs": 1, "milestones": ()}
    config = tiny_runs.make_config("lwf", **settings)
    weights = (0.5, 1.0, 2.0, 4.0)
    config.grid = ({"method.mu": weights},)
    made, make = [], build.make_executor
    monkeypatch.setattr(build, "make_executor", lambda given: made.append(make(given)) or made[-1])
    grid.run(config, tmp_path / "grid", Console(file=io.StringIO()))
    assert [dict(executor.mesh.shape) for executor in made] == [{"seeds": 4, "data": 2}]
    settings |= {"mesh__seeds": 1, "mesh__data": 1}
    for mu in weights[::3]:
        alone = tmp_path / f"alone{mu}"
        tiny_runs.run(tiny_runs.make_config("lwf", method__mu=mu, **settings), alone)
        tiny_runs.assert_near_run(tmp_path / "grid" / f"mu={mu}", alone)


@pytest.mark.parametrize("name", ["abd", "lucir"])
def test_run_lowers_for_accelerators(name, tmp_path, monkeypatch):
    settings = {"seeds": (0, 1), "epochs": 1, "milestones": ()}
    mesh = mesh_lib.make_mesh(2, 4, num_seeds=2, batch_size=8)
    executor = record(tiny_runs.make_config(name, **settings), tmp_path, monkeypatch, mesh)
    texts = [lower(program, args) for program, args in executor.programs]
    for text in texts:
        check(text)
    # A program that only makes constants is lowered for one device.
    assert sum("num_partitions = 8" in text for text in texts) >= len(texts) - 1 >= 13
