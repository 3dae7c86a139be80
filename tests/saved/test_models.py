"""cljax.load: a saved classifier computes what it did in its run."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax.errors import UserError
from cljax.models import make_classifier
from cljax.output.checkpoints import unflatten
from cljax.saved import contents
from cljax.saved.runs import SavedRun
from tests.helpers import saved, tiny_runs


@pytest.fixture(scope="module")
def model(resnet_run):
    return cljax.load(resnet_run, task=1)


def test_logits_and_features(resnet_run, model):
    dataset = saved.digits()
    images = dataset.test_images[:300]  # more than a batch
    module = make_classifier("resnet8", 10, 4)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    variables = unflatten(shapes, "seed0", tiny_runs.models(resnet_run, 1))
    outputs = module.apply(variables, saved.standardised(dataset, images))
    np.testing.assert_allclose(model.logits(images), outputs.logits[:, :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.features(images), outputs.features, rtol=1e-5, atol=1e-5)


def test_classes_are_those_seen(resnet_run, model):
    order = tiny_runs.results(resnet_run)["class_names"][0]
    assert model.classes == tuple(order[:2])
    assert cljax.load(resnet_run).classes == tuple(order)  # of two tasks
    images = saved.digits().test_images[:20]
    assert set(model.predict(images)) <= set(model.classes)
    shares = model.probabilities(images)
    assert shares.shape == (20, 2)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(model.rank(images, 5)[:, 0], shares.argmax(1))
    assert model.rank(images, 5).shape == (20, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"), [("icarl", {}), ("bic", {"method__correct_at_test": True})]
)
def test_a_method_with_predictions_of_its_own(fast_runs, tmp_path, name, settings):
    config = tiny_runs.make_config(name, seeds=(1,), **settings)
    tiny_runs.run(config, tmp_path)
    results, dataset = tiny_runs.results(tmp_path), saved.digits()
    model = cljax.load(tmp_path, seed=1)
    shown = np.isin(dataset.test_labels, model.class_ids)
    found = np.array(model.predict(dataset.test_images[shown]))
    right = found == np.array(dataset.class_names)[dataset.test_labels[shown]]
    assert 100 * right.mean() == pytest.approx(results["seen_accuracy"][0][-1], abs=1e-9)
    if name == "icarl":  # not those of the logits
        assert (
            model.logits(dataset.test_images[shown]).argmax(1)
            != model.rank(dataset.test_images[shown])[:, 0]
        ).any()


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)],
)
def test_images_of_another_form(model, images):
    with pytest.raises(UserError, match=r"expected uint8 \[B, 8, 8, 1\]"):
        model.logits(images)


def test_a_model_of_an_earlier_version(resnet_run, monkeypatch):
    old = contents.ModelRecord.model_validate({"data": 1})
    monkeypatch.setattr(SavedRun, "read_models", lambda *args: ({}, old))
    with pytest.raises(UserError, match="saved by an earlier version"):
        cljax.load(resnet_run)


def test_import_alone_is_light():
    code = "import cljax, sys; assert not {'jax', 'numpy', 'flax'} & sys.modules.keys(); cljax.load"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny_runs.ROOT)
