"""Methods: single steps against the original's numbers, and what each method's parts do."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses, rng, stages
from cljax.data.augment import Augmentation
from cljax.data.preprocessing import Preprocessing
from cljax.interop import torch
from cljax.inversion import Inversion
from cljax.methods.abd import AlwaysBeDreaming
from cljax.methods.base import Finetune
from cljax.rng import Streams
from cljax.stages import SGD, InversionStage, TrainStage
from cljax.state import Batch, GeneratorState, LearnerState, Task, hyperparameters
from tests import small
from tests.goldens import PRECISIONS, Expected, channels_last, enable, network, recipe

PLAIN = Preprocessing(Augmentation(), (0.0,) * 3, (1.0,) * 3)
OLD = 20
SEEN = {"first": 20, "update": 40, "uneven": 32}
update = jax.jit(stages.update)


@hyperparameters
class Given(AlwaysBeDreaming):
    """Replays given images instead of dreaming: those in the generator's place."""

    def dream(self, state, key, count):
        return state.generator


def sgd(learning_rate=0.1):
    return SGD(learning_rate, 0.9, 2e-4, 0.1, ())


def make_method(kind, classifier, generator):
    training = TrainStage("train", 1, 0, 20, sgd())
    if kind == "base":
        return Finetune(classifier, PLAIN, training)
    dreaming = InversionStage("dream", 1, 0, 1, Inversion(generator))
    return Given(classifier, PLAIN, training, dreaming)


def make_task(old, seen, is_first=False):
    nothing = jnp.zeros(1, jnp.int32)
    numbers = (jnp.int32(n) for n in (0 if is_first else 1, old, seen))
    return Task(*numbers, nothing, jnp.int32(0), nothing, is_first)


@pytest.fixture(scope="module", params=PRECISIONS)
def original(goldens, request):
    """States and inputs that all cases share, at one precision."""
    precision = request.param
    classifier, learner = network(goldens, "M", precision)
    teacher = network(goldens, "T", precision)[1]
    generator, dreamer = network(goldens, "G", precision)
    generate = jax.jit(functools.partial(generator.apply, dreamer, train=False))

    def dream(latents):
        with enable(precision):
            return generate(latents.astype(precision))

    inputs = goldens("inputs")
    return SimpleNamespace(
        goldens=goldens,
        precision=precision,
        classifier=classifier,
        learner=learner,
        teacher=teacher,
        generator=generator,
        dream=dream,
        real=channels_last(inputs["x_real"], precision),
        y_new=inputs["y_new"].astype(np.int32),
        y_first=inputs["y_first"].astype(np.int32),
    )


def initial_state(original, method):
    state = LearnerState(
        **original.learner,
        opt_state=None,
        teacher=original.teacher,
        generator=None,
        streams=Streams(0, 0, 0, 0),
    )
    return method.training.begin(method, state)


def compare_state(expected, original, state):
    """All stored tensors after the step, and how far each of the 157 tensors moved."""
    with enable(original.precision):
        before = torch.classifier_to_torch(original.classifier, original.learner)
        after = torch.classifier_to_torch(original.classifier, state.variables)
    names = [name for name in expected.names if name.startswith("after/")]
    assert len(names) >= 10
    for name in names:
        tensor = name.removeprefix("after/")
        if "running" in tensor:
            expected.forward(name, after[tensor])
        else:
            expected.update(name, after[tensor], before[tensor])
    tensors = original.goldens("states")["state_names"]
    moved = [np.linalg.norm(after[tensor] - before[tensor]) for tensor in tensors]
    expected.update("delta_norm", np.array(moved, original.precision))


