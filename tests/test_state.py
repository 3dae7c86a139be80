"""Which fields of hyper-parameters are traced and which are part of the program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.models import make_classifier
from cljax.state import hyperparameters


@hyperparameters
class Inner:
    rate: float
    steps: int = 2


@hyperparameters
class Outer:
    inner: Inner
    weight: float
    name: str
    network: object = None


@hyperparameters
class Inherited(Outer):
    extra: float = 1.0


def make(cls=Outer, rate=0.5, steps=2, weight=3.0, name="a", **more):
    return cls(Inner(rate, steps), weight, name, **more)


@pytest.fixture
def traced():
    """A jitted function of hyper-parameters, and the list of its tracings."""
    tracings = []

    @jax.jit
    def value(h):
        tracings.append(h.name)
        return h.weight * h.inner.rate**h.inner.steps

    return value, tracings


def test_another_float_is_the_same_program(traced):
    value, tracings = traced
    assert value(make()) == 0.75
    assert value(make(weight=8.0, rate=0.25)) == 0.5
    assert len(tracings) == 1


def test_another_static_value_is_another_program(traced):
    value, tracings = traced
    assert value(make()) == 0.75
    assert value(make(steps=1)) == 1.5
    assert value(make(name="b")) == 0.75
    assert len(tracings) == 3
    assert value(make(weight=4.0, steps=1)) == 2.0
    assert len(tracings) == 3


def test_equal_networks_are_the_same_program(traced):
    value, tracings = traced
    value(make(network=make_classifier("resnet8", 10)))
    value(make(network=make_classifier("resnet8", 10)))
    assert len(tracings) == 1
    value(make(network=make_classifier("resnet8", 11)))
    assert len(tracings) == 2


def test_floats_may_be_an_axis_of_vmap():
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), make(), make(rate=0.25, weight=16.0))
    assert isinstance(stacked, Outer) and stacked.name == "a"
    got = jax.vmap(lambda h: h.weight * h.inner.rate**h.inner.steps)(stacked)
    np.testing.assert_array_equal(got, [0.75, 1.0])


def test_inherited_fields_keep_their_kind():
    assert len(jax.tree.leaves(make(Inherited))) == 3
    assert make(Inherited, extra=2.0).extra == 2.0


@hyperparameters
class Opposite(Outer):
    """The fields of Outer, another class."""


def test_classes_with_equal_fields_are_different_programs():
    """Equal keys of unequal classes would run one's program for the other, by chance of hashes."""
    one, other = jax.tree.structure(make()), jax.tree.structure(make(Opposite))
    assert one != other
    assert one == jax.tree.structure(make(weight=4.0))


def test_hyperparameters_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().weight = 1.0
