"""Residual networks for small images (He et al. 2016, section 4.2), as ABD and LUCIR have them."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.models.conv import Conv
from cljax.models.norm import BatchNorm

he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def pad_shortcut(x: jax.Array, channels: int, stride: int) -> jax.Array:
    """Parameter-free shortcut ("option A"): every `stride`-th pixel, zero channels around.

    x [B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), channels]; the missing channels are
    zeros, half of them before the old ones and half after.
    """
    missing = channels - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut.

    Attributes:
      channels: of the output.
      stride: of the first convolution.
      shortcut: where the shape changes, see `CifarResNet`.
      last_relu: whether the sum of convolutions and shortcut is rectified.
      kernel_init: initial values of the kernels.
      dtype: of the computation; parameters are float32.
    """

    channels: int
    stride: int
    shortcut: Literal["pad", "projection"]
    last_relu: bool
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None) -> jax.Array:
        """x [B, H, W, C] -> [B, H/stride, W/stride, channels]; weights as in `Batch`."""
        conv = functools.partial(
            Conv, self.channels, kernel_init=self.kernel_init, dtype=self.dtype
        )
        y = conv(stride=self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train, weights))
        y = conv(name="conv2")(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train, weights)
        if self.stride != 1 or x.shape[-1] != self.channels:
            if self.shortcut == "projection":
                x = conv(size=1, padding=0, stride=self.stride, name="shortcut_conv")(x)
                x = BatchNorm(dtype=self.dtype, name="shortcut_bn")(x, train, weights)
            else:
                x = pad_shortcut(x, self.channels, self.stride)
        return nn.relu(x + y) if self.last_relu else x + y


class CifarResNet(nn.Module):
    """CIFAR ResNet of depth 6n+2 without its head: three stages of n blocks, global mean.

    Attributes:
      depth: 6n+2 (20, 32, 44, 56, 110, ...; the "resnet18" of the ABD code is depth 14).
      width: channels of the first stage; the next two double it.
      dtype: of the computation; parameters are float32.
      shortcut: of the blocks that change the shape: "pad" is `pad_shortcut`, "projection" a 1x1
        convolution with batch norm (He et al.'s options A and B).
      last_relu: False leaves out the very last ReLU, so that features may be negative (LUCIR).
      kernel_init: initial values of the kernels.
    """

    depth: int = 32
    width: int = 16
    dtype: jnp.dtype = jnp.float32
    shortcut: Literal["pad", "projection"] = "pad"
    last_relu: bool = True
    kernel_init: nn.initializers.Initializer = he_normal_fan_in

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None = None) -> jax.Array:
        """x [B, H, W, C] -> features [B, 4 * width] in float32 at least; weights as in `Batch`."""
        x = Conv(self.width, kernel_init=self.kernel_init, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train, weights))
        blocks = (self.depth - 2) // 6
        for stage in range(3):
            for block in range(blocks):
                x = BasicBlock(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    shortcut=self.shortcut,
                    last_relu=self.last_relu or (stage, block) != (2, blocks - 1),
                    kernel_init=self.kernel_init,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block}",
                )(x, train, weights)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
