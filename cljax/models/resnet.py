"""Defines residual networks (He et al. 2016): for CIFAR, and ResNet-18 to 50.

The CIFAR networks (section 4.2) have three network stages, the others (section 4.1) have four.
"""

import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.models.conv import Conv
from cljax.models.norm import BatchNorm

Shortcut = Literal["pad", "append", "projection"]
_SHARES_BEFORE = {"pad": 0.5, "append": 0.0}

he_normal_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

EXPANSION = 4  # output channels of a bottleneck block over those of its 3x3 convolution


def pad_shortcut(x: jax.Array, channels: int, stride: int, share_before: float = 0.5) -> jax.Array:
    """Makes the parameter-free shortcut ("option A"): each `stride`-th pixel, channels of zeros.

    Args:
      x: float [B, H, W, C].
      channels: number of output channels, C or more.
      stride: of both axes.
      share_before: share of the zeros that come before the channels of x; the others come after.

    Returns:
      float [B, ceil(H/stride), ceil(W/stride), channels].
    """
    missing = channels - x.shape[-1]
    before = int(share_before * missing)
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))


def max_pool(x: jax.Array) -> jax.Array:
    """Pools 3x3 maxima with stride 2 and one pixel of padding, which never is the maximum.

    Equal maxima: the first one in row order gets the gradient, as in PyTorch.

    Args:
      x: float [B, H, W, C].

    Returns:
      float [B, ceil(H/2), ceil(W/2), C].
    """
    window, strides, padding = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)


def project_shortcut(
    x: jax.Array,
    channels: int,
    stride: int,
    kernel_init: nn.initializers.Initializer,
    train: bool,
    weights: jax.Array | None,
) -> jax.Array:
    """Makes the projection shortcut ("option B"): a 1x1 convolution with batch norm.

    Both are layers of the block that calls this.

    Args:
      x: float [B, H, W, C].
      channels: number of output channels.
      stride: of both axes.
      kernel_init: initial values of the kernel.
      train, weights: as of `BatchNorm`.

    Returns:
      float [B, ceil(H/stride), ceil(W/stride), channels], with the dtype of x.
    """
    dtype = x.dtype
    x = Conv(
        channels,
        size=1,
        padding=0,
        stride=stride,
        kernel_init=kernel_init,
        dtype=dtype,
        name="shortcut_conv",
    )(x)
    return BatchNorm(dtype=dtype, name="shortcut_bn")(x, train, weights)


class BasicBlock(nn.Module):
    """Adds two 3x3 convolutions with batch norm to a shortcut.

    Attributes:
      channels: number of output channels.
      stride: of the first convolution.
      shortcut: shortcut where the shape changes, see `CifarResNet`.
      last_relu: whether a ReLU follows the sum of convolutions and shortcut.
      kernel_init: initial values of the kernels.
      dtype: floating type of the computation; parameters are float32.
      last_scale_init: initial values of the scales of the second batch norm.
    """

    channels: int
    stride: int
    shortcut: Shortcut
    last_relu: bool
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    last_scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None) -> jax.Array:
        """Maps x [B, H, W, C] -> [B, H/stride, W/stride, channels]; weights as in `Batch`."""
        conv = functools.partial(
            Conv, self.channels, kernel_init=self.kernel_init, dtype=self.dtype
        )
        y = conv(stride=self.stride, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train, weights))
        y = conv(name="conv2")(y)
        last = BatchNorm(dtype=self.dtype, scale_init=self.last_scale_init, name="bn2")
        y = last(y, train, weights)
        if self.stride != 1 or x.shape[-1] != self.channels:
            if self.shortcut == "projection":
                x = project_shortcut(
                    x, self.channels, self.stride, self.kernel_init, train, weights
                )
            else:
                x = pad_shortcut(x, self.channels, self.stride, _SHARES_BEFORE[self.shortcut])
        return nn.relu(x + y) if self.last_relu else x + y


class BottleneckBlock(nn.Module):
    """Adds a 1x1, a 3x3 and a 1x1 convolution with batch norm to a shortcut.

    The 3x3 convolution has the stride, as in torchvision; the paper's first convolution has it. The
    shortcut is a projection where the shape changes.

    Attributes:
      channels: output channels of the first two convolutions; the block has `EXPANSION` times as
        many.
      stride: of the 3x3 convolution.
      last_relu: whether a ReLU follows the sum of convolutions and shortcut.
      kernel_init: initial values of the kernels.
      dtype: floating type of the computation; parameters are float32.
      last_scale_init: initial values of the scales of the third batch norm.
    """

    channels: int
    stride: int
    last_relu: bool
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    last_scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None) -> jax.Array:
        """Maps x [B, H, W, C] -> [B, H/stride, W/stride, 4 channels]; weights as in `Batch`."""
        conv = functools.partial(Conv, kernel_init=self.kernel_init, dtype=self.dtype)
        outputs = EXPANSION * self.channels
        y = conv(self.channels, size=1, padding=0, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train, weights))
        y = conv(self.channels, stride=self.stride, name="conv2")(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(y, train, weights))
        y = conv(outputs, size=1, padding=0, name="conv3")(y)
        last = BatchNorm(dtype=self.dtype, scale_init=self.last_scale_init, name="bn3")
        y = last(y, train, weights)
        if self.stride != 1 or x.shape[-1] != outputs:
            x = project_shortcut(x, outputs, self.stride, self.kernel_init, train, weights)
        return nn.relu(x + y) if self.last_relu else x + y


