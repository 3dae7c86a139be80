"""Defines the variational autoencoder (VAE) of DGR as in the ABD reference code."""

import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from cljax.models.conv import Conv, convolve, interleave
from cljax.models.generator import torch_uniform

SHRINKAGE = 8  # of the image to the last map: three halvings


class Reconstruction(NamedTuple):
    """Holds the outputs of the VAE; Z is the size of a latent vector.

    Attributes:
      logits: float [B, H, W, C]; their sigmoids are the reconstructed images.
      mean, log_variance: float [B, Z], of the normal distributions of the latent vectors.
    """

    logits: jax.Array
    mean: jax.Array
    log_variance: jax.Array


class TransposedConv(nn.Module):
    """Doubles a map with a transposed 4x4 convolution of stride 2 (PyTorch's, with padding 1).

    An output at an even or odd position sees only every second row and column of the kernel. So
    four 2x2 convolutions give the outputs, which are interleaved. On CPU the gradients take 10 % of
    the time of `nn.ConvTranspose`, which convolves a map with zeros between its pixels.

    Attributes:
      channels: number of output channels.
      dtype: floating type of the computation; parameters are float32.
    """

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [B, H, W, C] -> [B, 2H, 2W, channels]."""
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
    """Maps images in 0..1 to normal distributions of latent vectors, and latent vectors to images.

    The encoder has three 4x4 convolutions of stride 2 with ReLU, then one linear layer for the mean
    and one for the log-variance. The decoder has a linear layer and three transposed convolutions
    of the same size, with ReLU between them and a sigmoid last. There is no batch norm.

    Attributes:
      image_size: side of the square images, a multiple of SHRINKAGE.
      image_channels: channels of the images.
      channels: output channels of the three convolutions. The first two transposed ones have half
        the last and the first of these numbers.
      latent_size: length Z of a latent vector.
      dtype: floating type of the computation; parameters are float32.
    """

    image_size: int = 32
    image_channels: int = 3
    channels: tuple[int, int, int] = (64, 128, 512)
    latent_size: int = 1024
    dtype: jnp.dtype = jnp.float32

    if TYPE_CHECKING:  # Flax says that the result is a tuple or not

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def map_size(self) -> int:
        """Side of the last map."""
        return self.image_size // SHRINKAGE

    def setup(self) -> None:
        """Makes the layers, as Flax asks."""
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
          noise: float [B, Z], standard normal; zeros give the result of the reference code in eval
            mode.
        """
        mean, log_variance = self.encode(images)
        latents = mean + jnp.exp(log_variance / 2) * noise
        return Reconstruction(self.pixel_logits(latents), mean, log_variance)

    def encode(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes images [B, H, W, C] in 0..1 -> mean, log-variance [B, Z], at least float32."""
        x = images
        for layer in self.encoder:
            x = nn.relu(layer(x))
        x = x.reshape(x.shape[0], -1)
        return _at_least_float32(self.mean(x)), _at_least_float32(self.log_variance(x))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes latents [B, Z] -> images [B, H, W, C] in 0..1, at least float32."""
        return nn.sigmoid(self.pixel_logits(latents))

    def pixel_logits(self, latents: jax.Array) -> jax.Array:
        """Decodes latents [B, Z] -> images [B, H, W, C] before the sigmoid, at least float32."""
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
