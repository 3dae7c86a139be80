"""The variational auto-encoder of deep generative replay, as the ABD code has it."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from cljax.models.conv import Conv, convolve, interleave
from cljax.models.generator import torch_uniform

SHRINKAGE = 8  # of the image to the last map: three halvings


class Reconstruction(NamedTuple):
    """What the auto-encoder makes of images; Z is the size of a latent vector.

    Attributes:
      logits: float [B, H, W, C], whose sigmoids are the reconstructed images.
      mean, log_variance: float [B, Z], of the latent vectors' normal distributions.
    """

    logits: jax.Array
    mean: jax.Array
    log_variance: jax.Array


class TransposedConv(nn.Module):
    """Transposed 4x4 convolution of stride 2 that doubles a map (PyTorch's, with padding 1).

    An output at an even or odd place sees but every other row and column of the kernel, so there
    are four 2x2 convolutions, whose results are interleaved. On CPU its gradients take a tenth of
    the time of `nn.ConvTranspose`'s, which convolves a map with zeros between its pixels.

    Attributes:
      channels: of the output.
      dtype: of the computation; parameters are float32.
    """

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] -> [B, 2H, 2W, channels]."""
        # PyTorch's initial values have the outputs for fan-in, hence HWOI.
        kernel = self.param("kernel", torch_uniform, (4, 4, self.channels, x.shape[-1]))
        bias = self.param("bias", torch_uniform, (self.channels,), jnp.float32, 16 * self.channels)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)

        def at(i, j):
            """The outputs at the places (2h + i, 2w + j)."""
            entries = kernel[3 - i :: -2, 3 - j :: -2].swapaxes(2, 3)
            return convolve(x, entries, 1, ((1 - i, i), (1 - j, j)))

        y = interleave([[at(i, j) for j in (0, 1)] for i in (0, 1)])
        return y + bias


class AutoEncoder(nn.Module):
    """Images in 0..1 to normal distributions of latent vectors, and latent vectors to images.

    Three 4x4 convolutions of stride 2 with ReLU, then a linear layer each for mean and
    log-variance. Back: a linear layer and three transposed convolutions of the same kind, with
    ReLU between them and a sigmoid last. There is no batch norm.

    Attributes:
      image_size: side of the square images, a multiple of SHRINKAGE.
      image_channels: channels of the images.
      channels: outputs of the three convolutions. The first two transposed ones have half the last
        and the first of these numbers.
      latent_size: of a latent vector.
      dtype: of the computation; parameters are float32.
    """

    image_size: int = 32
    image_channels: int = 3
    channels: tuple[int, int, int] = (64, 128, 512)
    latent_size: int = 1024
    dtype: jnp.dtype = jnp.float32

    @property
    def map_size(self) -> int:
        """Side of the last map."""
        return self.image_size // SHRINKAGE

    def setup(self):
        features = self.map_size**2 * self.channels[-1]
        self.encoder = [
            Conv(
                outputs,
                size=4,
                stride=2,
                kernel_init=torch_uniform,
                bias_init=functools.partial(torch_uniform, fan_in=16 * inputs),
                dtype=self.dtype,
            )
            for inputs, outputs in itertools.pairwise((self.image_channels, *self.channels))
        ]
        self.mean = self._linear(self.latent_size, features)
        self.log_variance = self._linear(self.latent_size, features)
        self.project = self._linear(features, self.latent_size)
        hidden = (self.channels[-1] // 2, self.channels[0])
        self.decoder = [
            TransposedConv(outputs, self.dtype) for outputs in (*hidden, self.image_channels)
        ]

    def __call__(self, images: jax.Array, noise: jax.Array) -> Reconstruction:
        """Encodes images, draws latent vectors and decodes them.

        Args:
          images: float [B, H, W, C] in 0..1.
          noise: float [B, Z], standard normal; zeros give what the original has in eval mode.
        """
        mean, log_variance = self.encode(images)
        latents = mean + jnp.exp(log_variance / 2) * noise
        return Reconstruction(self.pixel_logits(latents), mean, log_variance)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """images [B, H, W, C] in 0..1 -> mean and log-variance [B, Z], float32 at least."""
        x = images
        for layer in self.encoder:
            x = nn.relu(layer(x))
        x = x.reshape(x.shape[0], -1)
        return _at_least_float32(self.mean(x)), _at_least_float32(self.log_variance(x))

    def decode(self, latents: jax.Array) -> jax.Array:
        """latents [B, Z] -> images [B, H, W, C] in 0..1, float32 at least."""
        return nn.sigmoid(self.pixel_logits(latents))

    def pixel_logits(self, latents: jax.Array) -> jax.Array:
        """latents [B, Z] -> images before the sigmoid."""
        x = self.project(latents).reshape(-1, self.map_size, self.map_size, self.channels[-1])
        *hidden, last = self.decoder
        for layer in hidden:
            x = nn.relu(layer(x))
        return _at_least_float32(last(x))

    def _linear(self, outputs, inputs):
        return nn.Dense(
            outputs,
            kernel_init=torch_uniform,
            bias_init=functools.partial(torch_uniform, fan_in=inputs),
            dtype=self.dtype,
        )


def _at_least_float32(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
