"""Optimisers and schedules against the original's numbers, and what stages do within a task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import inversion as inversion_lib
from cljax.compute import device
from cljax.inversion import Inversion
from cljax.methods.base import Observed
from cljax.optimizers import SGD, Multistep
from cljax.rng import Streams
from cljax.stages import InversionStage, TrainStage
from cljax.state import Batch, Data, GeneratorState, Subset
from tests.helpers import configs, tiny, tiny_runs
from tests.helpers.distributions import (
    assert_even,
    assert_fair,
    assert_independent,
    assert_normal,
    assert_uniform,
)
from tests.helpers.goldens import PRECISIONS, Expected, enable
from tests.helpers.tiny import ZEROS, learner

precisions = pytest.mark.parametrize("precision", PRECISIONS)


class Toy:
    """A linear map to fixed targets in place of a method."""

    def __init__(self, trained=lambda params, task: jax.tree.map(lambda _: True, params)):
        self.get_parameters = trained

    def epoch_teacher(self, state, task):
        return None

    def observe(self, state, task, batch, key):
        rows, targets = batch.images, batch.labels
        loss = jnp.square(rows @ state.params["W"].T + state.params["b"] - targets).mean()
        return Observed(loss, None, jnp.zeros(()), {"error": loss}, state.batch_stats)


def toy_params(expected, precision):
    return {"W": expected["toy/W0"].astype(precision), "b": expected["toy/b0"].astype(precision)}


@precisions
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("case", "weight_decay"), [("sgd", 2e-4), ("sgd_nowd", 0.0)])
def test_sgd(goldens, precision, case, weight_decay, platform):
    """Ten epochs of one step with the schedule [5, 8, 10], array by array or packed."""
    expected = Expected(goldens, "optim", precision)
    optimizer, schedule = SGD(0.1, 0.9, weight_decay), Multistep(0.1, (5, 8, 10))
    method, stage = Toy(), TrainStage("train", 10, 0, 6, optimizer, schedule=schedule)
    with enable(precision), device.programs_for(platform):
        batch = Batch(*(expected[f"toy/{name}"].astype(precision) for name in "AB"), None)
        state = stage.begin(method, learner(toy_params(expected, precision)), None, None)
        step = jax.jit(lambda state, e: tiny.update(stage, method, state, None, batch, e, None))
        history = []
        for epoch in range(10):
            state, metrics = step(state, epoch)
            assert set(metrics) == {"loss", "error", "accuracy"}
            history.append({"loss": metrics["loss"], **state.params})
        for name in ("W", "b", "loss"):
            expected.forward(f"{case}/{name}", np.stack([entry[name] for entry in history]))
        rates = [stage.learning_rate(epoch) for epoch in range(10)]
    np.testing.assert_allclose(rates, expected[f"{case}/lr"], rtol=1e-6)


@precisions
def test_adam(goldens, precision, monkeypatch):
    """The generator's optimiser; the bias sees gradients near Adam's epsilon."""
    expected = Expected(goldens, "optim", precision)
    rows, targets = (expected[f"toy/{name}"].astype(precision) for name in "AB")

    def toy_loss(inversion, classifier, params, batch_stats, teacher, seen, step):
        loss = jnp.square(rows @ params["W"].T - targets).mean()
        return loss + 1e-7 * (step + 1) * params["b"].sum(), ({}, batch_stats)

    monkeypatch.setattr(inversion_lib, "loss", toy_loss)
    learning_rate, *others = expected["adam/defaults_lr_b1_b2_eps_wd"]
    np.testing.assert_allclose(others, [0.9, 0.999, 1e-8, 0], rtol=1e-6)
    inversion = Inversion(generator=None)
    np.testing.assert_allclose(inversion.learning_rate, learning_rate, rtol=1e-6)
    with enable(precision):
        params = toy_params(expected, precision)
        state = GeneratorState(params, {}, optax.scale_by_adam().init(params))
        history = []
        for i in range(10):
            state, _ = inversion_lib.step(inversion, None, state, None, 2, i)
            history.append(state.params)
        for name in ("W", "b"):
            expected.forward(f"adam/{name}", np.stack([params[name] for params in history]))


def test_frozen_parameters_stay_without_decay_or_momentum():
    """Whole parameters, or some of their entries."""
    rows = jnp.array([[True], [False], [True]])
    method = Toy(lambda params, task: {"W": rows, "b": False})
    train = TrainStage("train", 1, 0, 2, SGD(0.1, 0.9, 0.5))
    params = {"W": jnp.ones((3, 4)), "b": jnp.ones(3)}
    state = train.begin(method, learner(params), None, None)
    batch = Batch(jnp.ones((2, 4)), jnp.zeros((2, 3)), None)
    for _ in range(2):
        state, _ = tiny.update(train, method, state, None, batch, 0, None)
    np.testing.assert_array_equal(state.params["b"], params["b"])
    np.testing.assert_array_equal(state.params["W"] == 1, np.broadcast_to(~rows, (3, 4)))
    everything = TrainStage("train", 1, 0, 2, SGD(0.1, 0.9, 0.5))
    whole = everything.begin(Toy(), learner(params), None, None).opt_state
    assert jax.tree.structure(whole) == jax.tree.structure(state.opt_state)


def make_task(images=50, padding=0, index=1):
    indices = np.arange(100, 100 + images, dtype=np.int32)
    # Padding repeats an index that is not of the task, so that any use of it would show.
    indices = jnp.concatenate([jnp.asarray(indices), jnp.full(padding, 7, jnp.int32)])
    subset = Subset(indices, jnp.int32(images))
    return tiny.task(2, 4, index=index, images=subset, label_map=(3, 1, 4, 0, 2))


def stage(batch_size=16):
    return TrainStage("train", 2, 0, batch_size, SGD(0.1, 0.9, 0.0))


IMAGES = jnp.broadcast_to(jnp.arange(150, dtype=jnp.uint8)[:, None, None, None], (150, 2, 2, 1))
DATA = Data(IMAGES, jnp.arange(150, dtype=jnp.int32) % 5, IMAGES, None)


@jax.jit
def prepare(state, task, epoch):
    prepared = stage().prepare(Recorder(), state, task, DATA, epoch)
    return prepared.order, prepared.class_counts


def order(task, epoch=0, streams=ZEROS):
    """The order of an epoch without its padding."""
    indices, count = task.images.indices, int(task.images.count)
    order, class_counts = prepare(learner({}, streams=streams), task, epoch)
    assert order.shape == indices.shape
    np.testing.assert_array_equal(order[count:], indices[count:])
    assert class_counts.tolist() == [count // 5] * 5
    return order[:count].tolist()


def test_an_epoch_is_a_permutation_of_the_tasks_images():
    task = make_task()
    assert order(task) != sorted(order(task))
    assert sorted(order(task)) == task.images.indices.tolist()
    places = np.array([order(task, epoch) for epoch in range(40)]) - 100
    # Means of 40 uniform draws from 0..49; a deviation of 5 standard errors is no chance.
    assert np.abs(places.mean(0) - 24.5).max() < 5 * 14.43 / np.sqrt(40)


def test_the_order_differs_by_epoch_task_and_seed_alone():
    task = make_task()
    different = [
        order(task),
        order(task, epoch=1),
        order(make_task(index=2)),
        order(task, streams=Streams(0, 1, 0, 0)),
    ]
    assert len(set(map(tuple, different))) == 4
    assert order(task, streams=Streams(1, 0, 2, 3)) == order(task)


def test_the_order_does_not_depend_on_the_padding():
    assert order(make_task(padding=13)) == order(make_task())


def test_incomplete_batches_are_dropped():
    assert [stage().num_steps(0, count) for count in (15, 16, 50)] == [0, 1, 3]


class Recorder:
    """A method that reports what its first batch was made of; it is its own preprocessing."""

    def __init__(self):
        self.preprocessing = self

    def draw(self, key, count, sizes):
        return jax.random.uniform(key)

    def train(self, images, draws):
        return images + draws

    def epoch_teacher(self, state, task):
        return None

    def get_parameters(self, params, task):
        return True

    def observe(self, state, task, batch, key):
        terms = {
            "rows": jnp.floor(batch.images[:, 0, 0, 0]).astype(jnp.int32),
            "labels": batch.labels,
            "class_counts": batch.class_counts,
            "augmentation": batch.images[0, 0, 0, 0] % 1,
            "replay": jax.random.uniform(key),
        }
        return Observed(state.params.sum(), None, jnp.zeros(()), terms, {})


def recorded(i=0, epoch=0, index=1, streams=ZEROS):
    """What `Recorder` saw in step i, and the epoch's order."""
    method, train, task = Recorder(), stage(), make_task(index=index)
    state = train.begin(method, learner(jnp.ones(2), streams=streams), task, DATA)
    prepared = train.prepare(method, state, task, DATA, epoch)
    _, metrics = tiny.step(train, method, DATA, task, epoch, prepared, i, state)
    return {name: np.asarray(value).tolist() for name, value in metrics.items()}, prepared.order


