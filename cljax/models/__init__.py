"""Makes networks by name."""

import re
from typing import Any, Literal

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
from cljax.models.own import make_own_backbone
from cljax.models.resnet import CifarResNet, ResNet, he_normal_fan_out

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
    "ResNet",
    "imprint",
    "make_autoencoder",
    "make_classifier",
    "make_generator",
]

_PROJECTION = {"shortcut": "projection", "kernel_init": he_normal_fan_out}
_DEEPEST = 1202  # layers of the deepest network of the ResNet paper
_TORCH_HEAD = {"kernel_init": torch_uniform}
_RDFCIL = {"last_scale_init": nn.initializers.zeros}
_RDFCIL_HEAD = {"kernel_init": nn.initializers.normal(1e-3), "use_bias": False}
# what follows "resnetN", N = 6n+2: (arguments of the backbone, arguments of a linear head)
_CIFAR_RESNETS = {
    "": ({}, {}),
    "_projection": (_PROJECTION, _TORCH_HEAD),
    "_lucir": (_PROJECTION | {"last_relu": False}, _TORCH_HEAD),
    "_rdfcil": (
        _RDFCIL | {"shortcut": "append", "kernel_init": he_normal_fan_out, "block_relu": False},
        _RDFCIL_HEAD,
    ),
}
# N: arguments of the backbone of "resnetN"; no CIFAR network has these names
_RESNETS = {
    "18": {"blocks": (2, 2, 2, 2)},
    "34": {"blocks": (3, 4, 6, 3)},
    "50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
}
_IMAGENET_STEM = {"stem": "7x7", "max_pool": True}
_LUCIR_RELUS = {"last_relus": (True, True, True, False)}
# what follows "resnet18", "resnet34" or "resnet50": the same, in addition to those above
_VARIANTS = {
    "": ({}, _TORCH_HEAD),
    "_lucir": (_LUCIR_RELUS, _TORCH_HEAD),
    "_rdfcil": (_RDFCIL | {"max_pool": True, "last_relus": (False,) * 4}, _RDFCIL_HEAD),
    "_imagenet": (_IMAGENET_STEM, _TORCH_HEAD),
    "_imagenet_lucir": (_IMAGENET_STEM | _LUCIR_RELUS, _TORCH_HEAD),
}
_PUBLISHED_WIDTH = 16  # of the CIFAR networks, and of `width` for all
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
      name: a name of the table in docs/configuration.md, such as "resnet32", "resnet18" or
        "resnet18_imagenet_lucir"; or "package.module:Class" for a backbone outside cljax, see
        docs/adding_a_network.md.
      num_classes: K.
      width: channels of the first network stage. ResNet-18, 34 and 50 have four times as many, so
        that 16 is the published width of every network.
      dtype: floating type of the computation.
      head: "linear" or "cosine".

    Raises:
      UserError: there is no such network or head.
    """
    backbone, linear_options = _make_backbone(name, width, dtype)
    if head == "linear":
        last = LinearHead(num_classes, **linear_options)
    elif head == "cosine":
        last = CosineHead(num_classes)
    else:
        raise UserError(f"config.model.head={head!r}: unknown head; choose linear or cosine")
    return Classifier(backbone, last)


def _make_backbone(name: str, width: int, dtype: jnp.dtype) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the backbone, and the arguments of a linear head for it."""
    if ":" in name:
        return make_own_backbone(name, width, dtype), _TORCH_HEAD
    match = re.fullmatch(r"resnet(\d{1,4})((?:_[a-z]+)*)", name)
    depth, variant = match.groups() if match else ("", "")
    if depth in _RESNETS and variant in _VARIANTS:
        options, linear_options = _VARIANTS[variant]
        width = 64 * width // _PUBLISHED_WIDTH
        return ResNet(width=width, dtype=dtype, **_RESNETS[depth] | options), linear_options
    is_cifar = depth not in {"", *_RESNETS} and 8 <= int(depth) <= _DEEPEST and int(depth) % 6 == 2
    if is_cifar and variant in _CIFAR_RESNETS:
        backbone_options, linear_options = _CIFAR_RESNETS[variant]
        return CifarResNet(int(depth), width, dtype, **backbone_options), linear_options
    raise UserError(
        f"config.model.name={name!r}: unknown network; use resnet18, resnet34 or resnet50, each "
        "also with _lucir, _rdfcil, _imagenet or _imagenet_lucir; resnetN, resnetN_projection, "
        f"resnetN_lucir or resnetN_rdfcil with N = 6n+2 up to {_DEEPEST} but 50, for example "
        "resnet32; or your own class as MODULE:CLASS"
    )


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