class CifarResNet(nn.Module):
    """Computes features with a CIFAR ResNet: three network stages of n blocks, then a global mean.

    Attributes:
      depth: 6n+2 (20, 32, 44, 56, 110, ...; default 32). The ABD reference code's "resnet18" has
        depth 14.
      width: channels of the first network stage (default 16); each later stage doubles them.
      dtype: floating type of the computation; parameters are float32.
      shortcut: shortcut of the blocks that change the shape: "pad" is `pad_shortcut` with zeros on
        both sides, "append" with zeros behind, "projection" a 1x1 convolution with batch norm
        (options A, A and B of He et al.).
      last_relu: False leaves out the very last ReLU, so that features may be negative (LUCIR).
      kernel_init: initial values of the kernels.
      block_relu: False leaves out the ReLU after the sum of every block (R-DFCIL).
      last_scale_init: initial values of the scales of the second batch norm of every block; with
        zeros a block starts as its shortcut.
    """

    can_freeze: ClassVar[bool] = True  # layers are named as `norm.fold` expects

    depth: int = 32
    width: int = 16
    dtype: jnp.dtype = jnp.float32
    shortcut: Shortcut = "pad"
    last_relu: bool = True
    kernel_init: nn.initializers.Initializer = he_normal_fan_in
    block_relu: bool = True
    last_scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, C] -> features [B, 4 width], at least float32; weights as in `Batch`."""
        x = Conv(self.width, kernel_init=self.kernel_init, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train, weights))
        blocks = (self.depth - 2) // 6
        for stage in range(3):
            for block in range(blocks):
                is_last = (stage, block) == (2, blocks - 1)
                x = BasicBlock(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    shortcut=self.shortcut,
                    last_relu=self.block_relu and (self.last_relu or not is_last),
                    kernel_init=self.kernel_init,
                    last_scale_init=self.last_scale_init,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block}",
                )(x, train, weights)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))


class ResNet(nn.Module):
    """Computes features with a ResNet-18, 34 or 50: four network stages, then a global mean.

    Has torchvision's layers; LibContinual has the same ones, and a small stem for CIFAR.

    Attributes:
      blocks: number of blocks of each of the four stages (default: those of ResNet-18).
      bottleneck: whether the blocks are bottleneck blocks, as in ResNet-50, or basic blocks.
      width: channels of the first network stage (default 64); each later stage doubles them.
      stem: first convolution: "3x3" with stride 1 for small images, or "7x7" with stride 2.
      max_pool: whether 3x3 max pooling with stride 2 follows the stem.
      last_relus: whether the last block of each stage ends with a ReLU. Without the very last one
        features may be negative (LUCIR).
      dtype: floating type of the computation; parameters are float32.
      kernel_init: initial values of the kernels.
      last_scale_init: initial values of the scales of the last batch norm of every block, as in
        `CifarResNet`.
    """

    can_freeze: ClassVar[bool] = True  # layers are named as `norm.fold` expects

    blocks: tuple[int, int, int, int] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    stem: Literal["3x3", "7x7"] = "3x3"
    max_pool: bool = False
    last_relus: tuple[bool, bool, bool, bool] = (True, True, True, True)
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = he_normal_fan_out
    last_scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None = None) -> jax.Array:
        """Maps x [B, H, W, C] -> features [B, 8 width], at least float32; weights as in `Batch`.

        With bottleneck blocks there are 32 width features.
        """
        size, stride = (7, 2) if self.stem == "7x7" else (3, 1)
        x = Conv(
            self.width, size, stride, size // 2, self.kernel_init, dtype=self.dtype, name="conv1"
        )(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train, weights))
        if self.max_pool:
            x = max_pool(x)
        if self.bottleneck:
            make_block = BottleneckBlock
        else:
            make_block = functools.partial(BasicBlock, shortcut="projection")
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = make_block(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    last_relu=self.last_relus[stage] or block < count - 1,
                    kernel_init=self.kernel_init,
                    last_scale_init=self.last_scale_init,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{block}",
                )(x, train, weights)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
