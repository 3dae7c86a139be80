"""Networks by name."""

import re
from typing import Literal

import jax.numpy as jnp

from cljax.errors import UserError
from cljax.models.autoencoder import SHRINKAGE, AutoEncoder
from cljax.models.classifier import Classifier, CosineHead, LinearHead, Outputs, imprint
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
    "imprint",
    "make_autoencoder",
    "make_classifier",
    "make_generator",
]

_PROJECTION = {"shortcut": "projection", "kernel_init": he_normal_fan_out}
# what follows "resnetN": (options of the backbone, options of a linear head)
_RESNETS = {
    "": ({}, {}),
    "_projection": (_PROJECTION, {"kernel_init": torch_uniform}),
    "_lucir": (_PROJECTION | {"last_relu": False}, {"kernel_init": torch_uniform}),
}
# name: (shrinkage of the image to the first map, map channels, output channels of the stages)
_GENERATORS = {
    "cifar": (4, 128, (128, 64)),
    "tiny_imagenet": (8, 128, (128, 128, 64)),
    "imagenet": (32, 64, (64, 64, 64, 64, 64)),
    "digits": (4, 32, (32, 16)),
}


def make_classifier(
    name: str,
    num_classes: int,
    width: int = 16,
    dtype=jnp.float32,
    head: Literal["linear", "cosine"] = "linear",
) -> Classifier:
    """The classifier `name`, head included; N is a depth of 6n+2.

    "resnetN" is the ABD code's: parameter-free shortcuts. "resnetN_projection" is that of the LUCIR
    code's baseline: convolutions as shortcuts where the shape changes, and initial values that
    differ. "resnetN_lucir" is the latter without its very last ReLU, made for cosine heads.

    Raises:
      UserError: there is no such network or head.
    """
    match = re.fullmatch(r"resnet(\d+)(|_projection|_lucir)", name)
    if not match or int(match[1]) < 8 or int(match[1]) % 6 != 2:
        raise UserError(
            f"config.model.name: no network {name!r}; use resnetN, resnetN_projection or "
            "resnetN_lucir with N = 6n+2, for example resnet20, resnet32 or resnet32_lucir"
        )
    backbone_options, linear_options = _RESNETS[match[2]]
    if head == "linear":
        last = LinearHead(num_classes, **linear_options)
    elif head == "cosine":
        last = CosineHead(num_classes)
    else:
        raise UserError(f"config.model.head: no head {head!r}; there are linear, cosine")
    return Classifier(CifarResNet(int(match[1]), width, dtype, **backbone_options), last)


def make_generator(name: str, image_shape: tuple[int, int, int], dtype=jnp.float32) -> Generator:
    """The generator `name` for images [H, W, C] with H = W.

    Raises:
      UserError: the name is unknown or the image size does not fit the generator.
    """
    if name not in _GENERATORS:
        raise UserError(
            f"config.inversion.generator: no generator {name!r}; there are {', '.join(_GENERATORS)}"
        )
    shrinkage, map_channels, stages = _GENERATORS[name]
    height, width, channels = image_shape
    if height != width or height % shrinkage:
        raise UserError(
            f"config.inversion.generator: {name!r} makes square images whose side is a multiple "
            f"of {shrinkage}, not {height}x{width}"
        )
    return Generator(height // shrinkage, map_channels, stages, channels, dtype)


def make_autoencoder(
    image_shape: tuple[int, int, int],
    channels: tuple[int, ...] = (64, 128, 512),
    latent_size: int = 1024,
    dtype=jnp.float32,
) -> AutoEncoder:
    """The auto-encoder for images [H, W, C] with H = W; the published one by default.

    Raises:
      UserError: the image size does not fit, or there are not three convolutions.
    """
    height, width, image_channels = image_shape
    if height != width or height % SHRINKAGE:
        raise UserError(
            "config.autoencoder: it takes square images whose side is a multiple of "
            f"{SHRINKAGE}, not {height}x{width}"
        )
    if len(channels) != 3:
        raise UserError(
            "config.autoencoder.channels: its three convolutions need three numbers, not "
            f"{len(channels)}"
        )
    return AutoEncoder(height, image_channels, channels, latent_size, dtype)
