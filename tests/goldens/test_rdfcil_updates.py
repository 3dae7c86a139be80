"""Single steps of R-DFCIL against the original's numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from cljax import losses
from cljax.state import Batch
from tests.helpers import rdfcil, tiny
from tests.helpers.golden_updates import compare_accuracy
from tests.helpers.goldens import PRECISIONS, Expected, enable, jit
from tests.helpers.rdfcil import HEADS, NUM_CLASSES, OLD, SEEN, outputs_of

pytestmark = pytest.mark.slow

# What the terms are called in the golden files.
TERMS = {"local": "ce", "distillation": "hkd", "relation": "rkd"}
update = jit(tiny.update)


@pytest.fixture(scope="module", params=PRECISIONS)
def original(rdfcil_goldens, request):
    """The original's networks and inputs, once per precision."""
    return rdfcil.make_original(rdfcil_goldens, request.param)


def step(original, stage, method, state, batch):
    """One step on the real and the dreamed batch of a number, from 0."""
    with enable(original.precision):
        latents = original.latents[batch]
        state = state.replace(generator=original.dream(latents))
        real = Batch(original.real[batch], original.labels[batch], None)
        return update(stage, method, state, rdfcil.third_task(), real, 0, rdfcil.key())


def tensors(original, state):
    return rdfcil.tensors(original.classifier, state, original.precision)


def compare_state(expected, original, start, state, num_steps=1):
    """All stored tensors after steps, and how far each tensor moved.

    What a second step computes follows from parameters that a gradient has moved, and is compared
    like these, running statistics and losses included.
    """
    before, after = tensors(original, start), tensors(original, state)
    for name in (name for name in expected.names if name.startswith("after/")):
        tensor = name.removeprefix("after/")
        moved_by_decay = tensor.startswith("rkd") and tensor.endswith("bias")
        if moved_by_decay or ("running" in tensor and num_steps == 1):
            expected.forward(name, after[tensor])
        else:
            expected.update(name, after[tensor], before[tensor])
    names = original.goldens("states")["state_names"]
    if len(names) > len(expected["delta_norm"]):  # the first task has but one head
        names = [n for n in names if n not in HEADS[1:] and not n.startswith("rkd")]
    moved = [np.linalg.norm(after[name] - before[name]) for name in names]
    expected.update("delta_norm", np.array(moved, original.precision))


def test_first_task_is_the_originals(original):
    """Cross entropy alone; neither projections nor labels are of interest."""
    expected = Expected(original.goldens, "first", original.precision)
    method = rdfcil.method(original.classifier)
    seen = rdfcil.SIZES[0]
    with enable(original.precision):
        start = rdfcil.initial_state(original, method)
        logits = outputs_of(original.classifier, start.variables, original.real[0], True)[0].logits
        batch = Batch(original.real[0], original.y_first, None)
        task = tiny.task(0, seen, True)
        state, metrics = update(method.training, method, start, task, batch, 0, rdfcil.key())
    compare_state(expected, original, start, state)
    expected.forward("logits", logits[:, :seen])
    expected.forward("loss_total", metrics["loss"])
    assert set(metrics) == {"loss", "class", "accuracy"}
    expected.all_compared()


def test_update_is_the_originals(original):
    """The running statistics after the step show that each batch has moved them."""
    expected = Expected(original.goldens, "update", original.precision)
    method = rdfcil.method(original.classifier)
    with enable(original.precision):
        start = rdfcil.initial_state(original, method)
        state, metrics = step(original, method.training, method, start, 0)
        factors = method.factors(rdfcil.third_task())
        dreamed = original.dream(original.latents[0])
        module, images = original.classifier, original.real[0]
        real, statistics = outputs_of(module, start.variables, images, train=True)
        after_real = start.variables | {"batch_stats": statistics}
        syn, _ = outputs_of(module, after_real, dreamed, train=True)
        old_real, _ = outputs_of(module, start.teacher, images, train=False)
        old_syn, _ = outputs_of(module, start.teacher, dreamed, train=False)
        labels = losses.masked_argmax(old_syn.logits, losses.class_range(NUM_CLASSES, 0, OLD))
    compare_state(expected, original, start, state)
    expected.forward("loss_total", metrics["loss"])
    expected.forward("factors", np.stack(factors))
    for (name, golden), factor in zip(TERMS.items(), factors, strict=True):
        compare_term(expected, golden, metrics[name], factor)
    expected.forward("features_real", real.features)
    expected.forward("logits_new", real.logits[:, OLD:SEEN])
    expected.forward("logits_old_syn", syn.logits[:, :OLD])
    expected.forward("old_features_real", old_real.features)
    expected.forward("old_logits_syn", old_syn.logits[:, :OLD])
    compare_accuracy(metrics, real.logits[:, :SEEN], original.labels[0])
    expected.forward("cls_count", counts_of(original, state))
    np.testing.assert_array_equal(labels, expected["y_syn"])
    compare_gradients(expected, original, method, start)
    expected.all_compared("y_syn", "grad_names")


def compare_term(expected, name, value, factor):
    """A term with and without its factor; that of angles is a difference of cosines, up to 1."""
    scale = 1.0 if name == "rkd" else 0.0
    expected.forward(f"weighted_{name}", value, scale * float(factor))
    expected.forward(f"loss_{name}", np.divide(value, factor), scale)


