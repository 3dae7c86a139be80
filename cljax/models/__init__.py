"""Makes networks by name."""

import re
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from cljax.errors import UserError
from cljax.models.autoencoder import SHRINKAGE, AutoEncoder
from cljax.models.classifier import (
    Classifier,
    CosineHead,
    LinearHead,
    Outputs,
    Projection,
    imprint,
)
from cljax.models.generator import LATENT_SIZE, Generator, torch_uniform
from cljax.models.resnet import CifarResNet, he_normal_fan_out

__all__ = [
    "LATENT_SIZE",
    "AutoEncoder",
    "CifarResNet",
    "Classifier",
    "CosineHead",
    "Generator",
    "LinearHead",
    "Outputs",
    "Projection",
    "imprint",
    "make_autoencoder",
    "make_classifier",
    "make_generator",
]

_PROJECTION = {"shortcut": "projection", "kernel_init": he_normal_fan_out}
_DEEPEST = 1202  # layers of the deepest network of the ResNet paper
# what follows "resnetN": (arguments of the backbone, arguments of a linear head)
_RESNETS = {
    "": ({}, {}),
    "_projection": (_PROJECTION, {"kernel_init": torch_uniform}),
    "_lucir": (_PROJECTION | {"last_relu": False}, {"kernel_init": torch_uniform}),
    "_rdfcil": (
        {
            "shortcut": "append",
            "kernel_init": he_normal_fan_out,
            "block_relu": False,
            "last_scale_init": nn.initializers.zeros,
        },
        {"kernel_init": nn.initializers.normal(1e-3), "use_bias": False},
    ),
}
# name: (shrinkage of the image to the first map, map channels, output channels of the stages)
GENERATORS = {
    "cifar": (4, 128, (128, 64)),
    "tiny_imagenet": (8, 128, (128, 128, 64)),
    "imagenet": (32, 64, (64, 64, 64, 64, 64)),
    "digits": (4, 32, (32, 16)),
}


def make_classifier(
    name: str,
    num_classes: int,
    width: int = 16,
    dtype: jnp.dtype = jnp.float32,
    head: Literal["linear", "cosine"] = "linear",
) -> Classifier:
    """Makes a classifier: backbone and head.

    Args:
      name: "resnetN", with depth N = 6n+2, is the network of the ABD reference code: parameter-free
        shortcuts. "resnetN_projection" is that of the LUCIR reference code's baseline: convolutions
        as shortcuts where the shape changes, and other initial values. "resnetN_lucir" is the
        latter without its very last ReLU, made for cosine heads. "resnetN_rdfcil" is that of the
        R-DFCIL reference code: no ReLU after the sums, shortcuts without parameters, other initial
        values, a linear head without bias.
      num_classes: K.
      width: channels of the first network stage.
      dtype: floating type of the computation.
      head: "linear" or "cosine".

    Raises:
      UserError: there is no such network or head.
    """
    match = re.fullmatch(r"resnet(\d{1,4})(|_projection|_lucir|_rdfcil)", name)
    if not match or not 8 <= int(match[1]) <= _DEEPEST or int(match[1]) % 6 != 2:
        raise UserError(
            f"config.model.name={name!r}: unknown network; use resnetN, resnetN_projection, "
            f"resnetN_rdfcil or resnetN_lucir with N = 6n+2 up to {_DEEPEST}, for example resnet32 "
            "or resnet32_lucir"
        )
    backbone_options, linear_options = _RESNETS[match[2]]
    if head == "linear":
        last = LinearHead(num_classes, **linear_options)
    elif head == "cosine":
        last = CosineHead(num_classes)
    else:
        raise UserError(f"config.model.head={head!r}: unknown head; choose linear or cosine")
    return Classifier(CifarResNet(int(match[1]), width, dtype, **backbone_options), last)


def make_generator(
    name: str, image_shape: tuple[int, int, int], dtype: jnp.dtype = jnp.float32
) -> Generator:
    """Makes an image generator.

    Args:
      name: "cifar", "tiny_imagenet", "imagenet" or "digits".
      image_shape: (H, W, C) with H = W.
      dtype: floating type of the computation.

    Raises:
      UserError: the name is unknown or the image size does not fit the generator.
    """
    if name not in GENERATORS:
        raise UserError(
            f"config.inversion.generator={name!r}: unknown generator; choose "
            f"{', '.join(GENERATORS)}"
        )
    shrinkage, map_channels, stages = GENERATORS[name]
    height, width, channels = image_shape
    if height != width or height % shrinkage:
        raise UserError(
            f"config.inversion.generator={name!r}: makes square images whose side is a multiple "
            f"of {shrinkage}, not {height}x{width}; choose another generator"
        )
    return Generator(height // shrinkage, map_channels, stages, channels, dtype)


def make_autoencoder(
    image_shape: tuple[int, int, int],
    channels: tuple[int, ...] = (64, 128, 512),
    latent_size: int = 1024,
    dtype: jnp.dtype = jnp.float32,
) -> AutoEncoder:
    """Makes the VAE of DGR; the published one by default.

    Args:
      image_shape: (H, W, C) with H = W.
      channels: output channels of the three convolutions.
      latent_size: length of a latent vector.
      dtype: floating type of the computation.

    Raises:
      UserError: the image size does not fit, or there are not three convolutions.
    """
    height, width, image_channels = image_shape
    if height != width or height % SHRINKAGE:
        raise UserError(
            "config.autoencoder: needs square images whose side is a multiple of "
            f"{SHRINKAGE}, not {height}x{width}; use another config.data.name"
        )
    if len(channels) != 3:
        raise UserError(
            f"config.autoencoder.channels={channels}: must be three numbers, one for each "
            "convolution"
        )
    return AutoEncoder(height, image_channels, channels, latent_size, dtype)
