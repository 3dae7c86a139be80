"""Defines PerSeed, the form of values that every seed of a run has of its own."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import struct

PyTree = Any
T = TypeVar("T")


class PerSeed(struct.PyTreeNode, Generic[T]):
    """A value for every seed, as `Executor` keeps and passes it.

    Attributes:
      groups: one entry for the seeds that run at the same time; the groups follow one another
        through the same programs, or a program takes all of them.
      stacked: whether the arrays of a group have an axis of seeds in front. If not, a group is one
        seed.
    """

    groups: tuple[T, ...]
    stacked: bool = struct.field(pytree_node=False)

    def map(self, pick: Callable, *others: "PerSeed") -> "PerSeed":
        """Picks or replaces fields of the values, group by group.

        `pick(value, *values of the others)` must not compute: arrays may have an axis in front.
        """
        groups = map(pick, self.groups, *(other.groups for other in others))
        return self.replace(groups=tuple(groups))

    def holds(self, kind: type) -> bool:
        """Whether the values are instances of `kind`."""
        return isinstance(self.groups[0], kind)


def split(args: PyTree) -> list[PyTree]:
    """Returns the arguments of every group: each `PerSeed` in them is reduced to that group.

    Also within programs, as nothing is computed.

    Raises:
      TypeError: a value that belongs to one seed (its class has `is_of_one_seed`) stands outside a
        `PerSeed`, so all seeds would share it; or there is no `PerSeed`.
    """
    leaves, structure = jax.tree.flatten(
        args, is_leaf=lambda x: _is_per_seed(x) or hasattr(x, "is_of_one_seed")
    )
    for leaf in leaves:
        if hasattr(leaf, "is_of_one_seed"):
            raise TypeError(f"a {type(leaf).__name__} belongs to one seed; pass a PerSeed of them")
    counts = {len(value.groups) for value in only(args)}
    if len(counts) != 1:
        raise TypeError(f"expected PerSeed arguments of one number of groups, got {counts or 0}")

    def group(g):
        return [x.replace(groups=x.groups[g : g + 1]) if _is_per_seed(x) else x for x in leaves]

    return [structure.unflatten(group(g)) for g in range(counts.pop())]


def only(args: PyTree) -> list["PerSeed"]:
    """Returns the `PerSeed` among the arguments."""
    return [x for x in jax.tree.leaves(args, is_leaf=_is_per_seed) if _is_per_seed(x)]


def map_per_seed(args: PyTree, of_seed: Callable, of_all: Callable = lambda x: x) -> PyTree:
    """Replaces each `PerSeed` in `args` by `of_seed` of it, all other leaves by `of_all`."""
    return jax.tree.map(
        lambda x: of_seed(x) if _is_per_seed(x) else of_all(x), args, is_leaf=_is_per_seed
    )


def values(args: PyTree) -> PyTree:
    """Returns arguments of one group with the plain values in the place of each `PerSeed`."""
    return map_per_seed(args, lambda x: x.groups[0])


def first(value: Any) -> Any:
    """Returns the value of the first group of a `PerSeed`; anything else as it is."""
    return value.groups[0] if _is_per_seed(value) else value


def axes(args: PyTree) -> PyTree:
    """Returns `in_axes` of `jax.vmap` for stacked arguments of one group."""
    return map_per_seed(args, lambda _: 0, lambda _: None)


def _is_per_seed(x):
    return isinstance(x, PerSeed)
