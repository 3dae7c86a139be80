"""R-DFCIL's loss terms, factors and class weights against the original's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.models import Projection
from tests.helpers import rdfcil, tiny
from tests.helpers.goldens import PRECISIONS, Expected, enable
from tests.helpers.rdfcil import NUM_CLASSES, OLD, SEEN

precisions = pytest.mark.parametrize("precision", PRECISIONS)


def padded(logits, precision):
    """Logits of all classes; those never seen must change nothing."""
    unseen = np.random.default_rng(0).normal(size=(len(logits), NUM_CLASSES)) * 9
    unseen[:, : logits.shape[1]] = logits
    return unseen.astype(precision)


@precisions
def test_loss_terms_are_the_originals(rdfcil_goldens, precision):
    expected = Expected(rdfcil_goldens, "losses", precision)
    method = rdfcil.method(tiny.classifier())
    real, dreamed, teacher = (
        padded(expected[name], precision)
        for name in ("logits_real", "logits_syn", "old_logits_syn")
    )
    y_real, y_syn = expected["y_real"], expected["y_syn"]
    counts = np.pad(expected["cls_count"], (0, NUM_CLASSES - SEEN)).astype(np.int32)
    old, new = (losses.class_range(NUM_CLASSES, *ends) for ends in ((0, OLD), (OLD, SEEN)))
    with enable(precision):
        local = jax.value_and_grad(lambda x: losses.cross_entropy(x, y_real, new))(real)
        hard = jax.value_and_grad(lambda x: losses.logit_distance(x, teacher, old))(dreamed)
        labels = method.no_labels().replace(counts=jnp.array(counts))
        state = tiny.learner({}, extras=labels.replace(weights=jnp.ones(NUM_CLASSES, precision)))
        weights = method.weigh_classes(state, 0).extras.weights
        of_rows = weights[np.concatenate([y_real, y_syn])]
        of_rows = of_rows * len(of_rows) / of_rows.sum()
        seen = losses.class_range(NUM_CLASSES, 0, SEEN)
        both = np.concatenate([real, dreamed])
        labels = np.concatenate([y_real, y_syn])
        weighted = jax.value_and_grad(lambda x: losses.cross_entropy(x, labels, seen, of_rows))(
            both
        )
    expected.forward("cls_weight", weights[:SEEN])
    found = {"ce_local": local, "hkd": hard, "ce_weighted": weighted}
    for name, (value, gradient) in found.items():
        expected.forward(name, value)
        expected.update(f"grad/{name}", gradient[:, :SEEN])
        assert not gradient[:, SEEN:].any()
    with enable(precision):
        factors = method.factors(rdfcil.third_task())
    for name, value in zip(("ce", "hkd", "rkd"), factors, strict=True):
        expected.forward(f"factor/{name}", value)
    expected.forward("factor_finetuning/ce", np.array(method.lambda_ce, precision))
    expected.forward("factor_finetuning/hkd", factors.hard)
    expected.all_compared(
        "y_real", "y_syn", "cls_count", "logits_real", "logits_syn", "old_logits_syn"
    )


@precisions
def test_factors_are_the_originals(rdfcil_goldens, precision):
    """Of all pairs of class counts from one traced function."""
    expected = Expected(rdfcil_goldens, "factors", precision)
    old, new = (expected[name].astype(np.int32) for name in ("old", "new"))
    method = rdfcil.method(tiny.classifier())

    @jax.jit
    def of(old, seen):
        return method.factors(tiny.task(0, 1).replace(old=old, seen=seen))

    with enable(precision):
        found = [of(*pair) for pair in zip(old, old + new, strict=True)]
        assert of._cache_size() == 1
    ce, hkd, rkd = (np.stack(values) for values in zip(*found, strict=True))
    expected.forward("ce", ce)
    expected.forward("hkd", hkd)
    expected.forward("rkd", rkd)
    expected.forward("finetuning_ce", np.full_like(ce, method.lambda_ce))
    expected.forward("finetuning_hkd", hkd)
    expected.all_compared("old", "new")


@precisions
def test_angle_distance_is_the_originals(rdfcil_goldens, precision):
    expected = Expected(rdfcil_goldens, "rkd", precision)
    student, teacher = (expected[name].astype(precision) for name in ("student", "teacher"))
    with enable(precision):
        projections = rdfcil.make_projections(rdfcil_goldens, precision)

        def project(name, features, projections):
            return Projection().apply({"params": projections[name]}, features)

        def loss(student, teacher, projections):
            return losses.angle_distance(
                project("student", student, projections), project("teacher", teacher, projections)
            )

        value, gradients = jax.value_and_grad(loss, (0, 1, 2))(student, teacher, projections)
        for name, features in (("student", student), ("teacher", teacher)):
            found = losses.angles(project(name, features, projections))
            expected.forward(f"{name}_angles", found)
    expected.forward("loss", value)
    expected.update("grad/student", gradients[0])
    expected.update("grad/teacher", gradients[1])
    for name, torch_name in rdfcil.PROJECTIONS.items():
        gradient = gradients[2][name]["Dense_0"]
        torch_name = torch_name.removeprefix("rkd.")
        expected.update(f"grad/{torch_name}.weight", gradient["kernel"].T)
        # Biases cancel in differences, so that their gradients are rounding.
        assert np.abs(gradient["bias"]).max() < 1e-4 * np.abs(gradient["kernel"]).max()
    biases = ("grad/embed1.bias", "grad/embed2.bias")
    plain = {name for name in expected.names if name.startswith("plain/")}
    expected.all_compared("student", "teacher", *biases, *plain)


@precisions
def test_angles_of_equal_rows_are_the_originals(rdfcil_goldens, precision):
    expected = Expected(rdfcil_goldens, "rkd", precision)
    rows = [expected[f"plain/{name}"].astype(precision) for name in ("student", "teacher")]
    np.testing.assert_array_equal(rows[0][1], rows[0][4])
    with enable(precision):
        value, gradients = jax.value_and_grad(losses.angle_distance, (0, 1))(*rows)
        for name, features, gradient in zip(("student", "teacher"), rows, gradients, strict=True):
            found = losses.angles(features)
            assert not found[1, 4].any() and not found[4, :, 1].any()
            expected.forward(f"plain/{name}_angles", found)
            expected.update(f"plain/grad/{name}", gradient)
    expected.forward("plain/loss", value)


def test_gradients_are_finite_where_rows_are_equal_in_one_network_only():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 6, 5)).astype(np.float32)
    student[4] = student[1]
    gradients = jax.jit(jax.grad(losses.angle_distance, (0, 1)))(student, teacher)
    for gradient in gradients:
        assert np.isfinite(gradient).all() and 0 < np.abs(gradient).max() < 1
    same = jax.jit(jax.grad(losses.angle_distance))(np.zeros_like(student), teacher)
    assert not same.any()
