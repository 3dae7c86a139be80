"""Packed trees, and loops that carry them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax.compute import device
from cljax.compute.executor import Executor
from cljax.compute.packing import Packed, pack, repack, unpack_all
from cljax.optimizers import SGD
from cljax.state import EpochState
from tests.helpers import tiny


def tree():
    random = np.random.default_rng(0)
    shapes = {"a": (3, 3, 2, 4), "b": (3, 3, 2, 4), "c": (4,), "d": (), "e": (4, 5), "f": (7,)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {"x": arrays, "count": np.int32(3), "none": None}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_arrays_of_one_shape_are_one():
    packed = pack(jax.tree.map(jnp.asarray, tree()))
    shapes = {key: array.shape for key, array in packed.arrays.items()}
    assert shapes == {
        ("float32", (3, 3, 2, 4)): (2, 3, 3, 2, 4),
        ("float32", (4, 5)): (1, 4, 5),
        ("float32", ()): (4 + 1 + 7,),
        ("int32", ()): (1,),
    }
    same(packed.unpack(), tree())
    same(jax.jit(lambda t: pack(t).unpack())(tree()), tree())
    same(pack({}).unpack(), {})


def test_only_what_changes_is_packed_again():
    packed = {"one": pack({"a": jnp.ones(2)}), "other": pack({"b": jnp.ones(3)}), "n": jnp.int32(0)}
    before = unpack_all(packed)
    after = before | {"other": {"b": before["other"]["b"] + 1}, "n": jnp.int32(1)}
    again = repack(packed, before, after)
    assert again["one"] is packed["one"] and isinstance(again["other"], Packed)
    same(unpack_all(again), {"one": {"a": np.ones(2)}, "other": {"b": np.full(3, 2.0)}, "n": 1})


def test_a_compiled_loop_carries_few_arrays():
    """Its result is that of the host's loop, and the step sees the state as it is."""
    learner = tiny.learner(
        {"a": jnp.ones((2, 3)), "b": jnp.zeros((2, 3))},
        {"mean": jnp.zeros(5)},
        opt_state=(jnp.ones(3),),
    )
    state = EpochState(learner, {"loss": jnp.float32(0)}, jnp.int32(0))

    def step(inputs, i, state):
        params = jax.tree.map(lambda p: p + i * inputs, state.learner.params)
        learner = state.learner.replace(params=params)
        return EpochState(learner, {"loss": state.sums["loss"] + 1}, jnp.int32(i + 1))

    results = []
    for sharing, compiled_loop, platform in (
        ("sequential", False, "cpu"),
        ("sequential", True, "cpu"),
        ("sequential", True, "gpu"),
        ("interleaved", True, "gpu"),
    ):
        with device.programs_for(platform):
            executor = Executor(sharing, compiled_loop)
            states = executor.distribute([state] * 2)
            states = executor.repeat(step, 0.5, jax.tree.map(jnp.copy, states), [0, 0], [4, 4])
            results += executor.collect(states)
        is_packed = "tensor<2x2x3xf32>" in executor.lower(step).as_text()  # both parameters
        assert is_packed == (platform == "gpu")
    for other in results[1:]:
        same(results[0], other)
    assert results[0].learner.params["a"][0, 0] == 1 + 0.5 * 6


def test_packed_updates_are_those_of_every_array():
    """With whole parameters, columns and nothing trained; several steps."""
    random = np.random.default_rng(1)
    shapes = {"a": (2, 3), "b": (2, 3), "c": (3,), "d": (), "e": (2, 3)}
    params = {name: jnp.asarray(random.normal(size=s), jnp.float32) for name, s in shapes.items()}
    some = jnp.array([True, False, True])
    columns = {"a": True, "b": False, "c": some, "d": True, "e": some}
    optimizer = SGD(0.1, 0.9, 0.5)

    def run(platform, trained):
        with device.programs_for(platform):
            update = jax.jit(lambda g, s, p, e: optimizer.update(g, s, p, trained, 0.1**e))
            now, state = params, optimizer.init(params)
            for step in range(3):
                grads = jax.tree.map(jnp.cos, now)
                now, state = update(grads, state, now, jnp.int32(step))
            return now, state

    for trained in (jax.tree.map(lambda _: True, params), columns):
        found, expected = run("gpu", trained), run("cpu", trained)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    np.testing.assert_array_equal(found[0]["b"], params["b"])
    np.testing.assert_array_equal(found[0]["c"] == params["c"], [False, True, False])
    assert isinstance(found[1][1], optax.TraceState)
