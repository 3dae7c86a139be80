"""Defines image generators for model inversion (ABD paper, supplement, section 4, and its code)."""

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from cljax.models.conv import Conv, UpsampledConv
from cljax.models.norm import BatchNorm

LATENT_SIZE = 1000
# The ABD reference code passes 0.8 where an epsilon belongs (a slip in much GAN code). It is kept,
# because it shapes the published generator.
STAGE_EPSILON = 0.8


def torch_uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, fan_in: int = 0
) -> jax.Array:
    """Draws PyTorch's default initial values: uniform within 1/sqrt(fan_in).

    Args:
      key: consumed.
      shape: of the result.
      dtype: floating type of the result.
      fan_in: 0, for a kernel: the product of all axes but the last.
    """
    fan_in = fan_in or math.prod(shape[:-1])
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Generator(nn.Module):
    """Maps latent vectors to images that a last batch norm standardizes per channel.

    A linear layer gives a small map, followed by batch norm. Then come network stages of nearest
    up-sampling, 3x3 convolution, batch norm and leaky ReLU. The last layers are a convolution to
    the image channels, tanh, and a batch norm without parameters. There is no other output scaling.

    Attributes:
      map_size: side of the first map.
      map_channels: channels of the first map.
      stages: output channels of each network stage; one up-sampling comes before each stage
        ("CIFAR_GEN" up-samples twice: before the first and before the second).
      image_channels: channels of the images.
      dtype: floating type of the computation; parameters are float32.
    """

    map_size: int
    map_channels: int
    stages: tuple[int, ...]
    image_channels: int = 3
    dtype: jnp.dtype = jnp.float32

    if TYPE_CHECKING:  # Flax says that the result is a tuple or not

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool) -> jax.Array:
        """Maps latents [B, LATENT_SIZE] -> float32 [B, H, W, C], H = map_size * 2^len(stages)."""

        def bias(fan_in):
            return functools.partial(torch_uniform, fan_in=fan_in)

        x = nn.Dense(
            self.map_size**2 * self.map_channels,
            kernel_init=torch_uniform,
            bias_init=bias(latents.shape[-1]),
            dtype=self.dtype,
            name="project",
        )(latents)
        x = x.reshape(-1, self.map_size, self.map_size, self.map_channels)
        x = BatchNorm(dtype=self.dtype, name="project_bn")(x, train)
        for i, channels in enumerate(self.stages):
            x = UpsampledConv(
                channels,
                kernel_init=torch_uniform,
                bias_init=bias(9 * x.shape[-1]),
                dtype=self.dtype,
                name=f"stage{i}_conv",
            )(x)
            x = BatchNorm(STAGE_EPSILON, dtype=self.dtype, name=f"stage{i}_bn")(x, train)
            x = nn.leaky_relu(x, 0.2)
        x = Conv(
            self.image_channels,
            kernel_init=torch_uniform,
            bias_init=bias(9 * x.shape[-1]),
            dtype=self.dtype,
            name="image_conv",
        )(x)
        x = jnp.tanh(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        return BatchNorm(affine=False, dtype=x.dtype, name="image_bn")(x, train)
