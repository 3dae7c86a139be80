"""Random keys: every part of the address counts, and nothing else does."""

import itertools

import jax
import jax.numpy as jnp

from cljax import rng


def bits(key):
    return tuple(jax.random.key_data(key).tolist())


def test_addresses_are_distinct():
    """No two of many addresses share a key, different purposes with equal seeds included."""
    addresses = itertools.product(range(3), ("order", "augment", "observe"), range(3), range(3))
    keys = [bits(rng.key(seed, purpose, *where)) for seed, purpose, *where in addresses]
    assert len(set(keys)) == 3 * 3 * 3 * 3


def test_the_order_of_coordinates_and_their_number_count():
    keys = [rng.key(0, "a"), rng.key(0, "a", 0), rng.key(0, "a", 1, 2), rng.key(0, "a", 2, 1)]
    assert len(set(map(bits, keys))) == 4


def test_traced_addresses_are_those_of_the_host():
    traced = jax.jit(lambda seed, task: rng.key(seed, "a", task, 5))(jnp.int32(3), jnp.int32(2))
    assert bits(traced) == bits(rng.key(3, "a", 2, 5))
    stacked = jax.vmap(lambda seed: rng.key(seed, "a", 1))(jnp.arange(3))
    assert [bits(key) for key in stacked] == [bits(rng.key(seed, "a", 1)) for seed in range(3)]


def test_keys_are_the_same_in_every_process():
    """A resumed run needs them; Python's `hash` of the purpose, say, would differ."""
    key = bits(rng.key(7, "order", 1, 2))
    assert key == (2935472089, 3909863892)
