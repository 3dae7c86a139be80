"""Random numbers by address: every draw is named by stream, task, epoch and step.

Nothing is consumed, so a resumed run draws what an uninterrupted one draws, and no iterator has to
be saved. Each stream has a seed of its own, so changing one leaves the others as they were.
"""

import zlib

import jax
from flax import struct


@struct.dataclass
class Streams:
    """The seeds (int32 []) of a run's compiled random streams.

    The class order, the fifth stream, is drawn on the host with the original's generator.
    """

    init: jax.Array
    data_order: jax.Array
    augmentation: jax.Array
    generator: jax.Array


def key(seed: jax.Array, purpose: str, *address: int | jax.Array) -> jax.Array:
    """The random key of one draw.

    Args:
      seed: int32 [], a stream's seed.
      purpose: what is drawn; different purposes never share numbers, whatever their seeds.
      *address: task, epoch, step, ... (ints or int32 []).
    """
    result = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    for coordinate in address:
        result = jax.random.fold_in(result, coordinate)
    return result
