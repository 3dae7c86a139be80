"""What the parts of a method do, on small networks."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses, rng
from cljax.methods import METHODS, find_class
from cljax.rng import Streams
from cljax.stages import TrainStage
from cljax.state import Batch
from tests.helpers import tiny, tiny_runs


def small_state(method, seed=0):
    classifier = method.classifier
    state = tiny.learner(
        **tiny.variables(classifier, seed), teacher=tiny.variables(classifier, seed + 1)
    )
    return state.replace(opt_state=method.training.optimizer.init(state.params))


def gradients_by_term(kind, old, seen, labels):
    """The gradient of each term of a method on small networks."""
    method = tiny.method(kind, tiny.classifier(), tiny.generator())
    state = small_state(method).replace(generator=tiny.images(len(labels), 2))
    batch, task = Batch(tiny.images(len(labels), 3), np.int32(labels), None), tiny.task(old, seen)

    @jax.jit
    def gradients(params):
        def terms(params):
            key = jax.random.key(0)
            return method.observe(state.replace(params=params), task, batch, key).terms

        return jax.jacrev(terms)(params)

    return jax.tree.map(np.asarray, gradients(state.params))


def moved(tree):
    return any(leaf.any() for leaf in jax.tree.leaves(tree))


def test_what_each_term_of_abd_trains():
    """The head's term reaches the head only, the distillation all but the head."""
    terms = gradients_by_term("given", 4, 7, [4, 5, 6, 4])
    assert set(terms) == {"local", "head", "distillation"}
    assert moved(terms["head"]["head"]) and not moved(terms["head"]["backbone"])
    assert moved(terms["distillation"]["backbone"]) and not moved(terms["distillation"]["head"])
    local = terms["local"]["head"]["bias"]
    assert moved(terms["local"]["backbone"])
    assert local[4:7].all() and not local[:4].any() and not local[7:].any()
    assert terms["head"]["head"]["bias"].all()  # classes never seen as well


def test_base_does_not_train_classes_not_seen():
    terms = gradients_by_term("base", 4, 7, [4, 5, 6, 4])
    bias = terms["class"]["head"]["bias"]
    assert set(terms) == {"class"} and bias[:7].all() and not bias[7:].any()


def test_mu_weighs_the_distillation_alone():
    method = tiny.method("given", tiny.classifier(), tiny.generator())
    state = small_state(method).replace(generator=tiny.images(4, 2))
    batch, task = Batch(tiny.images(4, 3), np.int32([4, 5, 6, 4]), None), tiny.task(4, 7)
    observe = jax.jit(lambda m: m.observe(state, task, batch, jax.random.key(0)).terms)
    base, double = observe(method), observe(dataclasses.replace(method, mu=0.2))
    assert observe._cache_size() == 1
    np.testing.assert_allclose(double["distillation"], 2 * base["distillation"], rtol=1e-6)
    assert base["distillation"] > 0
    assert (double["local"], double["head"]) == (base["local"], base["head"])


@pytest.mark.parametrize("kind", ["given", "given_deep_inversion", "given_deep_inversion_lwf"])
def test_dreamed_accuracy_compares_with_the_teacher_among_seen_classes(kind):
    method = tiny.method(kind, tiny.classifier(), tiny.generator())
    state, dreamed = small_state(method), tiny.images(12, 2)
    teacher = tiny.variables(tiny.classifier(), seed=5)
    state = state.replace(generator=dreamed, teacher=teacher)
    labels = np.resize(np.int32([4, 5, 6]), 12)
    batch, task = Batch(tiny.images(12, 3), labels, None), tiny.task(4, 7)
    observed = jax.jit(method.observe)(state, task, batch, jax.random.key(0))
    train = functools.partial(method.classifier.apply, train=True, mutable=["batch_stats"])
    both = np.concatenate([batch.images, dreamed])
    student = jax.jit(train)(state.variables, both)[0].logits[12:, :7].argmax(-1)
    wanted = jax.jit(method.classifier.apply)(teacher, dreamed).logits[:, :4].argmax(-1)
    accuracy = float(observed.metrics["dreamed_accuracy"])
    np.testing.assert_allclose(accuracy, (student == wanted).mean(), rtol=1e-6)
    assert 0 < accuracy < 1