def test_a_step_takes_its_batch_and_maps_the_labels():
    task = make_task()
    for i in (0, 2):
        seen, prepared = recorded(i)
        rows = prepared[i * 16 : (i + 1) * 16]
        np.testing.assert_array_equal(seen["rows"], rows)
        np.testing.assert_array_equal(seen["labels"], task.label_map[rows % 5])
        assert seen["class_counts"] == [10] * 5


def test_random_numbers_of_a_step():
    """Each draw has its own stream, and differs by step, epoch and task."""
    base, _ = recorded()
    for name in ("augmentation", "replay"):
        others = [recorded(i=1), recorded(epoch=1), recorded(index=2)]
        assert len({base[name], *(other[name] for other, _ in others)}) == 4
    assert base["augmentation"] != base["replay"]
    augmented, _ = recorded(streams=Streams(0, 0, 1, 0))
    assert augmented.pop("augmentation") != base["augmentation"]
    assert augmented.items() <= base.items()
    replayed, _ = recorded(streams=Streams(0, 0, 0, 1))
    assert replayed.pop("replay") != base["replay"]
    assert replayed.items() <= base.items()
    initial, _ = recorded(streams=Streams(1, 0, 0, 0))
    assert initial == base


@pytest.fixture(scope="module")
def published():
    """What the stages of ABD on CIFAR-100, as published, prepare: by stage and (task, epoch)."""
    dataset = tiny_runs.empty_dataset(32, 32, 3, num_classes=100)
    method = tiny_runs.make_method(configs.shipped("abd_cifar100"), dataset)
    method = dataclasses.replace(method, classifier=tiny.classifier())  # draws nothing
    variables = tiny.variables(method.classifier, 0)
    state = learner(**variables, teacher=variables)
    images = Subset(jnp.zeros(39 * 128, jnp.int32), jnp.int32(39 * 128))

    def prepare(stage, index, epoch):
        task = tiny.task(2, 4, index=index, images=images, label_map=(3, 1, 4, 0, 2))
        return stage.prepare(method, state, task, DATA, epoch)

    prepare = jax.jit(prepare)
    return {
        stage.name: {at: prepare(stage, *at) for at in ((1, 0), (1, 1), (2, 0))}
        for stage in (method.training, method.inversion_stage)
    }


