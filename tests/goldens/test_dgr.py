"""Single steps of deep generative replay against the original's numbers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cljax import losses
from cljax.interop import torch
from cljax.methods.dgr import DeepGenerativeReplay
from cljax.models import AutoEncoder
from cljax.optimizers import SGD
from cljax.stages import TrainStage
from cljax.state import Batch, hyperparameters
from tests.helpers import tiny
from tests.helpers.golden_updates import OLD, SEEN, compare_accuracy, compare_state
from tests.helpers.goldens import (
    PRECISIONS,
    Expected,
    channels_first,
    channels_last,
    enable,
    jit,
    network,
    state_dict,
)

pytestmark = pytest.mark.slow

SLICES = {"": ..., "::64,:8]": np.s_[::64, :8], ":8,::64]": np.s_[:8, ::64]}


def given_numbers(classifier, autoencoder, latents, noise_by_count):
    """DGR with given random numbers, mu 1, and the original's optimiser: lr 0.1, no decay."""

    @hyperparameters
    class Given(DeepGenerativeReplay):
        def replay_latents(self, key, count):
            return latents[:count]

        def noise(self, key, count):
            return noise_by_count[count]

    training = TrainStage("train", 1, 0, 20, SGD(0.1, 0.9, 0.0))
    return Given(classifier, tiny.PLAIN, training, tiny.NO_MEMORY, autoencoder)


@pytest.fixture(scope="module")
def tensors(goldens):
    """The state dicts of the learner's and the previous scholar's auto-encoders, float32."""
    return {prefix: state_dict(goldens, prefix) for prefix in ("ae", "ae_prev")}


@pytest.fixture(scope="module", params=PRECISIONS)
def original(goldens, tensors, request):
    """States and inputs that all cases share, at one precision."""
    precision = request.param
    classifier, learner = network(goldens, "M", precision)
    teacher = network(goldens, "T", precision)[1]
    autoencoder = AutoEncoder(dtype=np.dtype(precision))
    inputs = goldens("inputs")

    def with_autoencoder(variables, prefix):
        own = {name: v.astype(precision) for name, v in tensors[prefix].items()}
        with enable(precision):
            own = torch.autoencoder_from_torch(autoencoder, own)["params"]
        return variables | {"params": variables["params"] | {"autoencoder": own}}

    noise = {len(inputs[name]): inputs[name].astype(precision) for name in ("eps", "eps_first")}
    method = given_numbers(classifier, autoencoder, inputs["z_dgr"].astype(precision), noise)
    state = tiny.learner(
        **with_autoencoder(learner, "ae"), teacher=with_autoencoder(teacher, "ae_prev")
    )
    with enable(precision):
        state = state.replace(opt_state=method.training.optimizer.init(state.params))
    return SimpleNamespace(
        goldens=goldens,
        precision=precision,
        classifier=classifier,
        learner=learner,
        autoencoder=autoencoder,
        tensors=tensors["ae"],
        method=method,
        state=state,
        real=channels_last(inputs["x_real01"], precision),
        y_new=inputs["y_new"].astype(np.int32),
        y_first=inputs["y_first"].astype(np.int32),
    )


@jit
def run(method, state, task, batch):
    """A step, and what it is made of: replayed images, logits, and a look at the auto-encoder."""
    key = jax.random.key(0)
    after, metrics = tiny.update(method.training, method, state, task, batch, 0, key)
    images, replay = batch.images, None
    if not task.is_first:
        replay = method.replay(state, task, key, len(batch.labels))
        images = jnp.concatenate([images, replay.images])
    logits = method.train_forward(state, images)[0].logits
    variables = {"params": state.params["autoencoder"]}
    noise = method.noise(key, len(images))
    logits_of_pixels, *code = method.autoencoder.apply(variables, images, noise)
    code = {"gen_mu": code[0], "gen_logvar": code[1], "gen_recon": nn.sigmoid(logits_of_pixels)}
    return (after.params, after.batch_stats), metrics, replay, logits, code


def run_case(original, case):
    """One step of a golden case, its learner and losses compared."""
    expected = Expected(original.goldens, f"{case}_dgr", original.precision)
    seen = SEEN[case]
    labels = OLD + (original.y_new - OLD) % (seen - OLD or 1)
    labels = original.y_first if case == "first" else labels
    with enable(original.precision):
        task = tiny.task(0 if case == "first" else OLD, seen, case == "first")
        found = run(original.method, original.state, task, Batch(original.real, labels, None))
        variables, metrics, replay, logits, code = jax.device_get(found)
        every = labels if replay is None else np.concatenate([labels, replay.labels])
        weights = losses.class_share_weights(every, task.old, task.seen)
    # Of float32 at both precisions, as in the original.
    expected.forward("data_weights", np.asarray(weights, original.precision))
    expected.forward("logits", logits[:, :seen])
    compare_accuracy(metrics, expected["logits"][: len(labels)], labels)
    expected.forward("loss_ce", metrics["class"])
    class_total = metrics["class"] + metrics.get("distillation", 0)
    expected.forward("loss_total", class_total)
    expected.forward("gen_loss_recon", metrics["reconstruction"])
    expected.forward("gen_loss_variational", metrics["variational"])
    own_total = metrics["reconstruction"] + metrics["variational"]
    expected.forward("gen_loss_total", own_total)
    np.testing.assert_allclose(metrics["loss"], class_total + own_total, rtol=1e-6)
    compare_networks(expected, original, *variables)
    return expected, metrics, replay, code


def compare_networks(expected, original, params, batch_stats):
    """The classifier after the step, and the auto-encoder: stored tensors and all 18 changes."""
    own = {"params": params.pop("autoencoder")}
    compare_state(
        expected, original, original.state.replace(params=params, batch_stats=batch_stats)
    )
    with enable(original.precision):
        before, after = original.tensors, torch.autoencoder_to_torch(original.autoencoder, own)
    stored = [name for name in expected.names if name.startswith("gen_after/")]
    for name in stored:
        tensor, _, part = name.removeprefix("gen_after/").partition("[")
        expected.update(name, after[tensor][SLICES[part]], before[tensor][SLICES[part]])
    names = original.goldens("autoencoder")["names"].tolist()
    assert list(after) == names
    moved = [np.linalg.norm(after[name] - before[name]) for name in names]
    expected.update("gen_delta_norm", np.array(moved, original.precision))


def compare_code(expected, code):
    """Codes and reconstructions of the first rows."""
    expected.forward("gen_mu", code["gen_mu"][:4])
    expected.forward("gen_logvar", code["gen_logvar"][:4])
    expected.forward("gen_recon", channels_first(code["gen_recon"][:4]))


def test_first_task_is_the_originals(original):
    expected, metrics, replay, code = run_case(original, "first")
    compare_code(expected, code)
    assert replay is None
    assert set(metrics) == {"loss", "class", "reconstruction", "variational", "accuracy"}
    expected.all_compared()


@pytest.mark.parametrize("case", ["update", "uneven"])
def test_later_tasks_are_the_originals(original, case):
    expected, metrics, replay, code = run_case(original, case)
    expected.forward("kd_terms", metrics["distillation"][None])
    if case == "update":
        compare_code(expected, code)
        expected.forward("x_syn", channels_first(replay.images))
        expected.forward("yhat_syn", replay.logits[:, :OLD])
    np.testing.assert_array_equal(replay.labels, expected["y_syn"])
    expected.all_compared("y_syn")
