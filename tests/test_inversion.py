"""Generator inversion: against the original's numbers, and its own rules."""

import functools
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
invert = jax.jit(inversion_lib.invert, static_argnums=1)


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
    """Everything about step 0: images, logits, divergences, loss, terms and gradients."""

    def objective(params):
        statistics = case.start["batch_stats"]
        networks = (case.inversion, case.classifier, params, statistics, case.teacher)
        return inversion_lib.loss(*networks, SEEN, case.latents[0])

    @jax.jit
    def look(params):
        apply = functools.partial(case.generator.apply, train=True, mutable=["batch_stats"])
        images, _ = apply(case.start | {"params": params}, case.latents[0])
        outputs, collected = case.classifier.apply(case.teacher, images, mutable=["moments"])
        divergences = inversion_lib.statistics_divergence(
            case.teacher["batch_stats"], collected["moments"]
        )
        (total, (terms, _)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return SimpleNamespace(
            images=images, logits=outputs.logits, divergences=divergences, total=total,
            terms=terms, grads=grads,
        ).__dict__

    with enable(case.precision):
        return SimpleNamespace(**look(case.start["params"]))


def train(case, learning_rate):
    """Five steps: metrics [5] by name, and the generator's state and PyTorch tensors after them."""
    inversion = Inversion(case.generator, 5, 8, learning_rate)
    with enable(case.precision):
        state, history = fresh(case.start), []
        for latents in case.latents:
            state, metrics = step(inversion, case.classifier, state, case.teacher, SEEN, latents)
            history.append(metrics)
        tensors = torch.generator_to_torch(case.generator, variables_of(state))
    metrics = {name: np.stack([m[name] for m in history]) for name in history[0]}
    return SimpleNamespace(state=state, metrics=metrics, tensors=tensors)


@pytest.fixture(scope="module")
def trained(case):
    return train(case, 1e-3)


def test_first_step(case, first):
    expected, terms = case.expected, first.terms
    expected.forward("images_step0", channels_first(first.images))
    expected.forward("solver_logits_step0", first.logits[:, :SEEN])
    expected.forward("total", first.total)
    expected.forward("term_content", terms["content"])
    expected.forward("term_balance", terms["balance"])
    expected.forward("term_feature", terms["statistics"])
    layers = ["bn1"] + [
        f"stage{stage}_block{block}/bn{i}" for stage in (1, 2, 3) for block in range(5) for i in (1, 2)
    ]
    assert len(first.divergences) == len(layers)
    divergences = np.stack([first.divergences[f"backbone/{layer}"] for layer in layers])
    expected.forward("term_feature_raw", divergences)


def test_first_gradient(case, first):
    variables = {"params": first.grads, "batch_stats": case.start["batch_stats"]}
    with enable(case.precision):
        grads = torch.generator_to_torch(case.generator, variables)
    stored = {name for name in case.expected.names if name.startswith("grad/")}
    assert len(stored) == 4
    for name in stored:
        case.expected.update(name, grads[name.removeprefix("grad/")])
    norms = np.stack([np.linalg.norm(grads[name]) for name in case.expected["grad_names"]])
    case.expected.update("grad_norm", norms)
    nothing = 1e-5 if case.precision == "float32" else 1e-13
    for name in NO_GRADIENT:
        assert np.linalg.norm(grads[name]) < nothing * norms.max()


def test_prior(case, first):
    """The original's kernel is float32 at either precision, which shows in the eighth digit."""
    expected = Expected.__new__(Expected)
