"""Generator inversion: formulas, gradients and loops, on small networks."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.inversion import Inversion
from cljax.rng import Streams
from cljax.stages import InversionStage, StepInput
from tests.helpers import tiny
from tests.helpers.goldens import enable
from tests.helpers.tiny import fresh

ANY_TASK = tiny.task(1, 2)


def step_at(inversion, classifier, state, teacher, seen, seed, task, i):
    """Step `i` of the inversion after a task, as its stage takes it: (generator, metrics)."""
    stage = InversionStage("invert", 1, 0, inversion.steps, inversion)
    method = types.SimpleNamespace(classifier=classifier)
    learner = tiny.learner({}, teacher=teacher, generator=state, streams=Streams(0, 0, 0, seed))
    of_task = ANY_TASK.replace(seen=seen, index=task)
    keys = stage.prepare(method, learner, of_task, None, 0)
    inputs = StepInput(method, stage, None, of_task, 0, keys)
    learner, metrics = stage.update(inputs, learner, stage.draw(inputs, i, learner))
    return learner.generator, metrics


def every_step(inversion, classifier, state, teacher, seen, seed, task):
    """All steps as one compiled loop: the generator, and the last step's metrics."""

    def body(i, carry):
        return step_at(inversion, classifier, carry[0], teacher, seen, seed, task, i)

    return jax.lax.fori_loop(1, inversion.steps, body, body(0, (state, None)))


jitted_step_at = jax.jit(step_at, static_argnums=1)
invert = jax.jit(every_step, static_argnums=1)


def test_smoothing_is_a_convolution_with_reflected_borders():
    images = np.random.default_rng(0).normal(size=(2, 6, 7, 3))
    kernel = np.exp(-(np.arange(-2, 3)[:, None] ** 2 + np.arange(-2, 3) ** 2) / 4)
    kernel /= kernel.sum()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    with enable("float64"):
        got = inversion_lib.smooth(jnp.asarray(images))
    np.testing.assert_allclose(got, np.einsum("bhwcij,ij->bhwc", windows, kernel), rtol=1e-12)


def test_class_balance_is_the_sliced_one():
    logits = np.random.default_rng(0).normal(size=(8, 10))
    p = np.exp(logits[:, :7]) / np.exp(logits[:, :7]).sum(1, keepdims=True)
    p = p.mean(0)
    with enable("float64"):
        got = inversion_lib.class_balance(jnp.asarray(logits), losses.class_range(10, 0, 7))
    np.testing.assert_allclose(got, 1 + (p * np.log(p)).sum() / np.log(7), rtol=1e-12)


