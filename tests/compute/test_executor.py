"""However steps and seeds are looped over, the numbers are the same."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.compute.executor import Executor
from tests.helpers import tiny

SHARING = "sequential", "interleaved", "vmap"
FORMS = list(itertools.product(SHARING, (False, True)))  # (sharing, compiled_loop)


def affine(inputs, i, carry):
    """A step whose result tells which steps were taken, and in which order."""
    (shared, constant), (vector, count) = inputs, carry
    return shared * vector + constant * (i + 1), count + 1


def double(shared, value):
    return {"twice": 2 * value["x"], "shifted": value["x"] + shared}


def expected(shared, constants, vectors, starts, stops):
    results = []
    for constant, vector, start, stop in zip(constants, vectors, starts, stops, strict=True):
        for i in range(start, stop):
            vector = shared * vector + constant * (i + 1)
        results.append((vector, max(stop - start, 0)))
    return results


CONSTANTS = [1, 2, -3]


def start(executor):
    """The inputs and the first carry of `affine` for three seeds, and its vectors in numpy."""
    vectors = [np.arange(4, dtype=np.float32) + s for s in range(3)]
    carry = executor.distribute([(jnp.asarray(vector), jnp.int32(0)) for vector in vectors])
    constants = executor.distribute([jnp.float32(c) for c in CONSTANTS])
    return (jnp.float32(0.5), constants), carry, vectors


def repeat(executor, starts, stops):
    inputs, carry, vectors = start(executor)
    return executor.collect(executor.repeat(affine, inputs, carry, starts, stops)), vectors


@pytest.mark.parametrize(("sharing", "loop"), FORMS)
@pytest.mark.parametrize(
    ("starts", "stops"),
    [
        ([0, 0, 0], [5, 5, 5]),
        ([0, 0, 0], [5, 0, 3]),
        ([2, 0, 5], [5, 4, 5]),
        ([1, 1, 1], [1, 1, 1]),
    ],
)
def test_repeat(sharing, loop, starts, stops):
    result, vectors = repeat(Executor(sharing, loop), starts, stops)
    for (vector, count), (right, steps) in zip(
        result, expected(0.5, CONSTANTS, vectors, starts, stops), strict=True
    ):
        np.testing.assert_allclose(vector, right, rtol=1e-6)
        assert count == steps


@pytest.mark.parametrize("sharing", SHARING)
def test_repeat_in_parts(sharing):
    # Stopped anywhere and continued from there, the numbers are those of the whole.
    executor, stops = Executor(sharing, compiled_loop=False), [3, 5, 4]
    whole, _ = repeat(executor, [0, 0, 0], stops)
    for allowed in range(12):
        asked = itertools.count()
        inputs, carry, _ = start(executor)
        carry = executor.repeat(
            affine, inputs, carry, [0, 0, 0], stops, lambda n=allowed, asked=asked: next(asked) >= n
        )
        ends = [int(count) for _, count in executor.collect(carry)]
        assert (ends == stops) == (allowed >= (12 if sharing == "sequential" else 5))
        carry = executor.repeat(affine, inputs, carry, ends, stops)
        for one, other in zip(executor.collect(carry), whole, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            assert one[1] == other[1]


@pytest.mark.parametrize(("sharing", "loop"), FORMS)
def test_call(sharing, loop):
    executor = Executor(sharing, loop)
    values = [{"x": jnp.arange(3) + s} for s in (0, 10)]
    results = executor.collect(executor.call(double, 7, executor.distribute(values)))
    for value, result in zip(values, results, strict=True):
        np.testing.assert_array_equal(result["twice"], 2 * value["x"])
        np.testing.assert_array_equal(result["shifted"], value["x"] + 7)


def count_squares(inputs, i, carry):
    """A step that only adds: where it falls, and its square."""
    shared, constant = inputs
    return {
        "steps": carry["steps"].at[i % 3].add(1),
        "sum": carry["sum"] + shared * constant * i**2,
    }


@pytest.mark.parametrize(("sharing", "loop"), FORMS)
@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_sum_steps(sharing, loop, cores, count):
    executor = Executor(sharing, loop)
    assert bool(executor.cores) == (not loop)
    executor.cores = executor.cores and cores
    zeros = [{"steps": np.zeros(3, np.int32), "sum": np.int32(0)} for _ in range(2)]
    inputs = jnp.int32(5), executor.distribute([jnp.int32(1), jnp.int32(-2)])
    with jax.default_matmul_precision("float32"):  # in force for threads, too
        found = executor.sum_steps(count_squares, inputs, zeros, count)
    for one, constant in zip(found, (1, -2), strict=True):
        assert one["sum"] == 5 * constant * sum(i**2 for i in range(count))
        np.testing.assert_array_equal(one["steps"], [len(range(r, count, 3)) for r in range(3)])
    assert executor.num_compilations()["count_squares"] <= 1


@pytest.mark.parametrize("sharing", SHARING)
def test_per_seed_values_keep_their_structure(sharing):
    executor = Executor(sharing)
    values = [{"x": jnp.arange(3) + s, "y": jnp.float32(s)} for s in range(2)]
    value = executor.distribute(values)
    assert value.holds(dict) and value.stacked == (sharing == "vmap")
    assert len(value.groups) == (1 if sharing == "vmap" else 2)
    for one, other in zip(executor.collect(value), values, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    swapped = value.map(lambda one, other: {"x": one["y"], "y": other["x"]}, value)
    for one, other in zip(executor.collect(swapped), values, strict=True):
        np.testing.assert_array_equal(one["y"], other["x"])
        assert one["x"] == other["y"]


@pytest.mark.parametrize("sharing", SHARING)
def test_what_belongs_to_one_seed_is_never_shared(sharing):
    executor, task = Executor(sharing), tiny.task(2, 4)
    tasks = executor.distribute([jax.tree.map(jnp.asarray, task)] * 2)
    old = executor.call(lambda shared, task: shared + task.old, 1, tasks)
    assert [int(value) for value in executor.collect(old)] == [3, 3]
    with pytest.raises(TypeError, match="a Task belongs to one seed"):
        executor.call(lambda shared, task: task.old, {"deep": (task,)}, tasks)
    with pytest.raises(TypeError, match="PerSeed"):
        executor.call(double, 1, {"x": jnp.zeros(2)})


@pytest.mark.parametrize(("sharing", "loop"), FORMS)
def test_one_program_per_function_and_phase(sharing, loop):
    executor = Executor(sharing, loop)
    for stops in ([2, 2, 2], [3, 3, 3], [7, 7, 7]):
        repeat(executor, [0, 0, 0], stops)
    assert executor.num_compilations() == {"affine": 1}
    seconds = executor.compile_seconds
    assert seconds > 0
    repeat(executor, [1, 1, 1], [4, 4, 4])
    assert executor.compile_seconds == seconds
    repeat(executor, [0, 0, 0], [2, 3, 4])  # only a shared step has to guard unequal seeds
    repeat(executor, [0, 1, 0], [5, 3, 4])
    assert executor.num_compilations() == {"affine": 1 if sharing == "sequential" else 2}
    executor.call(double, 1, executor.distribute([{"x": jnp.zeros(2)}]))
    executor.call(double, 2, executor.distribute([{"x": jnp.ones(2)}]))
    executor.call(double, 2, executor.distribute([{"x": jnp.ones(3)}]))
    assert executor.num_compilations()["double"] == 2


@pytest.mark.parametrize(("sharing", "loop"), FORMS)
def test_compilation_is_told_before_and_after(sharing, loop):
    executor, told = Executor(sharing, loop), []
    executor.when_compiling = told.append
    seen = []

    def watched(shared, value):
        seen.append(list(told))  # what was told when it is traced
        return value + shared

    executor.call(watched, 1, executor.distribute([jnp.zeros(2)] * 2))
    assert told == [True, False]
    assert seen == [[True]] * (2 if sharing == "interleaved" else 1)  # of each seed

    executor.call(watched, 2, executor.distribute([jnp.ones(2)] * 2))
    assert told == [True, False]
    executor.call(watched, 2, executor.distribute([jnp.ones(3)] * 2))
    assert told == [True, False] * 2
    repeat(executor, [0, 0, 0], [2, 2, 2])
    repeat(executor, [0, 0, 0], [5, 5, 5])
    assert told == [True, False] * 3


def test_default_loop_is_the_fast_one_here():
    assert Executor().compiled_loop == (jax.default_backend() != "cpu")
    assert Executor().sharing == "sequential"
