"""What the parts of deep generative replay do, on small networks."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import rng
from cljax.errors import UserError
from cljax.methods.dgr import DeepGenerativeReplay
from cljax.models import AutoEncoder
from cljax.rng import Streams
from cljax.stages import TrainStage
from cljax.state import Batch
from tests.helpers import tiny
from tests.helpers.tiny_runs import empty_dataset, make_method

AUTOENCODER = AutoEncoder(image_size=8, channels=(3, 4, 6), latent_size=5)
METHOD = DeepGenerativeReplay(
    tiny.classifier(),
    tiny.PLAIN,
    TrainStage("train", 1, 0, 4, tiny.sgd()),
    tiny.NO_MEMORY,
    AUTOENCODER,
)
BATCH = Batch(jnp.asarray(tiny.images(4, 3) % 1), np.int32([4, 5, 6, 4]), None)
observe = jax.jit(METHOD.observe)


@pytest.fixture(scope="module")
def init():
    """`init` of the method, compiled."""
    return jax.jit(lambda streams: METHOD.init(streams, tiny.IMAGE_SHAPE))


@pytest.fixture(scope="module")
def state(init):
    """A learner and another one as the previous scholar."""
    previous = init(Streams(1, 0, 0, 1))
    return init(tiny.ZEROS).replace(teacher=previous.variables)


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def moved(tree):
    return any(np.any(leaf) for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False])
def test_what_each_term_trains(state, is_first):
    """No term reaches both networks, so one optimiser does what the original's two do."""
    task = tiny.task(0 if is_first else 4, 7, is_first)

    @jax.jit
    def gradients(params):
        def terms(params):
            key = jax.random.key(0)
            return METHOD.observe(state.replace(params=params), task, BATCH, key).terms

        return jax.jacrev(terms)(params)

    terms = gradients(state.params)
    own = {"reconstruction", "variational"}
    assert set(terms) == own | ({"class"} if is_first else {"class", "distillation"})
    for name, gradient in terms.items():
        classifier = {part: gradient[part] for part in ("backbone", "head")}
        assert moved(gradient["autoencoder"]) == (name in own)
        assert moved(classifier) == (name not in own)
    for name in ("project", "decoder_0"):  # the divergence is of the code alone
        assert moved(terms["reconstruction"]["autoencoder"][name])
        assert not moved(terms["variational"]["autoencoder"][name])


@pytest.mark.slow
def test_replay_is_what_the_previous_scholar_makes_and_says(state):
    replay = jax.jit(lambda key: METHOD.replay(state, tiny.task(4, 7), key, 3))
    found = replay(rng.key(0, "a"))
    decoder = {"params": state.teacher["params"]["autoencoder"]}
    latents = METHOD.replay_latents(rng.key(0, "a"), 3)
    images = AUTOENCODER.apply(decoder, latents, method="decode")
    np.testing.assert_allclose(found.images, images, rtol=1e-5)
    assert found.images.shape == (3, *tiny.IMAGE_SHAPE)
    logits = METHOD.classifier.apply(state.teacher, found.images).logits
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.labels, np.argmax(found.logits[:, :4], axis=1))
    assert not np.allclose(found.images, replay(rng.key(1, "a")).images)


@pytest.mark.slow
def test_dreamed_accuracy_compares_with_the_teacher_among_seen_classes(state):
    dreamed, classifier = tiny.images(12, 2), METHOD.classifier
    batch = Batch(tiny.images(12, 3), np.resize(np.int32([4, 5, 6]), 12), None)
    student, teacher = (tiny.variables(classifier, seed) for seed in (0, 5))
    state = state.replace(params=state.params | student["params"], teacher=teacher)

    class Given(DeepGenerativeReplay):
        def dream(self, state, key, count):
            return dreamed

    @jax.jit
    def observe():
        metrics = (
            Given(**vars(METHOD)).observe(state, tiny.task(4, 7), batch, rng.key(0, "a")).metrics
        )
        logits = METHOD.train_forward(state, np.concatenate([batch.images, dreamed]))[0].logits
        return (
            metrics["dreamed_accuracy"],
            logits[12:, :7],
            classifier.apply(teacher, dreamed).logits,
        )

    accuracy, logits, teacher_logits = observe()
    wanted = (logits.argmax(-1) == teacher_logits[:, :4].argmax(-1)).mean()
    np.testing.assert_allclose(accuracy, wanted, rtol=1e-6)
    assert 0 < accuracy < 1


def test_a_step_draws_by_key(state):
    """Replay and noise have keys of their own."""
    task = tiny.task(4, 7)
    losses = [observe(state, task, BATCH, rng.key(seed, "a")).loss for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    keys = []

    class Recording(DeepGenerativeReplay):
        def replay_latents(self, key, count):
            keys.append(key)
            return super().replay_latents(key, count)

        noise = replay_latents

    @jax.jit
    def drawn(key):
        Recording(**vars(METHOD)).observe(state, task, BATCH, key)
        return jax.random.key_data(jnp.stack(keys))

    first, second = drawn(jax.random.key(0))
    assert not np.array_equal(first, second)


def test_streams_of_the_initial_state(init):
    """The auto-encoder is of the generator's stream; the previous scholar is a copy."""
    start, other_classifier = init(tiny.ZEROS), init(Streams(1, 2, 3, 0))
    other_autoencoder = init(Streams(0, 2, 3, 1))
    assert same(start.teacher, start.variables)
    for part in ("backbone", "head"):
        assert same(start.params[part], other_autoencoder.params[part])
        assert not same(start.params[part], other_classifier.params[part])
    own = [s.params["autoencoder"] for s in (start, other_classifier, other_autoencoder)]
    assert same(own[0], own[1]) and not same(own[0], own[2])


def test_after_a_task_the_scholar_becomes_the_previous_one(state):
    after = METHOD.after_task(state, tiny.task(4, 7), None)
    assert not same(state.teacher, state.variables)
    assert same(after.teacher, after.variables) and same(after.variables, state.variables)


def test_evaluation_ignores_the_autoencoder(state):
    params = {part: state.params[part] for part in ("backbone", "head")}
    logits = METHOD.forward(state, BATCH.images)
    np.testing.assert_array_equal(
        METHOD.forward(state.replace(params=params), BATCH.images), logits
    )


def digits_config():
    return importlib.import_module("configs.dgr_digits").get_config()


def test_made_from_a_config():
    config = digits_config()
    config.autoencoder = {"channels": (4, 6, 8), "latents": 7}
    config.method.mu = 0.5
    method = make_method(config, empty_dataset(16, 16, 1))
    assert method.autoencoder == AutoEncoder(16, 1, (4, 6, 8), 7)
    assert (method.mu, method.temperature) == (0.5, 2.0)
    images = np.uint8(np.arange(256)).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(method.preprocessing.test(images), images / 255, rtol=1e-6)


def test_configs_that_do_not_fit():
    config = digits_config()
    with pytest.raises(UserError, match=r"config\.autoencoder: .* multiple of 8, not 28x28"):
        make_method(config, empty_dataset(28, 28, 1))
    config.data.standardise = True
    with pytest.raises(UserError, match=r"0\.\.1; set it to False"):
        make_method(config, empty_dataset(8, 8, 1))
    del config.autoencoder
    with pytest.raises(UserError, match=r"config\.autoencoder is missing"):
        make_method(config, empty_dataset(8, 8, 1))
