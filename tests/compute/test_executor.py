"""However steps and seeds are looped over, the numbers are the same."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.compute.executor import Executor

FORMS = list(itertools.product((False, True), (False, True)))  # (vmap_seeds, compiled_loop)


def affine(shared, constant, i, carry):
    """A step whose result tells which steps were taken, and in which order."""
    vector, count = carry
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


def repeat(executor, starts, stops, stopped=lambda: False):
    constants = [jnp.float32(c) for c in (1, 2, -3)]
    vectors = [jnp.arange(4, dtype=jnp.float32) + s for s in range(3)]
    numbers = [np.asarray(vector) for vector in vectors], [float(c) for c in constants]
    carry = executor.pack([(vector, jnp.int32(0)) for vector in vectors])
    packed = executor.pack(constants)
    result, ends = executor.repeat(affine, jnp.float32(0.5), packed, carry, starts, stops, stopped)
    return executor.unpack(result), ends, numbers


@pytest.mark.parametrize(("vmap", "loop"), FORMS)
@pytest.mark.parametrize(
    ("starts", "stops"),
    [
        ([0, 0, 0], [5, 5, 5]),
        ([0, 0, 0], [5, 0, 3]),
        ([2, 0, 5], [5, 4, 5]),
        ([1, 1, 1], [1, 1, 1]),
    ],
)
def test_repeat(vmap, loop, starts, stops):
    result, ends, (vectors, constants) = repeat(Executor(vmap, loop), starts, stops)
    assert ends == stops
    for (vector, count), (right, steps) in zip(
        result, expected(0.5, constants, vectors, starts, stops), strict=True
    ):
        np.testing.assert_allclose(vector, right, rtol=1e-6)
        assert count == steps


@pytest.mark.parametrize("vmap", [False, True])
def test_repeat_in_parts(vmap):
    # Stopped anywhere and continued from there, the numbers are those of the whole.
    executor = Executor(vmap, compiled_loop=False)
    whole, _, _ = repeat(executor, [0, 0, 0], [3, 5, 4])
    for allowed in range(12):
        asked = itertools.count()
        carry = executor.pack(
            [(jnp.arange(4, dtype=jnp.float32) + s, jnp.int32(0)) for s in range(3)]
        )
        constants = executor.pack([jnp.float32(c) for c in (1, 2, -3)])
        args = affine, jnp.float32(0.5), constants
        stops = [3, 5, 4]
        carry, ends = executor.repeat(
            *args, carry, [0, 0, 0], stops, lambda n=allowed, asked=asked: next(asked) >= n
        )
        assert (ends == stops) == (allowed >= (5 if vmap else 12))
        carry, ends = executor.repeat(*args, carry, ends, stops)
        assert ends == stops
        for one, other in zip(executor.unpack(carry), whole, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            assert one[1] == other[1]


@pytest.mark.parametrize(("vmap", "loop"), FORMS)
def test_call(vmap, loop):
    executor = Executor(vmap, loop)
    values = [{"x": jnp.arange(3) + s} for s in (0, 10)]
    results = executor.unpack(executor.call(double, 7, executor.pack(values)))
    for value, result in zip(values, results, strict=True):
        np.testing.assert_array_equal(result["twice"], 2 * value["x"])
        np.testing.assert_array_equal(result["shifted"], value["x"] + 7)


def count_squares(shared, constant, i, carry):
    """A step that only adds: where it falls, and its square."""
    return {
        "steps": carry["steps"].at[i % 3].add(1),
        "sum": carry["sum"] + shared * constant * i**2,
    }


@pytest.mark.parametrize(("vmap", "loop"), FORMS)
@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 11])
def test_add_up(vmap, loop, cores, count):
    executor = Executor(vmap, loop)
    assert bool(executor.cores) == (not loop)
    executor.cores = executor.cores and cores
    zeros = [{"steps": np.zeros(3, np.int32), "sum": np.int32(0)} for _ in range(2)]
    constants = executor.pack([jnp.int32(1), jnp.int32(-2)])
    with jax.default_matmul_precision("float32"):  # in force for threads, too
        found = executor.add_up(count_squares, jnp.int32(5), constants, zeros, count)
    for one, constant in zip(found, (1, -2), strict=True):
        assert one["sum"] == 5 * constant * sum(i**2 for i in range(count))
        np.testing.assert_array_equal(one["steps"], [len(range(r, count, 3)) for r in range(3)])
    assert executor.num_compilations()["count_squares"] <= 1


@pytest.mark.parametrize("vmap", [False, True])
def test_forms_and_back(vmap):
    executor = Executor(vmap)
    a = [{"x": jnp.arange(3) + s} for s in range(2)]
    b = [jnp.float32(s) for s in range(2)]
    packed = executor.zip(executor.pack(a), executor.pack(b))
    for s, (one, two) in enumerate(executor.unpack(packed)):
        np.testing.assert_array_equal(one["x"], np.arange(3) + s)
        assert two == s
    first, second = executor.unzip(packed)
    assert jax.tree.structure(executor.unpack(first)) == jax.tree.structure(a)
    assert [float(value) for value in executor.unpack(second)] == [0.0, 1.0]


@pytest.mark.parametrize(("vmap", "loop"), FORMS)
def test_one_program_per_function_and_phase(vmap, loop):
    executor = Executor(vmap, loop)
    for stops in ([2, 2, 2], [3, 3, 3], [7, 7, 7]):
        repeat(executor, [0, 0, 0], stops)
    assert executor.num_compilations() == {"affine": 1}
    seconds = executor.compile_seconds
    assert seconds > 0
    repeat(executor, [1, 1, 1], [4, 4, 4])
    assert executor.compile_seconds == seconds
    repeat(executor, [0, 0, 0], [2, 3, 4])  # only a mapped step has to guard unequal seeds
    repeat(executor, [0, 1, 0], [5, 3, 4])
    assert executor.num_compilations() == {"affine": 2 if vmap else 1}
    executor.call(double, 1, executor.pack([{"x": jnp.zeros(2)}]))
    executor.call(double, 2, executor.pack([{"x": jnp.ones(2)}]))
    executor.call(double, 2, executor.pack([{"x": jnp.ones(3)}]))
    assert executor.num_compilations()["double"] == 2


@pytest.mark.parametrize(("vmap", "loop"), FORMS)
def test_compilation_is_told_before_and_after(vmap, loop):
    executor, told = Executor(vmap, loop), []
    executor.when_compiling = told.append
    seen = []

    def watched(shared, value):
        seen.append(list(told))  # what was told when it is traced
        return value + shared

    executor.call(watched, 1, executor.pack([jnp.zeros(2)] * 2))
    assert told == [True, False] and seen == [[True]]
    executor.call(watched, 2, executor.pack([jnp.ones(2)] * 2))
    assert told == [True, False]
    executor.call(watched, 2, executor.pack([jnp.ones(3)] * 2))
    assert told == [True, False] * 2
    repeat(executor, [0, 0, 0], [2, 2, 2])
    repeat(executor, [0, 0, 0], [5, 5, 5])
    assert told == [True, False] * 3


def test_default_loop_is_the_fast_one_here():
    assert Executor().compiled_loop == (jax.default_backend() != "cpu")
    assert not Executor().vmap_seeds