@pytest.mark.parametrize("name", [n for n in METHODS if hasattr(find_class(n), "dream")])
def test_every_method_that_dreams_scores_its_dreams(name):
    """In every training stage of a later task."""
    config = importlib.import_module(f"configs.{name}_digits").get_config()
    method = tiny_runs.make_method(config, tiny_runs.empty_dataset(8, 8, 1))

    def metrics(observe, is_first):
        state = method.init(tiny.ZEROS, (8, 8, 1))
        task = tiny.task(0 if is_first else 4, 7, is_first)
        batch = Batch(jnp.zeros((6, 8, 8, 1)), jnp.full(6, 5), jnp.zeros(10, jnp.int32))
        return observe(state, task, batch, jax.random.key(0)).metrics

    stages = [stage for stage in method.stages(1, 3) if isinstance(stage, TrainStage)]
    assert stages
    for stage in stages:
        observe = functools.partial(metrics, getattr(method, stage.observes))
        assert jax.eval_shape(functools.partial(observe, False)).keys() == {"dreamed_accuracy"}
    assert jax.eval_shape(functools.partial(metrics, method.observe, True)) is None


def test_streams_of_the_initial_state():
    """Classifier and generator have seeds of their own; the teacher is a copy to begin with."""
    method = tiny.method("abd", tiny.classifier(), tiny.generator())
    init = jax.jit(
        lambda streams: method.init(streams, tiny.IMAGE_SHAPE),
    )
    start = init(Streams(0, 0, 0, 0))
    other_classifier, other_generator = init(Streams(1, 2, 3, 0)), init(Streams(0, 2, 3, 1))

    def same(a, b):
        return jax.tree.all(jax.tree.map(np.array_equal, a, b))

    assert same(start.teacher, start.variables)
    assert start.opt_state is None
    assert same(start.params, other_generator.params)
    assert same(start.generator, other_classifier.generator)
    assert not same(start.params, other_classifier.params)
    assert not same(start.generator, other_generator.generator)


def test_dreams_are_drawn_by_key():
    method = tiny.method("abd", tiny.classifier(), tiny.generator())
    generator = tiny.fresh(tiny.variables(tiny.generator(), seed=0))
    state = small_state(method).replace(generator=generator)
    dream = jax.jit(lambda key: method.dream(state, key, 3))
    images = dream(rng.key(0, "a"))
    assert images.shape == (3, *tiny.IMAGE_SHAPE)
    np.testing.assert_array_equal(images, dream(rng.key(0, "a")))
    assert not np.allclose(images, dream(rng.key(1, "a")))


def test_stages_of_a_task():
    abd = tiny.method("given", tiny.classifier(), tiny.generator())
    assert [[stage.name for stage in abd.stages(t, 3)] for t in range(3)] == [
        ["train", "dream"],
        ["train", "dream"],
        ["train"],
    ]
    base = tiny.method("base", tiny.classifier(), None)
    assert [stage.name for stage in base.stages(0, 3)] == ["train"]


def test_inference_ranks_valid_classes_in_eval_mode():
    method = tiny.method("base", tiny.classifier(), None)
    state, images = small_state(method), tiny.images(6, 4)
    logits = np.asarray(jax.jit(method.classifier.apply)(state.variables, images).logits)
    np.testing.assert_allclose(method.forward(state, images), logits, rtol=1e-4, atol=1e-5)
    seen, own = losses.class_range(10, 0, 7), losses.class_range(10, 4, 7)
    top = method.inference(state, images, seen, k=2)
    np.testing.assert_array_equal(top, np.argsort(-logits[:, :7], axis=1)[:, :2])
    both = method.inference(state, images, jnp.stack([seen, own])[:, None])
    np.testing.assert_array_equal(both[0], top[:, :1])
    np.testing.assert_array_equal(both[1, :, 0], 4 + np.argmax(logits[:, 4:7], axis=1))
