"""Methods of several stages, and class weights, against the original's numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.memory.policy import MemoryPolicy
from cljax.state import Batch
from tests.helpers import tiny
from tests.helpers.golden_updates import (
    OLD,
    SEEN,
    compare_accuracy,
    compare_state,
    fold,
    initial_state,
    outputs_of,
    update,
)
from tests.helpers.goldens import Expected, enable, jit

pytestmark = pytest.mark.slow

PAST = (0, 8, OLD)  # boundaries of the past tasks
WEIGHTED = MemoryPolicy(1, "random", "all", True)
cases = pytest.mark.parametrize("case", ["update", "uneven"])


def setting(original, case, kind):
    """Expectations and the task of a case with two past tasks."""
    expected = Expected(original.goldens, f"{case}_{kind}", original.precision)
    with enable(original.precision):
        task = tiny.task(OLD, SEEN[case], boundaries=(*PAST, SEEN[case]), index=2)
    return expected, task


def logits_of(original, variables, images, train):
    return outputs_of(original.classifier, variables, images, train).logits


@cases
def test_end_to_end_is_the_originals(original, case):
    expected, task = setting(original, case, "ete")
    method = tiny.method("e2e", original.classifier)
    state = initial_state(original, method)
    seen, key = SEEN[case], jax.random.key(0)
    flipped = original.real[:, :, ::-1]
    parts = {
        "a": (method.training, original.real, fold(original.y_mix, seen)),
        "b": (method.balancing_stage, flipped, expected["b/y"].astype(np.int32)),
    }
    for part, (stage, images, labels) in parts.items():
        with enable(original.precision):
            state = state.replace(opt_state=stage.optimizer.init(state.params))
            before = state
            batch = Batch(images, labels, None)
            state, metrics = update(stage, method, state, task, batch, 0, key)
            student = logits_of(original, before.variables, images, train=True)
            teacher = logits_of(original, original.teacher, images, train=False)
            distilled = jit(method.distillation_by_task)(student, teacher, task)
            distilled = np.asarray(distilled)[:2] / np.diff(PAST)
            if part == "b":
                new, first = slice(OLD, seen), slice(0, seen - OLD)
                every = jnp.ones(seen - OLD, bool)
                last = losses.distillation(student[:, new], teacher[:, first], every)
                distilled = np.append(distilled, last)
        compare_state(expected, original, state, f"{part}/", before)
        expected.forward(f"{part}/logits", student[:, :seen])
        expected.forward(f"{part}/loss_ce", metrics["class"])
        expected.forward(f"{part}/loss_total", metrics["loss"])
        expected.forward(f"{part}/loss_class_reported", metrics["loss"])
        expected.forward(f"{part}/kd_terms", distilled)
        expected.forward(f"{part}/loss_kd_reported", distilled[-1])
        compare_accuracy(metrics, expected[f"{part}/logits"], labels)
    expected.all_compared("b/y")


@cases
def test_bias_correction_is_the_originals(original, case):
    """A step of all weights, two steps of the new bias layer, and the logits then."""
    expected, task = setting(original, case, "bic")
    method = tiny.method("bic", original.classifier)
    seen, key = SEEN[case], jax.random.key(0)
    bias = {"alpha": np.ones(100), "beta": np.zeros(100)}
    bias["alpha"][1], bias["beta"][1] = 1.15, -0.25
    bias = {name: values.astype(original.precision) for name, values in bias.items()}

    def with_bias(variables):
        return {**variables, "params": {**variables["params"], "bias_layers": bias}}

    with enable(original.precision):
        start = with_bias(original.learner)
        state = tiny.learner(**start, teacher=with_bias(original.teacher))
        state = method.before_task(state, task, None)
        state = state.replace(opt_state=method.training.optimizer.init(state.params))
        correct = jit(method.correct)
        student = logits_of(original, start, original.real, train=True)
        teacher = logits_of(original, original.teacher, original.real, train=False)
        student = correct(state, student, state.params)
        teacher = correct(state, teacher, state.teacher["params"])
        labels = fold(original.y_mix, seen)
        batch = Batch(original.real, labels, None)
        state, metrics = update(method.training, method, state, task, batch, 0, key)
    compare_state(expected, original, state, "stage1/")
    expected.forward("stage1/logits", student[:, :seen])
    expected.forward("teacher_logits", teacher[:, :OLD])
    expected.forward("stage1/loss_total", metrics["loss"])
    old_share = np.array(OLD / seen, original.precision)
    expected.forward("stage1/loss_class", np.asarray(metrics["class"]) / (1 - old_share))
    expected.forward("stage1/loss_kd", np.asarray(metrics["distillation"]) / old_share)
    compare_accuracy(metrics, expected["stage1/logits"], labels)

    with enable(original.precision):
        state = state.replace(opt_state=method.correction_stage.optimizer.init(state.params))
        middle, history = state, []
        first = Batch(original.real[:, :, ::-1], expected["stage2/y0"].astype(np.int32), None)
        for each in (first, batch):
            state, metrics = update(method.correction_stage, method, state, task, each, 0, key)
            history.append(metrics["loss"])
        trained = state.params["bias_layers"]
        layers = np.stack([trained["alpha"], trained["beta"]])
        plain = method.forward(state, original.real)
        corrected = dataclasses.replace(method, correct_at_test=True).forward(state, original.real)
    compare_state(expected, original, state, "stage2/", middle)
    expected.forward("stage2/losses", np.array(history))
    expected.update("stage2/alpha_beta", layers[:, 2], np.array([1, 0], original.precision))
    expected.forward("stage2/past_alpha_beta", layers[:, 1])
    expected.forward("eval/logits_used_by_validation", plain[:, :seen])
    expected.forward("eval/logits_with_bias_layers", corrected[:, :seen])
    others = np.delete(layers, [1, 2], axis=1)
    np.testing.assert_array_equal(others, [[1] * 98, [0] * 98])
    expected.all_compared("stage2/y0")


@pytest.mark.parametrize(("kind", "name"), [("ete", "e2e"), ("bic", "bic")])
def test_the_first_task_is_the_originals(original, kind, name):
    expected = Expected(original.goldens, f"first_{kind}", original.precision)
    method = tiny.method(name, original.classifier)
    labels = original.y_first
    with enable(original.precision):
        state = initial_state(original, method)
        if name == "bic":
            bias = {"alpha": np.ones(100), "beta": np.zeros(100)}
            state = state.replace(params={**state.params, "bias_layers": bias})
            state = state.replace(opt_state=method.training.optimizer.init(state.params))
        task = tiny.task(0, SEEN["first"], True)
        batch = Batch(original.real, labels, None)
        student = logits_of(original, original.learner, original.real, train=True)
        state, metrics = update(method.training, method, state, task, batch, 0, jax.random.key(0))
    compare_state(expected, original, state)
    expected.forward("logits", student[:, : SEEN["first"]])
    for loss in {"loss_class", "loss_ce", "loss_total", "loss_class_reported"} & expected.names:
        expected.forward(loss, metrics["loss"])
    for loss in {"loss_kd", "loss_kd_reported"} & expected.names:
        expected.forward(loss, np.zeros((), original.precision))
    assert set(metrics) == {"loss", "class", "accuracy"}
    expected.all_compared()


@pytest.mark.parametrize("kind", ["base", "lwf"])
def test_class_weights_are_the_originals(original, kind):
    expected = Expected(original.goldens, f"update_{kind}_dw", original.precision)
    method = tiny.method(kind, original.classifier, memory=WEIGHTED)
    with enable(original.precision):
        state = initial_state(original, method)
        counts = np.zeros(100, np.int32)
        counts[: SEEN["update"]] = original.goldens("inputs")["class_counts"]
        batch = Batch(original.real, original.y_mix, counts)
        task = tiny.task(OLD, SEEN["update"])
        student = logits_of(original, original.learner, original.real, train=True)
        teacher = logits_of(original, original.teacher, original.real, train=False)
        state, metrics = update(method.training, method, state, task, batch, 0, jax.random.key(0))
    compare_state(expected, original, state)
    expected.forward("logits", student[:, : SEEN["update"]])
    expected.forward("loss_total", metrics["loss"])
    for loss in {"loss_class", "loss_ce"} & expected.names:
        expected.forward(loss, metrics["class"])
    if kind == "lwf":
        expected.forward("loss_kd", metrics["distillation"])
        expected.forward("teacher_logits", teacher[:, :OLD])
        expected.all_compared()
    else:
        # The original appends a weight of 1 for samples that are not to be weighted.
        expected.all_compared("dw_k")
        weights = losses.class_weights(counts, SEEN["update"])
        want = expected["dw_k"][:-1]
        np.testing.assert_allclose(weights[: len(want)], want, rtol=1e-6)
        assert not weights[len(want) :].any()