def run_case(original, case, kind):
    """One step of a golden case: expectations, method, state before, batch, task, results."""
    expected = Expected(original.goldens, f"{case}_{kind}", original.precision)
    method = make_method(kind, original.classifier, original.generator)
    seen = SEEN[case]
    labels = original.y_first if case == "first" else OLD + (original.y_new - OLD) % (seen - OLD)
    with enable(original.precision):
        before = initial_state(original, method)
        if kind == "abd" and case != "first":
            latents = original.goldens("inputs")["z_syn"]
            before = before.replace(generator=original.dream(latents))
        # Base does not know first tasks, so a second program would show nothing.
        is_first = case == "first" and kind == "abd"
        task = make_task(0 if case == "first" else OLD, seen, is_first)
        batch = Batch(original.real, labels)
        state, metrics = update(method, sgd(), before, task, batch, 0, jax.random.key(0))
    compare_state(expected, original, state)
    return expected, method, before, batch, metrics


@functools.partial(jax.jit, static_argnames=("classifier", "train"))
def outputs_of(classifier, variables, images, train):
    mutable = ["batch_stats"] if train else []
    return classifier.apply(variables, images, train=train, mutable=mutable)[0]


def compare_accuracy(metrics, logits, labels):
    want = np.mean(np.argmax(logits, -1) == labels)
    np.testing.assert_allclose(metrics["accuracy"], want, rtol=1e-6)


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
        teacher = outputs_of(method.classifier, before.teacher, images, train=False)
    expected.forward("logits", student.logits)
    head = original.teacher["params"]["head"]
    for name, outputs in [("kd_student", student), ("kd_teacher", teacher)]:
        logits = np.asarray(outputs.features) @ head["kernel"] + head["bias"]
        expected.forward(name, logits[:, :OLD])
    compare_accuracy(metrics, expected["logits"][:20, : SEEN[case]], batch.labels)
    expected.all_compared()


def test_dreamed_inputs_are_the_originals(original):
    inputs = original.goldens("inputs")
    want = channels_last(inputs["x_syn"], original.precision)
    images = original.dream(inputs["z_syn"])
    # Ten times the deviation of such images within the original (generator_cifar, eval mode).
    np.testing.assert_allclose(images, want, atol=2.5e-5)
    with enable(original.precision):
        logits = outputs_of(original.classifier, original.teacher, images, train=False).logits
        labels = losses.masked_argmax(logits, losses.class_range(100, 0, OLD))
    np.testing.assert_array_equal(labels, inputs["y_syn"])


def test_chain_of_abd_steps_is_the_originals(original):
    """Three steps: momentum accumulates, and so do the repeated statistics updates."""
    expected = Expected(original.goldens, "update_abd_chain", original.precision)
    method = make_method("abd", original.classifier, original.generator)
    real, labels, order = original.real, original.y_new, expected["perm"]
    batches = [
        Batch(real, labels),
        Batch(real[order][:, :, ::-1], labels[order]),
        Batch(real[:, ::-1], labels),
    ]
    history = []
    with enable(original.precision):
        state, task = initial_state(original, method), make_task(OLD, SEEN["update"])
        for i, batch in enumerate(batches):
            dreamed = original.dream(recipe(original.goldens, f"chain/z{i}"))
            logits = outputs_of(original.classifier, original.teacher, dreamed, train=False).logits
            np.testing.assert_array_equal(np.argmax(logits[:, :OLD], -1), expected["y_syn"][i])
            state = state.replace(generator=dreamed)
            state, metrics = update(method, sgd(0.01), state, task, batch, 0, jax.random.key(0))
            history.append(metrics)
    compare_state(expected, original, state)
    terms = {name: np.stack([metrics[name] for metrics in history]) for name in history[0]}
    expected.forward("loss_total", terms["loss"])
    expected.forward("loss_class", terms["local"] + terms["head"])
    expected.forward("loss_kd", terms["distillation"])
    expected.all_compared("perm", "y_syn")


def small_state(method, seed=0):
    classifier = method.classifier
    state = LearnerState(
        **small.variables(classifier, seed),
        opt_state=None,
        teacher=small.variables(classifier, seed + 1),
        generator=None,
        streams=Streams(0, 0, 0, 0),
    )
    return method.training.begin(method, state)


def random_images(count, seed):
    return np.random.default_rng(seed).normal(size=(count, *small.IMAGE_SHAPE)).astype(np.float32)


