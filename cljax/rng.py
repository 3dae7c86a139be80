"""Makes random keys by address: random stream, purpose, task, epoch and step.

Nothing is consumed, so a resumed run draws what an uninterrupted one draws, and checkpoints need no
iterator state. Each random stream has its own seed, so changing one leaves the others as they were.
"""

import zlib

import jax
from flax import struct


class Streams(struct.PyTreeNode):
    """Holds the seeds (int32 []) of a run's random streams that compiled functions use.

    The class order, the fifth stream, is drawn on the host with the generator of the ABD reference
    code.
    """

    init: jax.Array
    data_order: jax.Array
    augmentation: jax.Array
    generator: jax.Array


def key(seed: jax.Array, purpose: str, *address: int | jax.Array) -> jax.Array:
    """Makes the random key of one draw.

    Args:
      seed: int32 [], seed of a random stream.
      purpose: what is drawn; different purposes never share numbers, whatever their seeds.
      *address: task, epoch, step, ... (ints or int32 []).
    """
    result = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    for coordinate in address:
        result = jax.random.fold_in(result, coordinate)
    return result