def counts_of(original, state):
    counts = np.asarray(state.extras.counts)
    assert not counts[SEEN:].any()
    return counts[:SEEN].astype(original.precision)


def compare_gradients(expected, original, method, start):
    """Norms of all parameters' gradients, of the loss and of each of its terms."""
    decay = method.training.optimizer.weight_decay

    def gradients(**weights):
        """A fresh momentum is the gradient, weight decay included."""
        one = dataclasses.replace(method, **weights)
        state, _ = step(original, method.training, one, start, 0)
        momentum = jax.tree.map(np.asarray, state.opt_state[1].trace)
        found = jax.tree.map(lambda v, p: v - decay * p, momentum, start.params)
        return tensors(original, start.replace(params=found))

    names = expected["grad_names"]

    def norms(of):
        return np.array([np.linalg.norm(of[name]) for name in names], original.precision)

    expected.update("grad_norm", norms(gradients()))
    zeros = {f"lambda_{term}": 0.0 for term in TERMS.values()}
    ce, hkd, rkd = (gradients(**zeros | {name: getattr(method, name)}) for name in zeros)
    expected.update("grad_norm_ce", norms(ce))
    expected.update("grad_norm_hkd", norms(hkd))
    expected.update("grad_norm_rkd", norms(rkd))
    size = {name: [np.abs(of[name]).max() > 1e-9 for of in (ce, hkd, rkd)] for name in names}
    assert [size[head] for head in HEADS] == [[False, True, False]] * 2 + [[True, False, False]]
    for name in rdfcil.PROJECTIONS.values():
        assert size[f"{name}.weight"] == [False, False, True]
    assert size["backbone.conv_1_3x3.weight"] == [True] * 3


def test_chain_of_updates_is_the_originals(original):
    """Momentum accumulates, and so do running statistics, which move four times."""
    expected = Expected(original.goldens, "update_chain", original.precision)
    method = rdfcil.method(original.classifier, learning_rate=0.01)
    with enable(original.precision):
        start = state = rdfcil.initial_state(original, method)
        history = []
        for batch in (0, 1):
            state, metrics = step(original, method.training, method, state, batch)
            history.append(metrics)
        factors = method.factors(rdfcil.third_task())
    compare_state(expected, original, start, state, num_steps=2)
    terms = {name: np.stack([metrics[name] for metrics in history]) for name in history[0]}
    expected.update("loss_total", terms["loss"])
    for (name, golden), factor in zip(TERMS.items(), factors, strict=True):
        expected.update(f"weighted_{golden}", terms[name])
        expected.update(f"loss_{golden}", np.divide(terms[name], factor))
    expected.forward("cls_count", counts_of(original, state))
    expected.all_compared("y_syn")


def test_finetuning_is_the_originals(original):
    """A step of all parameters, then two of the head, with its momentum and class weights."""
    expected = Expected(original.goldens, "finetuning", original.precision)
    method = rdfcil.method(original.classifier)
    with enable(original.precision):
        state = rdfcil.initial_state(original, method)
        state, _ = step(original, method.training, method, state, 0)
        state = method.head_stage.begin(method, state, rdfcil.third_task(), None)
    assert method.head_stage.learning_rate(0) == pytest.approx(expected["lr"][1])
    expected.forward("count_before", counts_of(original, state))
    before = tensors(original, state)
    momentum = state.replace(params=jax.tree.map(np.asarray, state.opt_state[1].trace))
    momentum = tensors(original, momentum)
    for head in HEADS:
        expected.update(f"before/{head}", before[head], original_head(original, head))
        expected.update(f"momentum/{head}", momentum[head])
    for number, batch in enumerate((1, 0)):
        previous = state
        with enable(original.precision):
            dreamed = original.dream(original.latents[batch])
            images = np.concatenate([original.real[batch], dreamed])
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            logits = outputs_of(original.classifier, variables, images, False)[0].logits
            old = outputs_of(original.classifier, state.teacher, dreamed, False)[0].logits
            hard = method.factors(rdfcil.third_task()).hard
        state, metrics = step(original, method.head_stage, method, state, batch)
        assert set(metrics) == {"loss", "class", "distillation", "accuracy", "dreamed_accuracy"}
        expected.update(f"step{number}/logits", logits[:, :SEEN])
        expected.forward(f"step{number}/old_logits_syn", old[:, :OLD])
        expected.update(f"step{number}/loss_total", metrics["loss"])
        expected.update(f"step{number}/weighted_ce", metrics["class"])
        expected.update(f"step{number}/loss_ce", np.divide(metrics["class"], method.lambda_ce))
        expected.update(f"step{number}/weighted_hkd", metrics["distillation"])
        expected.update(f"step{number}/loss_hkd", np.divide(metrics["distillation"], hard))
        expected.forward("cls_weight", state.extras.weights[:SEEN])
        compare_accuracy(metrics, logits[:12, :SEEN], original.labels[batch])
        after, last = tensors(original, state), tensors(original, previous)
        for head in HEADS:
            expected.update(f"step{number}/after/{head}", after[head], last[head])
    expected.forward("count_after", counts_of(original, state))
    for name, tensor in before.items():
        moves = name in HEADS
        assert np.array_equal(after[name], tensor) == (not moves), name
    expected.all_compared("lr", "step0/targets", "step1/targets")


def original_head(original, name):
    """A head of the golden state."""
    return original.goldens("states")[f"M/{name}"]