def gradients_by_term(kind, old, seen, labels):
    """The gradient of each term of a method on small networks."""
    method = make_method(kind, small.classifier(), small.generator())
    state = small_state(method).replace(generator=random_images(len(labels), 2))
    batch, task = Batch(random_images(len(labels), 3), np.int32(labels)), make_task(old, seen)

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
    """Section 4.3 of the paper: the head's term reaches the head only, the distillation not it."""
    terms = gradients_by_term("abd", 4, 7, [4, 5, 6, 4])
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
    method = make_method("abd", small.classifier(), small.generator())
    state = small_state(method).replace(generator=random_images(4, 2))
    batch, task = Batch(random_images(4, 3), np.int32([4, 5, 6, 4])), make_task(4, 7)
    observe = jax.jit(lambda m: m.observe(state, task, batch, jax.random.key(0)).terms)
    base, double = observe(method), observe(dataclasses.replace(method, mu=0.2))
    assert observe._cache_size() == 1
    np.testing.assert_allclose(double["distillation"], 2 * base["distillation"], rtol=1e-6)
    assert base["distillation"] > 0
    assert (double["local"], double["head"]) == (base["local"], base["head"])


def test_streams_of_the_initial_state():
    """Classifier and generator have seeds of their own; the teacher is a copy to begin with."""
    training = TrainStage("train", 1, 0, 20, sgd())
    dreaming = InversionStage("dream", 1, 0, 1, Inversion(small.generator()))
    method = AlwaysBeDreaming(small.classifier(), PLAIN, training, dreaming)
    init = jax.jit(
        lambda streams: method.init(streams, small.IMAGE_SHAPE),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    start = init(Streams(0, 0, 0, 0))
    other_classifier, other_generator = init(Streams(1, 2, 3, 0)), init(Streams(0, 2, 3, 1))

    def same(a, b):
        return jax.tree.all(jax.tree.map(np.array_equal, a, b))

    assert same(start.teacher, start.variables)
    assert not moved(start.opt_state)
    assert same(start.params, other_generator.params)
    assert same(start.generator, other_classifier.generator)
    assert not same(start.params, other_classifier.params)
    assert not same(start.generator, other_generator.generator)


def test_dreams_are_drawn_by_key():
    dreaming = InversionStage("dream", 1, 0, 1, Inversion(small.generator()))
    training = TrainStage("train", 1, 0, 20, sgd())
    method = AlwaysBeDreaming(small.classifier(), PLAIN, training, dreaming)
    variables = small.variables(small.generator(), seed=0)
    state = small_state(method).replace(generator=GeneratorState(**variables, opt_state=None))
    dream = jax.jit(lambda key: method.dream(state, key, 3))
    images = dream(rng.key(0, "a"))
    assert images.shape == (3, *small.IMAGE_SHAPE)
    np.testing.assert_array_equal(images, dream(rng.key(0, "a")))
    assert not np.allclose(images, dream(rng.key(1, "a")))


def test_stages_of_a_task():
    abd = make_method("abd", small.classifier(), small.generator())
    assert [[stage.name for stage in abd.stages(t, 3)] for t in range(3)] == [
        ["train", "dream"],
        ["train", "dream"],
        ["train"],
    ]
    base = make_method("base", small.classifier(), None)
    assert [stage.name for stage in base.stages(0, 3)] == ["train"]


def test_inference_ranks_valid_classes_in_eval_mode():
    method = make_method("base", small.classifier(), None)
    state, images = small_state(method), random_images(6, 4)
    logits = np.asarray(jax.jit(method.classifier.apply)(state.variables, images).logits)
    np.testing.assert_allclose(method.forward(state, images), logits, rtol=1e-4, atol=1e-5)
    seen, own = losses.class_range(10, 0, 7), losses.class_range(10, 4, 7)
    top = method.inference(state, images, seen, k=2)
    np.testing.assert_array_equal(top, np.argsort(-logits[:, :7], axis=1)[:, :2])
    both = method.inference(state, images, jnp.stack([seen, own])[:, None])
    np.testing.assert_array_equal(both[0], top[:, :1])
    np.testing.assert_array_equal(both[1, :, 0], 4 + np.argmax(logits[:, 4:7], axis=1))
