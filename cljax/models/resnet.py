"""Residual networks for small images (He et al. 2016, section 4.2), as the ABD code has them."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.models.norm import BatchNorm

he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def pad_shortcut(x: jax.Array, channels: int, stride: int) -> jax.Array:
    """Parameter-free shortcut ("option A"): every `stride`-th pixel, zero channels around.

    x [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), channels]; the missing channels are
    zeros, half of them before the old ones and half after.
    """
    missing = channels - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    channels: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, C] -> [B, H/stride, W/stride, channels]."""
        conv = functools.partial(
            nn.Conv,
            self.channels,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=he_normal_fan_in,
            dtype=self.dtype,
        )
        y = conv(strides=self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train))
        y = conv(name="conv2")(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train)
        if self.stride != 1 or x.shape[-1] != self.channels:
            x = pad_shortcut(x, self.channels, self.stride)
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """CIFAR ResNet of depth 6n+2 without its head: three stages of n blocks, global mean.

    Attributes:
      depth: 6n+2 (20, 32, 44, 56, 110, ...; the "resnet18" of the ABD code is depth 14).
      width: channels of the first stage; the next two double it.
      dtype: of the computation; parameters are float32.
    """

    depth: int = 32
    width: int = 16
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, C] -> features [B, 4 * width] in float32 at least."""
        x = nn.Conv(
            self.width,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=he_normal_fan_in,
            dtype=self.dtype,
            name="conv1",
        )(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                x = BasicBlock(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block}",
                )(x, train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