def test_class_balance_ranges_from_even_to_a_single_class():
    """A class of probability exactly 0 counts as nothing, in value and gradient."""
    valid = losses.class_range(5, 0, 4)
    balance = jax.jit(jax.value_and_grad(inversion_lib.class_balance))
    even, _ = balance(1e4 * jnp.eye(4, 5), valid)
    np.testing.assert_allclose(even, 0, atol=1e-6)
    single, gradient = balance(jnp.full((4, 5), -1e4).at[:, 2].set(0), valid)
    assert single == 1
    assert np.isfinite(gradient).all()
    half, gradient = balance(jnp.full((4, 5), -1e4).at[:, 1:3].set(0), valid)
    np.testing.assert_allclose(half, 0.5, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_gradients_of_the_terms():
    random = np.random.default_rng(0)
    valid = losses.class_range(10, 0, 7)
    running = {"a": {"bn": {"mean": random.normal(size=3), "var": random.uniform(0.5, 2, 3)}}}
    moments = {"a": {"bn": {"mean": random.normal(size=3), "var": random.uniform(0.5, 2, 3)}}}
    with enable("float64"):
        logits = (random.normal(size=(4, 10)),)
        balance = jax.jit(lambda logits: inversion_lib.class_balance(logits, valid))
        check_grads(balance, logits, order=1)
        divergence = jax.jit(lambda m: inversion_lib.statistics_divergence(running, m))
        check_grads(divergence, (moments,), order=1)


@pytest.fixture(scope="module")
def dream():
    """A small inversion in float64: arguments of `invert` up to `seen`, all in numpy."""
    generator, classifier = tiny.generator(np.float64), tiny.classifier(np.float64)
    with enable("float64"):
        state = fresh(tiny.variables(generator, seed=0, dtype=np.float64))
        teacher = tiny.variables(classifier, seed=1, dtype=np.float64)
    return Inversion(generator, steps=4, batch_size=6), classifier, state, teacher


def assert_trees_close(got, want):
    """Up to Adam's answer to rounding where there is no gradient: steps of some 1e-10."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), got, want)


def looped(dream, seen, seed, task):
    inversion, classifier, state, teacher = dream
    for i in range(inversion.steps):
        state, metrics = jitted_step_at(inversion, classifier, state, teacher, seen, seed, task, i)
    return state, metrics


@pytest.mark.slow
def test_compiled_loop_is_the_loop_over_steps(dream):
    with enable("float64"):
        got, want = invert(*dream, 7, 3, 1), looped(dream, 7, 3, 1)
        assert_trees_close(got, want)
        # Had neither moved, they would agree as well.
        start = dream[2].params["project"]["kernel"]
        assert np.abs(np.asarray(got[0].params["project"]["kernel"]) - start).max() > 1e-3
        assert int(got[0].opt_state.count) == 4


def test_every_part_of_the_address_draws_other_latents(dream):
    with enable("float64"):
        results = [
            float(jitted_step_at(*dream, 7, seed, task, i)[1]["loss"])
            for seed, task, i in [(3, 1, 0), (4, 1, 0), (3, 2, 0), (3, 1, 1)]
        ]
    assert len(set(results)) == 4


@pytest.mark.slow
def test_seeds_may_be_an_axis_of_vmap(dream):
    inversion, classifier, state, teacher = dream
    seeds = [3, 4]
    with enable("float64"):
        run = functools.partial(every_step, inversion, classifier)
        axes = (None, None, None, 0, None)
        together = jax.jit(jax.vmap(run, in_axes=axes))
        got = together(state, teacher, 7, jnp.array(seeds), 1)
        for place, seed in enumerate(seeds):
            want = invert(*dream, 7, seed, 1)
            assert_trees_close(jax.tree.map(lambda leaf, i=place: leaf[i], got), want)


@pytest.mark.slow
def test_the_number_of_classes_and_the_weights_do_not_compile_anew(dream):
    inversion, classifier, state, teacher = dream
    with enable("float64"):
        invert(inversion, classifier, state, teacher, 7, 3, 1)
        compiled = invert._cache_size()
        other = Inversion(inversion.generator, 4, 6, 1e-4, statistics=7.0)
        invert(other, classifier, state, teacher, 9, 2, 3)
    assert invert._cache_size() == compiled == 1


def test_confidence_is_over_seen_classes_only(dream):
    """Rows of the head for classes not yet seen change nothing."""
    inversion, classifier, state, teacher = dream
    head = teacher["params"]["head"]
    other = {"kernel": head["kernel"].copy(), "bias": head["bias"].copy()}
    other["bias"][7:] += 100
    changed = {**teacher, "params": {**teacher["params"], "head": other}}
    with enable("float64"):
        results = [
            jitted_step_at(inversion, classifier, state, t, 7, 0, 0, 0)[1]
            for t in (teacher, changed)
        ]
    assert_trees_close(*results)


def test_a_new_generator():
    inversion = Inversion(tiny.generator(), batch_size=3)

    @jax.jit
    def start(key):
        state = inversion_lib.init_generator(inversion, key)
        return state, jax.vmap(lambda k: inversion_lib.sample(inversion, state, k, 5))(
            jax.random.split(key)
        )

    state, images = start(rng.key(0, "generator"))
    assert int(state.opt_state.count) == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state.mu))
    assert images.shape == (2, 5, *tiny.IMAGE_SHAPE)
    assert len(np.unique(images[..., 0, 0, 0])) == 10
