"""Generator inversion: against the original's numbers, and its own rules."""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.interop import torch
from cljax.inversion import Inversion
from cljax.state import GeneratorState
from tests import small
from tests.goldens import PRECISIONS, Expected, channels_first, enable, network

SEEN = 20
# Biases before a train-mode batch norm have no gradient; what is computed for them is rounding.
NO_GRADIENT = ("conv_blocks1.0.bias", "conv_blocks2.0.bias")

step = jax.jit(inversion_lib.step, static_argnums=1)
step_at = jax.jit(inversion_lib.step_at, static_argnums=1)
# Compiled in a hurry, as it runs but a few steps.
HURRY = {"xla_backend_optimization_level": 0}
invert = jax.jit(inversion_lib.invert, static_argnums=1, compiler_options=HURRY)


def fresh(variables):
    """A generator with these variables and a fresh Adam."""
    opt_state = optax.scale_by_adam().init(variables["params"])
    return GeneratorState(variables["params"], variables["batch_stats"], opt_state)


def variables_of(state):
    return {"params": state.params, "batch_stats": state.batch_stats}


@pytest.fixture(scope="module", params=PRECISIONS)
def case(goldens, request):
    """The golden inversion's networks and inputs at one precision."""
    precision = request.param
    generator, start = network(goldens, "G", precision)
    classifier, teacher = network(goldens, "T", precision)
    expected = Expected(goldens, "inversion", precision)
    return SimpleNamespace(
        precision=precision,
        expected=expected,
        generator=generator,
        start=start,
        classifier=classifier,
        teacher=teacher,
        inversion=Inversion(generator, steps=5, batch_size=8),
        latents=expected["z"].astype(precision),
    )


@pytest.fixture(scope="module")
def first(case):
    """Images of step 0, the frozen classifier's logits and the divergences by layer."""

    @jax.jit
    def look(start, teacher):
        apply = functools.partial(case.generator.apply, train=True, mutable=["batch_stats"])
        images, _ = apply(start, case.latents[0])
        outputs, collected = case.classifier.apply(teacher, images, mutable=["moments"])
        moments = collected["moments"]
        divergences = inversion_lib.statistics_divergence(teacher["batch_stats"], moments)
        roughness = jnp.square(images - inversion_lib.smooth(images)).mean()
        return images, outputs.logits, divergences, roughness

    with enable(case.precision):
        images, logits, divergences, roughness = look(case.start, case.teacher)
    return SimpleNamespace(
        images=images, logits=logits, divergences=divergences, roughness=roughness
    )


def train(case, learning_rate):
    """Five steps.

    Returns:
      `metrics` [5] by name, `grads` of step 0, and `state` after the steps; the last two also as
      PyTorch's `tensors`.
    """
    inversion = Inversion(case.generator, 5, 8, learning_rate)
    with enable(case.precision):
        state, history = fresh(case.start), []
        for latents in case.latents:
            state, metrics = step(inversion, case.classifier, state, case.teacher, SEEN, latents)
            history.append(metrics)
            if len(history) == 1:
                # A fresh Adam's first moment is a tenth of the gradient.
                grads = jax.tree.map(lambda mu: mu / (1 - 0.9), state.opt_state.mu)
                grads = {"params": grads, "batch_stats": case.start["batch_stats"]}
        return SimpleNamespace(
            metrics={name: np.stack([m[name] for m in history]) for name in history[0]},
            state=state,
            grads=torch.generator_to_torch(case.generator, grads),
            tensors=torch.generator_to_torch(case.generator, variables_of(state)),
        )


@pytest.fixture(scope="module")
def trained(case):
    return train(case, 1e-3)


def test_first_step(case, first, trained):
    expected = case.expected
    expected.forward("images_step0", channels_first(first.images))
    expected.forward("solver_logits_step0", first.logits[:, :SEEN])
    expected.forward("term_prior_raw", first.roughness)
    terms = {name: values[0] for name, values in trained.metrics.items()}
    expected.forward("total", terms["loss"])
    expected.forward("term_content", terms["content"])
    expected.forward("term_balance", terms["balance"])
    expected.forward("term_feature", terms["statistics"])
    expected.forward("term_prior", terms["prior"])


def test_divergences(case, first):
    layers = ["bn1"]
    for stage, block, i in itertools.product((1, 2, 3), range(5), (1, 2)):
        layers.append(f"stage{stage}_block{block}/bn{i}")
    assert len(first.divergences) == len(layers) == 31
    divergences = np.stack([first.divergences[f"backbone/{layer}"] for layer in layers])
    case.expected.forward("term_feature_raw", divergences)


def test_first_gradient(case, trained):
    stored = {name for name in case.expected.names if name.startswith("grad/")}
    assert len(stored) == 4
    for name in stored:
        case.expected.update(name, trained.grads[name.removeprefix("grad/")])
    norms = [np.linalg.norm(trained.grads[name]) for name in case.expected["grad_names"]]
    case.expected.update("grad_norm", np.array(norms, case.precision))
    nothing = 1e-5 if case.precision == "float32" else 1e-13
    for name in NO_GRADIENT:
        assert np.linalg.norm(trained.grads[name]) < nothing * max(norms)


