"""A backbone that compiles fast, for runs in which the network proves nothing."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.models.conv import Conv
from cljax.models.norm import BatchNorm


class TinyNetwork(nn.Module):
    """One convolution with batch norm, then a global mean."""

    can_freeze: ClassVar[bool] = True  # layers are named as `norm.fold` expects

    width: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, C] -> features [B, width]; weights as in `Batch`."""
        x = Conv(self.width, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train, weights))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
