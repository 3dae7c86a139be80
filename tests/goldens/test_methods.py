"""Single steps of methods against the original's numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from cljax import losses
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
from tests.helpers.goldens import FORWARD, Expected, channels_last, deviation, enable, recipe

pytestmark = pytest.mark.slow

METHODS = {  # golden files and our methods
    "base": "base",
    "lwf": "lwf",
    "lwf_mc": "lwf_mc",
    "deepinv": "given_deep_inversion",
    "deepinv_lwf": "given_deep_inversion_lwf",
    "abd": "given",
}
REPLAY = ("deepinv", "deepinv_lwf", "abd")


def run_case(original, case, kind):
    """One step of a golden case: expectations, method, state before, batch, task, results."""
    expected = Expected(original.goldens, f"{case}_{kind}", original.precision)
    method = tiny.method(METHODS[kind], original.classifier, original.generator)
    seen = SEEN[case]
    labels = original.y_mix if kind == "lwf_mc" else original.y_new
    labels = original.y_first if case == "first" else fold(labels, seen)
    with enable(original.precision):
        before = initial_state(original, method)
        if kind in REPLAY and case != "first":
            latents = original.goldens("inputs")["z_syn"]
            before = before.replace(generator=original.dream(latents))
        # Base does not know first tasks, so a second program would show nothing.
        is_first = case == "first" and kind != "base"
        task = tiny.task(0 if case == "first" else OLD, seen, is_first)
        batch = Batch(original.real, labels, None)
        key = jax.random.key(0)
        state, metrics = update(method.training, method, before, task, batch, 0, key)
    compare_state(expected, original, state)
    return expected, method, before, batch, metrics


@pytest.mark.parametrize("case", ["first", "update", "uneven"])
def test_base_is_the_originals(original, case):
    expected, method, before, batch, metrics = run_case(original, case, "base")
    with enable(original.precision):
        outputs = outputs_of(method.classifier, before.variables, batch.images, train=True)
    expected.forward("logits", outputs.logits[:, : SEEN[case]])
    expected.forward("loss_total", metrics["loss"])
    expected.forward("loss_class", metrics["class"])
    compare_accuracy(metrics, expected["logits"], batch.labels)
    expected.all_compared()


def test_first_task_of_abd_is_the_originals(original):
    expected, method, before, batch, metrics = run_case(original, "first", "abd")
    with enable(original.precision):
        outputs = outputs_of(method.classifier, before.variables, batch.images, train=True)
    expected.forward("logits", outputs.logits)
    for name in ("loss_total", "loss_class", "loss_ce"):
        expected.forward(name, metrics["class"])
    expected.forward("loss_total", metrics["loss"])
    expected.forward("loss_kd", np.zeros((), original.precision))
    assert set(metrics) == {"loss", "class", "accuracy"}
    compare_accuracy(metrics, expected["logits"][:, : SEEN["first"]], batch.labels)
    expected.all_compared()


@pytest.mark.parametrize("kind", ["lwf", "lwf_mc", "deepinv"])
def test_first_task_of_other_learners_is_the_originals(original, kind):
    expected, method, before, batch, metrics = run_case(original, "first", kind)
    with enable(original.precision):
        outputs = outputs_of(method.classifier, before.variables, batch.images, train=True)
    expected.forward("logits", outputs.logits[:, : SEEN["first"]])
    expected.forward("loss_total", metrics["loss"])
    for name in {"loss_class", "loss_ce"} & expected.names:
        expected.forward(name, metrics["class"])
    expected.forward("loss_kd", np.zeros((), original.precision))
    assert set(metrics) == {"loss", "class", "accuracy"}
    compare_accuracy(metrics, expected["logits"], batch.labels)
    expected.all_compared()


@pytest.mark.parametrize("case", ["update", "uneven"])
@pytest.mark.parametrize("kind", ["lwf", "lwf_mc", "deepinv", "deepinv_lwf"])
def test_distilling_learners_are_the_originals(original, case, kind):
    expected, method, before, batch, metrics = run_case(original, case, kind)
    images = batch.images
    if kind in REPLAY:
        images = np.concatenate([images, before.generator])
    with enable(original.precision):
        student = outputs_of(method.classifier, before.variables, images, train=True)
        teacher = outputs_of(method.classifier, before.teacher, batch.images, train=False)
    expected.forward("logits", student.logits[:, : SEEN[case]])
    if "teacher_logits" in expected.names:
        expected.forward("teacher_logits", teacher.logits[:, :OLD])
    expected.forward("loss_total", metrics["loss"])
    for name in {"loss_class", "loss_ce"} & expected.names:
        expected.forward(name, metrics["class"])
    distilled = [metrics[n] for n in ("distillation", "dream_distillation") if n in metrics]
    expected.forward("loss_kd", np.sum(distilled, dtype=original.precision))
    if "kd_terms" in expected.names:
        expected.forward("kd_terms", np.array(distilled) / method.mu)
    compare_accuracy(metrics, expected["logits"][:20], batch.labels)
    expected.all_compared()


@pytest.mark.parametrize("case", ["update", "uneven"])
def test_abd_is_the_originals(original, case):
    """The running statistics after the step show that they moved twice."""
    expected, method, before, batch, metrics = run_case(original, case, "abd")
    expected.forward("loss_total", metrics["loss"])
    expected.forward("loss_class", metrics["local"] + metrics["head"])
    expected.forward("loss_local_ce", metrics["local"])
    expected.forward("loss_ft_ce", metrics["head"])
    expected.forward("loss_kd", metrics["distillation"])
    images = np.concatenate([batch.images, before.generator])
    with enable(original.precision):
        student = outputs_of(method.classifier, before.variables, images, train=True)
        # Two halves, as other cases have compiled this for 20 images.
        teacher = [
            outputs_of(method.classifier, before.teacher, half, train=False)
            for half in (batch.images, before.generator)
        ]
    expected.forward("logits", student.logits)
    head = original.teacher["params"]["head"]
    teacher_features = np.concatenate([half.features for half in teacher])
    for name, features in [("kd_student", student.features), ("kd_teacher", teacher_features)]:
        logits = np.asarray(features) @ head["kernel"] + head["bias"]
        expected.forward(name, logits[:, :OLD])
    compare_accuracy(metrics, expected["logits"][:20, : SEEN[case]], batch.labels)
    expected.all_compared()


def test_dreamed_inputs_are_the_originals(original):
    inputs = original.goldens("inputs")
    want = channels_last(inputs["x_syn"], original.precision)
    images = original.dream(inputs["z_syn"])
    # As far as such images and logits deviate within the original.
    atol = FORWARD * deviation(original.goldens, "generator_cifar", "eval_images")
    np.testing.assert_allclose(images, want, atol=atol)
    with enable(original.precision):
        logits = outputs_of(original.classifier, original.teacher, images, train=False).logits
        labels = losses.masked_argmax(logits, losses.class_range(100, 0, OLD))
    np.testing.assert_array_equal(labels, inputs["y_syn"])
    atol = FORWARD * deviation(original.goldens, "update_lwf", "teacher_logits")
    np.testing.assert_allclose(logits[:, :OLD], inputs["yhat_syn"], atol=atol)


def test_chain_of_abd_steps_is_the_originals(original):
    """Three steps: momentum accumulates, and so do the repeated statistics updates."""
    expected = Expected(original.goldens, "update_abd_chain", original.precision)
    method = tiny.method("given", original.classifier, original.generator)
    stage = dataclasses.replace(method.training, optimizer=tiny.sgd(0.01))
    real, labels, order = original.real, original.y_new, expected["perm"]
    batches = [
        Batch(real, labels, None),
        Batch(real[order][:, :, ::-1], labels[order], None),
        Batch(real[:, ::-1], labels, None),
    ]
    history = []
    with enable(original.precision):
        state, task = initial_state(original, method), tiny.task(OLD, SEEN["update"])
        for i, batch in enumerate(batches):
            dreamed = original.dream(recipe(original.goldens, f"chain/z{i}"))
            logits = outputs_of(original.classifier, original.teacher, dreamed, train=False).logits
            np.testing.assert_array_equal(np.argmax(logits[:, :OLD], -1), expected["y_syn"][i])
            state = state.replace(generator=dreamed)
            state, metrics = update(stage, method, state, task, batch, 0, jax.random.key(0))
            history.append(metrics)
    compare_state(expected, original, state)
    terms = {name: np.stack([metrics[name] for metrics in history]) for name in history[0]}
    expected.forward("loss_total", terms["loss"])
    expected.forward("loss_class", terms["local"] + terms["head"])
    expected.forward("loss_kd", terms["distillation"])
    expected.all_compared("perm", "y_syn")