def test_draws_of_the_augmentation_in_an_epoch(published):
    """As published; independent of each other and of other steps, images, epochs and tasks."""
    epochs = [jax.tree.map(np.asarray, epoch.draws) for epoch in published["train"].values()]
    for draws in epochs:
        assert draws.brightness.shape == (39, 128)
        assert_uniform(draws.brightness, 1 - 63 / 255, 1 + 63 / 255, "brightness")
        assert_uniform(draws.contrast, 0.2, 1.8, "contrast")
        assert_fair(draws.brightness_first, "order")
        assert_fair(draws.mirrored, "flip")
        for axis in range(2):
            assert_even(draws.offsets[..., axis], 9, "offset")
        columns = [*draws[:4], *np.moveaxis(draws.offsets, -1, 0)]
        assert_independent(columns)
        for values in columns:
            assert_independent([values[1:], values[:-1]])
            assert_independent([values[:, 1:], values[:, :-1]])
    for of_epochs in zip(*epochs, strict=True):
        if of_epochs[0] is not None:
            assert_independent(of_epochs)


def test_latents_of_epochs(published):
    """Standard normal, and others in every step, epoch, task and stage."""
    draw = jax.jit(lambda key: inversion_lib.draw_latents(jax.random.wrap_key_data(key), 128))
    steps = [(0, (1, 0)), (1, (1, 0)), (0, (1, 1)), (0, (2, 0))]
    latents = [draw(stage[at].keys[i]) for stage in published.values() for i, at in steps]
    assert len(latents) == 8
    for values in latents:
        assert values.shape == (128, 1000)
        assert_normal(values, 1, "latents")
    assert_independent(latents)
    assert_independent([latents[0][1:], latents[0][:-1]])
    assert_independent([latents[0][:, 1:], latents[0][:, :-1]])


def test_inversion_steps_are_cut_into_epochs():
    dreaming = InversionStage("dream", 3, 0, 40, Inversion(tiny.generator(), steps=100))
    assert [dreaming.num_steps(epoch, 5000) for epoch in range(3)] == [40, 40, 20]


def test_inversion_takes_the_classifier_as_teacher():
    """A copy: the classifier's own buffers may be donated to the next step."""
    dreaming = InversionStage("dream", 1, 0, 1, Inversion(tiny.generator(), steps=1))
    state = learner({"W": jnp.ones(3)}).replace(batch_stats={"mean": jnp.zeros(2)})
    state = dreaming.begin(None, state, None, None)
    np.testing.assert_array_equal(state.teacher["params"]["W"], np.ones(3))
    np.testing.assert_array_equal(state.teacher["batch_stats"]["mean"], np.zeros(2))
    assert state.teacher["params"]["W"] is not state.params["W"]


def test_what_is_logged_of_an_epoch():
    train = TrainStage("train", 10, 0, 6, SGD(0.1, 0.9, 0.0), schedule=Multistep(0.1, (5,)))
    assert train.log_scalars(4) == {"learning_rate": pytest.approx(0.1)}
    assert train.log_scalars(5) == {"learning_rate": pytest.approx(0.01)}
