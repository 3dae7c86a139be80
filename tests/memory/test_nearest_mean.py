"""Class means against the numbers of the LUCIR code, and read-outs of whole runs."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from cljax.errors import UserError
from cljax.memory import nearest_mean
from cljax.state import Subset
from tests.helpers import tiny_runs

NUM_IMAGES = 500  # of each class


class Table:
    """A method whose features are looked up."""

    classifier = SimpleNamespace(num_classes=6)

    def __init__(self, features, flipped):
        self.tables = jnp.asarray(features), jnp.asarray(flipped)

    def features(self, state, data, indices, count, transform):
        return self.tables[transform is not None][indices]


@pytest.mark.parametrize("run", ["per_class_20", "fixed_total_100"])
@pytest.mark.parametrize("phase", [0, 1, 2])
def test_class_means_and_decisions_are_the_originals(lucir_goldens, run, phase):
    """Nearest mean of exemplars, and of all images; K includes classes to come."""
    arrays = lucir_goldens("lucir_herding_and_means")
    order, scale = arrays["class_order"], arrays["phase_scale"][phase]
    kept = arrays[f"{run}.phase{phase}.exemplars"]
    seen = len(kept)
    tables = [arrays[name] * scale for name in ("features_train", "features_train_flipped")]
    method = Table(*(table.reshape(-1, 64) for table in tables))
    every = np.broadcast_to(np.arange(NUM_IMAGES), (seen, NUM_IMAGES))
    tests = (arrays["features_test"] * scale)[order[:seen]]
    truth = np.repeat(np.arange(seen), tests.shape[1])
    for place, positions in enumerate((kept, every)):
        indices = (order[:seen, None] * NUM_IMAGES + positions).reshape(-1)
        labels = np.repeat(np.arange(seen), positions.shape[1])
        padded = Subset(jnp.asarray(np.append(indices, 7)), jnp.int32(len(indices)))
        labels = jnp.asarray(np.append(labels, 6))
        means = nearest_mean.class_means(method, None, None, padded, labels, "channels")
        want = arrays[f"{run}.phase{phase}.class_means"][..., place]
        np.testing.assert_allclose(means[:, :seen], want, atol=2e-6)
        assert not means[:, seen:].any()
        scores = nearest_mean.similarities(jnp.asarray(tests.reshape(-1, 64)), means)
        right = np.argmax(scores[:, :seen], -1) == truth
        want = arrays[f"{run}.phase{phase}.accuracy_all_seen"][1 + place]
        np.testing.assert_allclose(100 * right.mean(), want, rtol=1e-6)


def test_without_mirror_means_are_of_the_images_alone():
    random = np.random.default_rng(0)
    features = random.normal(size=(9, 4))
    method = Table(features, 1e3 * random.normal(size=(9, 4)))
    labels = jnp.array([0, 0, 0, 1, 1, 5, 6, 6, 6])
    images = Subset(jnp.arange(9), jnp.int32(6))
    means = np.asarray(nearest_mean.class_means(method, None, None, images, labels))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for label, rows in ((0, slice(0, 3)), (1, slice(3, 5)), (5, slice(5, 6))):
        mean = unit[rows].mean(0)
        np.testing.assert_allclose(means[:, label], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.slow
def test_read_outs_of_a_run(fast_runs, tmp_path):
    """With all images kept, the nearest means of exemplars and of all images are the same."""
    settings = {
        "eval__read_outs": ("cnn", "nme", "ncm"),
        "exemplars__per_class": 10,
        "model__name": "resnet8",
        "seeds": (0, 1),
    }
    config = tiny_runs.make_config("lucir", **settings)
    shown = tiny_runs.run(config, tmp_path)
    results = tiny_runs.results(tmp_path)
    assert list(results["read_outs"]) == ["cnn", "nme", "ncm"]
    cnn, nme, ncm = results["read_outs"].values()
    assert nme == ncm
    assert cnn["accuracy"] == results["accuracy"]
    assert nme["final_accuracy"]["mean"] > 40, "six classes: chance is 17 %"
    assert len(nme["seen_accuracy"]) == 2 and len(nme["seen_accuracy"][0]) == 2
    assert "nearest mean of exemplars" in shown and "an oracle" in shown


def test_read_outs_of_exemplars_need_exemplars(tmp_path):
    with pytest.raises(UserError, match=r"config\.eval\.read_outs: 'nme' needs exemplars"):
        tiny_runs.run(tiny_runs.make_config("base", eval__read_outs=("nme",)), tmp_path)
    with pytest.raises(UserError, match=r"read_outs: entry 1 is 'knn', must be one of"):
        tiny_runs.run(tiny_runs.make_config("base", eval__read_outs=("knn",)), tmp_path)
