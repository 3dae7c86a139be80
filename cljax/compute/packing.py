"""Packs a tree of many small arrays into a few larger ones.

On a GPU a kernel that writes a small array takes as long as one that writes a hundred of them. A
network has some hundred arrays but few shapes, so arrays of one shape are stacked, and vectors and
scalars follow one another in one array. Trees of equal structure have equal places, so what is
computed entry by entry from several trees is one kernel for each packed array.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

PyTree = Any
Key = tuple[str, tuple[int, ...]]  # dtype, and shape of stacked arrays or () of vectors


class Packed(struct.PyTreeNode):
    """Holds the arrays of a tree.

    Attributes:
      arrays: by key, arrays [n, *shape] of n leaves, or [total] of all vectors and scalars.
      structure: the tree's structure.
      shapes: of each leaf.
      keys: of each leaf.
    """

    arrays: dict[Key, jax.Array]
    structure: Any = struct.field(pytree_node=False)
    shapes: tuple[tuple[int, ...], ...] = struct.field(pytree_node=False)
    keys: tuple[Key, ...] = struct.field(pytree_node=False)

    def unpack(self) -> PyTree:
        """Returns the tree."""
        places, leaves = dict.fromkeys(self.arrays, 0), []
        for shape, key in zip(self.shapes, self.keys, strict=True):
            array, place = self.arrays[key], places[key]
            if key[1]:
                leaves.append(jax.lax.index_in_dim(array, place, keepdims=False))
                places[key] += 1
            else:
                size = int(np.prod(shape))
                leaves.append(jax.lax.slice_in_dim(array, place, place + size).reshape(shape))
                places[key] += size
        return self.structure.unflatten(leaves)


def pack(tree: PyTree) -> Packed:
    """Packs arrays; see `Packed`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = tuple((str(leaf.dtype), leaf.shape if leaf.ndim > 1 else ()) for leaf in leaves)
    arrays = {}
    for key in dict.fromkeys(keys):
        some = [leaf for leaf, its_key in zip(leaves, keys, strict=True) if its_key == key]
        arrays[key] = jnp.stack(some) if key[1] else jnp.concatenate([x.reshape(-1) for x in some])
    return Packed(arrays, structure, tuple(leaf.shape for leaf in leaves), keys)


def repack(packed: PyTree, before: PyTree, after: PyTree) -> PyTree:
    """Packs what a step has changed; the rest stays as it is, so that compilers see it.

    Args:
      packed: tree with some `Packed`.
      before: what `unpack_all` made of it.
      after: tree like `before`.
    """

    def renew(old, was, new):
        if not isinstance(old, Packed):
            return new
        pairs = zip(jax.tree.leaves(was), jax.tree.leaves(new), strict=True)
        return old if all(a is b for a, b in pairs) else pack(new)

    return jax.tree.map(renew, packed, before, after, is_leaf=_is_packed)


def unpack_all(tree: PyTree) -> PyTree:
    """Returns `tree` with the contents of each `Packed` in it."""
    return jax.tree.map(lambda x: x.unpack() if _is_packed(x) else x, tree, is_leaf=_is_packed)


def _is_packed(x):
    return isinstance(x, Packed)