def test_trajectory(case, trained):
    expected, metrics = case.expected, trained.metrics
    expected.forward("trajectory_total", metrics["loss"])
    expected.forward("trajectory_content", metrics["content"])
    expected.forward("trajectory_prior_raw", metrics["prior"] / case.inversion.prior)
    feature_sum = metrics["statistics"] / case.inversion.statistics * 31
    expected.forward("trajectory_feature_sum", feature_sum)
    compare_after_five_steps(case, "after5/", trained.tensors, 9)


def test_slow_trajectory(case):
    slow = train(case, 1e-4)
    case.expected.forward("slow/trajectory_total", slow.metrics["loss"])
    compare_after_five_steps(case, "slow/after5/", slow.tensors, 2)


def compare_after_five_steps(case, prefix, tensors, count):
    """Statistics at both precisions; parameters in float64 only.

    Adam's first steps hardly depend on a gradient's size, so that in float32 the parameters'
    deviation within the original is already as large as a step.
    """
    names = [name for name in case.expected.names if name.startswith(prefix)]
    assert len(names) == count
    for name in names:
        if case.precision == "float64" or "running" in name:
            case.expected.forward(name, tensors[name.removeprefix(prefix)])


@pytest.mark.parametrize("case", ["float64"], indirect=True)
def test_sampling(case, trained):
    expected, count = case.expected, len(case.expected["z_probe"])
    with enable("float64"):
        latents = expected["z_probe"].astype("float64")
        images = case.generator.apply(variables_of(trained.state), latents, train=False)
        logits = jax.jit(case.classifier.apply)(case.teacher, images).logits
        expected.forward("sample_x", channels_first(images))
        expected.forward("sample_yhat", logits[:, :SEEN])
        # The stored labels are those of the stored float32 logits.
        stored = np.pad(expected["sample_yhat"], ((0, 0), (0, 100 - SEEN)), constant_values=99)
        labels = losses.masked_argmax(stored, losses.class_range(100, 0, SEEN))
        np.testing.assert_array_equal(labels, expected["sample_y"])
        key = jax.random.key(0)
        sampled = inversion_lib.sample(case.inversion, trained.state, key, count)
        drawn = inversion_lib.draw_latents(key, count)
        again = case.generator.apply(variables_of(trained.state), drawn, train=False)
        np.testing.assert_allclose(sampled, again, rtol=1e-12)


def test_smoothing_kernel(goldens):
    kernel = np.outer(inversion_lib.SMOOTHING, inversion_lib.SMOOTHING)
    Expected(goldens, "inversion", "float32").forward("smoothing_kernel", kernel)


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
        divergence = jax.jit(lambda m: inversion_lib.statistics_divergence(running, m)["a/bn"])
        check_grads(divergence, (moments,), order=1)


@pytest.fixture(scope="module")
def dream():
    """A small inversion in float64: arguments of `invert` up to `seen`, all in numpy."""
    generator, classifier = small.generator(np.float64), small.classifier(np.float64)
    with enable("float64"):
        state = fresh(small.variables(generator, seed=0, dtype=np.float64))
        teacher = small.variables(classifier, seed=1, dtype=np.float64)
    return Inversion(generator, steps=4, batch_size=6), classifier, state, teacher


def assert_trees_close(got, want):
    """Up to Adam's answer to rounding where there is no gradient: steps of some 1e-10."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), got, want)


def looped(dream, seen, seed, task):
    inversion, classifier, state, teacher = dream
    for i in range(inversion.steps):
        state, metrics = step_at(inversion, classifier, state, teacher, seen, seed, task, i)
    return state, metrics


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
            float(step_at(*dream, 7, seed, task, i)[1]["loss"])
            for seed, task, i in [(3, 1, 0), (4, 1, 0), (3, 2, 0), (3, 1, 1)]
        ]
    assert len(set(results)) == 4


def test_seeds_may_be_an_axis_of_vmap(dream):
    inversion, classifier, state, teacher = dream
    seeds = [3, 4]
    with enable("float64"):
        run = functools.partial(inversion_lib.invert, inversion, classifier)
        axes = (None, None, None, 0, None)
        together = jax.jit(jax.vmap(run, in_axes=axes), compiler_options=HURRY)
        got = together(state, teacher, 7, jnp.array(seeds), 1)
        for place, seed in enumerate(seeds):
            want = invert(*dream, 7, seed, 1)
            assert_trees_close(jax.tree.map(lambda leaf, i=place: leaf[i], got), want)


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
            step_at(inversion, classifier, state, t, 7, 0, 0, 0)[1] for t in (teacher, changed)
        ]
    assert_trees_close(*results)


def test_a_new_generator():
    inversion = Inversion(small.generator(), batch_size=3)

    @functools.partial(jax.jit, compiler_options=HURRY)
    def start(key):
        state = inversion_lib.init_generator(inversion, key)
        return state, jax.vmap(lambda k: inversion_lib.sample(inversion, state, k, 5))(
            jax.random.split(key)
        )

    state, images = start(rng.key(0, "generator"))
    assert int(state.opt_state.count) == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state.mu))
    assert images.shape == (2, 5, *small.IMAGE_SHAPE)
    assert len(np.unique(images[..., 0, 0, 0])) == 10
