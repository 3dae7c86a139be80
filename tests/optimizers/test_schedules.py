"""Schedules of the learning rate, and the first task's own epochs and rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import settings as settings_lib
from cljax.errors import UserError
from cljax.optimizers import CONSTANT, SGD, Multistep, OptaxSchedule
from cljax.optimizers.by_name import make_schedule
from cljax.optimizers.schedules import OPTAX
from cljax.stages import TrainStage
from tests.helpers import tiny_runs

EPOCHS = 20
# What each of Optax's schedules needs.
REQUIRED = {
    "linear": {"end_value": 0.1},
    "polynomial": {"end_value": 0.1, "power": 2.0},
    "exponential": {"decay_rate": 0.5},
    "warmup_constant": {"init_value": 0.1, "warmup_steps": 4},
    "warmup_cosine": {"init_value": 0.1, "warmup_steps": 4},
    "warmup_exponential": {"init_value": 0.1, "warmup_steps": 4, "decay_rate": 0.5},
}


def schedule(name, arguments=None, **settings):
    config = tiny_runs.make_config(epochs=EPOCHS, **settings)
    config.schedule.name = name
    config.schedule.arguments = arguments or {}
    return make_schedule(settings_lib.read(config))


def factors(made, epochs=EPOCHS):
    return [float(made.factor(epoch, epochs)) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("name", "milestones"), [("cifar", (100, 150, 200, 250)), ("imagenet", (30, 60, 80, 90, 100))]
)
def test_multistep_is_the_originals(goldens, name, milestones):
    expected = goldens("optim")[f"lr_per_epoch/{name}"]
    stage = TrainStage("train", 1, 0, 1, SGD(0.1, 0.9, 2e-4), schedule=Multistep(0.1, milestones))
    rates = [stage.learning_rate(epoch) for epoch in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    traced = jax.jit(jax.vmap(lambda epoch: 0.1 * stage.schedule.factor(epoch, 1)))
    np.testing.assert_allclose(traced(jnp.arange(len(expected))), expected, rtol=1e-6)


@pytest.mark.parametrize("name", OPTAX)
def test_a_traced_epoch_gives_the_same_factors(name):
    made = schedule(name, REQUIRED.get(name))
    traced = jax.jit(jax.vmap(lambda epoch: made.factor(epoch, EPOCHS) * jnp.ones(())))
    found = factors(made)
    np.testing.assert_allclose(traced(jnp.arange(EPOCHS)), found, rtol=1e-5)
    assert max(found) <= 1 and min(found) >= 0
    assert (len(set(found)) == 1) == (name == "constant")


def test_factors_by_their_formulas():
    """Cosine, exponential and warm-up, each over the epochs of the stage unless told otherwise."""
    e = np.arange(EPOCHS)
    cosine = 0.5 * (1 + np.cos(np.pi * e / EPOCHS))
    np.testing.assert_allclose(factors(schedule("cosine")), cosine, atol=1e-6)
    found = factors(schedule("cosine", {"decay_steps": 10, "alpha": 0.1}))
    shorter = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.minimum(e, 10) / 10))
    np.testing.assert_allclose(found, shorter, atol=1e-6)
    found = factors(schedule("exponential", {"decay_rate": 0.9, "transition_steps": 1}))
    np.testing.assert_allclose(found, 0.9**e, rtol=1e-5)
    found = factors(schedule("warmup_cosine", REQUIRED["warmup_cosine"]))
    np.testing.assert_allclose(found[:5], [0.1, 0.325, 0.55, 0.775, 1.0], rtol=1e-6)
    rest = 0.5 * (1 + np.cos(np.pi * (e[4:] - 4) / (EPOCHS - 4)))
    np.testing.assert_allclose(found[4:], rest, atol=1e-6)


def test_steps_are_scaled_as_epochs_are():
    made = schedule("warmup_cosine", REQUIRED["warmup_cosine"], schedule_scale=0.5)
    assert dict(made.arguments) == {"init_value": 0.1, "warmup_steps": 2}


MISTAKES = {
    "unknown schedule": ("cosin", {}, "schedule.name=cosin: unknown schedule; choose multistep, "),
    "arguments of multistep": ("multistep", {"gamma": 0.1}, "multistep has none; set config.mile"),
    "unknown argument": ("cosine", {"beta": 1}, "cosine has no argument 'beta'; it has decay_ste"),
    "what is given": ("cosine", {"init_value": 1.0}, "cosine has no argument 'init_value'"),
    "not whole": ("cosine", {"decay_steps": 2.5}, "cosine's decay_steps=2.5 must be a whole"),
    "negative": ("cosine", {"decay_steps": -1}, "cosine's decay_steps=-1 must be a whole number"),
    "not a number": ("cosine", {"alpha": True}, "cosine's alpha=True must be a number"),
    "not a truth": ("exponential", {"staircase": 1.0}, "staircase=1.0 must be True or False"),
    "missing": ("warmup_cosine", {}, "warmup_cosine also needs init_value, warmup_steps"),
    "too long": (
        "warmup_cosine",
        {"init_value": 0.0, "warmup_steps": 30},
        "warmup_cosine, 20 epochs: ",
    ),
}


@pytest.mark.parametrize(("name", "arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(name, arguments, message):
    with pytest.raises(UserError) as error:
        schedule(name, arguments)
    assert message in str(error.value)


def test_a_too_short_first_task_is_refused():
    with pytest.raises(UserError, match="warmup_cosine, 3 epochs: "):
        schedule("warmup_cosine", REQUIRED["warmup_cosine"], init_epochs=3)


def test_the_first_task_has_its_own_epochs_and_rate():
    common = {"drop_last": True, "schedule": OptaxSchedule("cosine")}
    stage = TrainStage("train", 8, 0, 1, SGD(0.1, 0.9, 0.0), **common)
    assert stage.of_task(0) == stage and stage.of_task(1) is stage
    own = TrainStage("train", 8, 0, 1, SGD(0.1, 0.9, 0.0), **common, first_epochs=4)
    assert own.of_task(1) is own
    assert [own.of_task(t).learning_rate(2) for t in (0, 1)] == pytest.approx([0.05, 0.0853553])
    config = tiny_runs.make_config(init_epochs=7, optimizer__init_lr=0.5, schedule_scale=2.0)
    method = tiny_runs.make_method(config, tiny_runs.empty_dataset(8, 8, 1))
    first, later = (method.training.of_task(t) for t in (0, 1))
    assert (first.epochs, later.epochs) == (14, 2 * config.epochs)
    assert (first.optimizer.learning_rate, later.optimizer.learning_rate) == (0.5, 0.1)
    assert CONSTANT.with_milestones((3,)).milestones == (3,)
    assert stage.schedule.with_milestones((3,)) is stage.schedule
