"""Generator inversion against the original's numbers."""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import inversion as inversion_lib
from cljax import losses
from cljax.interop import torch
from cljax.inversion import Inversion
from tests.helpers import tiny
from tests.helpers.goldens import PRECISIONS, Expected, channels_first, enable, jit, network
from tests.helpers.tiny import fresh

pytestmark = pytest.mark.slow

SEEN = 20
# Biases before a train-mode batch norm have no gradient; what is computed for them is rounding.
NO_GRADIENT = ("conv_blocks1.0.bias", "conv_blocks2.0.bias")

step = jit(inversion_lib.step, static_argnums=1)


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

    @jit
    def look(start, teacher):
        apply = functools.partial(case.generator.apply, train=True, mutable=["batch_stats"])
        images, _ = apply(start, case.latents[0])
        outputs, collected = case.classifier.apply(teacher, images, mutable=["moments"])
        moments = collected["moments"]
        divergences = tiny.divergences(teacher["batch_stats"], moments)
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
        logits = jit(case.classifier.apply)(case.teacher, images).logits
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
