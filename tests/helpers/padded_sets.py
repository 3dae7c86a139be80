"""What the tests of the exemplar memory share."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from cljax.memory import exemplars as ex
from cljax.state import Exemplars, Subset

RULES = ("floor", "ceil", "remainder", "per_class")


def subset(images, capacity=None):
    """A padded subset of listed images; the padding is no valid index."""
    room = np.full(len(images) if capacity is None else capacity, -9, np.int32)
    room[: len(images)] = images
    return Subset(jnp.asarray(room), jnp.int32(len(images)))


def listed(images):
    """The images of a subset or a memory."""
    images = ex.as_subset(images) if isinstance(images, Exemplars) else images
    return np.asarray(images.indices)[: int(images.count)].tolist()


def jit(function):
    """Compiles anew, so that `_cache_size` counts the programs of one test."""
    return jax.jit(functools.partial(function))


def by_rank(ranks):
    """Places in the order of their ranks, those without a rank left out."""
    ranks = np.asarray(ranks)
    order = np.argsort(ranks, kind="stable")
    return order[: (ranks < len(ranks)).sum()].tolist()


def python_quotas(available, seen, size, rule):
    """As `Budget.quotas`, for the classes seen."""
    if rule == "per_class":
        largest = [size] * seen
    elif rule == "floor":
        largest = [max(size // seen, 1)] * seen
    elif rule == "ceil":
        largest = [math.ceil(size / seen)] * seen
    else:
        share, remainder = divmod(size, seen)
        largest = [share] * seen
        for label in reversed(range(seen)):
            if available[label] > share and remainder > 0:
                largest[label], remainder = share + 1, remainder - 1
    return [min(pair) for pair in zip(available, largest, strict=False)]
