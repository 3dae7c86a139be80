"""Optimizers by name, parameter groups and clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import settings as settings_lib
from cljax.compute import device
from cljax.errors import UserError
from cljax.optimizers import SGD, Group, OptaxOptimizer, is_trained
from cljax.optimizers.base import as_groups
from cljax.optimizers.by_name import make_optimizer
from cljax.optimizers.from_optax import NAMES
from tests.helpers import tiny_runs

PARAMS = {
    "a": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
    "b": jnp.array([0.3, -0.7]),
    "c": jnp.array([1.0, 2.0]),
}
ALL = jax.tree.map(lambda _: True, PARAMS)


def named(name, **settings):
    config = tiny_runs.make_config(
        **{f"optimizer__{key}": value for key, value in settings.items()}, optimizer__name=name
    )
    return make_optimizer(settings_lib.read(config))


def run(optimizer, trained, steps=3, platform="cpu"):
    """The parameters after some steps on the gradient of sum(p^4) / 4."""

    def update(state, params):
        grads = jax.tree.map(lambda p: p**3, params)
        return optimizer.update(grads, state, params, trained, 0.5)

    with device.programs_for(platform):
        step, params, state = jax.jit(update), PARAMS, optimizer.init(PARAMS)
        for _ in range(steps):
            params, new = step(state, params)
            assert jax.tree.structure(new) == jax.tree.structure(state)
            state = new
    return params


def close(found, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), found, expected)


@pytest.mark.parametrize("name", ["sgd", *NAMES])
def test_every_optimizer_moves_what_is_trained(name):
    optimizer = named(name, lr=0.01)
    found = run(optimizer, {"a": True, "b": jnp.array([True, False]), "c": False})
    assert (found["a"] != PARAMS["a"]).all() and np.isfinite(found["a"]).all()
    np.testing.assert_array_equal(found["b"] != PARAMS["b"], [True, False])
    np.testing.assert_array_equal(found["c"], PARAMS["c"])


def test_the_optimizers_of_optax_that_users_ask_for_are_there():
    assert {"adam", "adamw", "lamb", "lars", "lion", "radam", "rmsprop", "yogi"} <= set(NAMES)


def test_an_optimizer_is_optaxs_own():
    """At half the rate, which is the factor here, with its own arguments."""
    optimizer = named("adamw", lr=0.01, weight_decay=0.3, arguments={"b1": 0.5, "nesterov": True})
    expected, state = PARAMS, None
    made = optax.adamw(0.005, b1=0.5, nesterov=True, weight_decay=0.3)
    state = made.init(PARAMS)
    for _ in range(3):
        grads = jax.tree.map(lambda p: p**3, expected)
        updates, state = made.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    close(run(optimizer, ALL), expected)


def test_weight_decay_of_adam_is_added_to_the_gradient_as_in_pytorch():
    """PyTorch's Adam, from its formula."""
    p, m, v, decay = np.array(PARAMS["a"], np.float64), 0.0, 0.0, 0.3
    for t in (1, 2, 3):
        grad = p**3 + decay * p
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        p = p - 0.005 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(run(named("adam", lr=0.01, weight_decay=decay), ALL)["a"], p, 1e-5)


def test_nesterov_is_pytorchs():
    p, v = np.array(PARAMS["a"], np.float64), 0.0
    for _ in range(3):
        grad = p**3 + 0.3 * p
        v = 0.9 * v + grad
        p = p - 0.005 * (grad + 0.9 * v)
    optimizer = named("sgd", lr=0.01, weight_decay=0.3, arguments={"nesterov": True})
    np.testing.assert_allclose(run(optimizer, ALL)["a"], p, 1e-5)


def test_clipping_scales_all_gradients_together():
    """The norm of the first gradients is some 28; SGD without momentum shows them."""
    norm = np.sqrt(sum((np.asarray(p, np.float64) ** 6).sum() for p in PARAMS.values()))
    plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    moved = jax.tree.map(jnp.subtract, run(named("sgd", **plain), ALL, 1), PARAMS)
    clipped = run(named("sgd", **plain, clip_norm=norm / 4), ALL, 1)
    close(jax.tree.map(jnp.subtract, clipped, PARAMS), jax.tree.map(lambda m: m / 4, moved), 1e-4)
    close(
        run(named("sgd", **plain, clip_norm=2 * norm), ALL, 1), run(named("sgd", **plain), ALL, 1)
    )


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("make", [SGD, OptaxOptimizer], ids=["sgd", "adam"])
def test_each_group_has_its_rate_and_decay(make, platform):
    """Whole parameters and entries of one, each as if an optimizer of its own moved it."""
    optimizer, first = make(0.02, 0.9, 0.1), jnp.array([True, False])
    groups = [
        Group({"a": True, "b": first, "c": False}),
        Group({"a": False, "b": ~first, "c": False}, learning_rate=0.04, weight_decay=0.0),
    ]
    found = run(optimizer, groups, platform=platform)
    one, other = run(make(0.02, 0.9, 0.1), ALL), run(make(0.04, 0.9, 0.0), ALL)
    close(found["a"], one["a"])
    close(found["b"], jnp.where(first, one["b"], other["b"]))
    np.testing.assert_array_equal(found["c"], PARAMS["c"])


def test_groups_of_a_rate_that_is_part_of_the_state():
    """LARS keeps updates that the rate has multiplied; the state is each group's own, too."""
    optimizer = named("lars", lr=0.02)
    groups = [
        Group({"a": True, "b": False, "c": False}),
        Group({"a": False, "b": True, "c": True}, learning_rate=0.08),
    ]
    one, other = run(named("lars", lr=0.02), ALL), run(named("lars", lr=0.08), ALL)
    close(run(optimizer, groups), {"a": one["a"], "b": other["b"], "c": other["c"]})


def test_what_no_group_has_is_not_trained():
    column = jnp.array([True, False])
    groups = [Group({"a": True, "b": False}), Group({"a": False, "b": column})]
    assert is_trained(groups) == {"a": True, "b": True}
    assert is_trained(groups[:1]) == {"a": True, "b": False}
    for wrong in ([], [{"a": True}]):
        with pytest.raises(TypeError, match="or a list of Group"):
            as_groups(wrong)


MISTAKES = {
    "unknown": ("adamm", {}, "config.optimizer.name=adamm: unknown optimizer; choose sgd, ada"),
    "another program's": ("lbfgs", {}, "config.optimizer.name=lbfgs: unknown optimizer"),
    "argument": (
        "adam",
        {"beta": 0.5},
        "optimizer.arguments: adam has no argument 'beta'; it has b1",
    ),
    "argument of sgd": ("sgd", {"b1": 0.5}, "sgd has no argument 'b1'; it has nesterov"),
    "a key of its own": ("adamw", {"weight_decay": 0.5}, "adamw has no argument 'weight_decay'"),
    "not a truth": ("sgd", {"nesterov": 1}, "sgd's nesterov=1 must be True or False"),
}


@pytest.mark.parametrize(("name", "arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(name, arguments, message):
    with pytest.raises(UserError) as error:
        named(name, arguments=arguments)
    assert message in str(error.value)
