"""Lists the tensors of networks: names in a PyTorch state dict, paths in the Flax variables."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cljax.errors import UserError
from cljax.models import (
    LATENT_SIZE,
    AutoEncoder,
    CifarResNet,
    Classifier,
    CosineHead,
    Generator,
    ResNet,
)

_CONV = (2, 3, 1, 0)  # OIHW read as HWIO
_LINEAR = (1, 0)
RDFCIL_HEAD = "head.classifiers"  # of R-DFCIL's code, which has one for each task


class Entry(NamedTuple):
    """Describes one tensor: its name, its path and its layout.

    Attributes:
      name: name in the state dict.
      path: path in the Flax variables.
      axes: PyTorch's axes in Flax's order.
      view: Flax's shape with merged axes split; empty: Flax's shape.
      merged: start and stop of the axes, in PyTorch's order, that are merged in the state dict.
    """

    name: str
    path: tuple[str, ...]
    axes: tuple[int, ...] = (0,)
    view: tuple[int, ...] = ()
    merged: tuple[int, int] = (0, 1)

    def torch_shapes(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns PyTorch's shapes for Flax's `shape`: with merged axes split, and as stored."""
        view = self.view or shape
        apart = tuple(view[place] for place in np.argsort(self.axes))
        start, stop = self.merged
        return apart, (*apart[:start], math.prod(apart[start:stop]), *apart[stop:])


def classifier_entries(module: Classifier) -> Iterator[Entry]:
    """Yields the tensors of a classifier in PyTorch's order.

    Raises:
      UserError: its backbone is a class outside cljax, whose names are not known.
    """
    backbone = module.backbone
    if not isinstance(backbone, CifarResNet | ResNet):
        raise UserError(
            f"a network of class {type(backbone).__name__} has no names in PyTorch; only the "
            "ResNets of cljax have"
        )
    if isinstance(backbone, CifarResNet) and backbone.shortcut == "append":
        yield from _rdfcil_entries(module, backbone)
        return
    yield from _conv("conv1", ("backbone", "conv1"))
    yield from _batch_norm("bn1", ("backbone", "bn1"))
    if isinstance(backbone, ResNet):
        blocks, has_projections = backbone.blocks, True
        layers, widens_first = (3, True) if backbone.bottleneck else (2, False)
    else:
        blocks, has_projections = [(backbone.depth - 2) // 6] * 3, backbone.shortcut == "projection"
        layers, widens_first = 2, False
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            name, path = f"layer{stage}.{block}", ("backbone", f"stage{stage}_block{block}")
            for i in range(1, layers + 1):
                yield from _conv(f"{name}.conv{i}", (*path, f"conv{i}"))
                yield from _batch_norm(f"{name}.bn{i}", (*path, f"bn{i}"))
            if has_projections and block == 0 and (stage > 1 or widens_first):
                yield from _conv(f"{name}.downsample.0", (*path, "shortcut_conv"))
                yield from _batch_norm(f"{name}.downsample.1", (*path, "shortcut_bn"))
    head = "fc" if has_projections else "last"  # ABD's name is the latter, all others' the former
    yield Entry(f"{head}.weight", ("params", "head", "kernel"), _LINEAR)
    if isinstance(module.head, CosineHead):
        yield Entry(f"{head}.sigma", ("params", "head", "scale"), view=(1,))
    elif module.head.use_bias:
        yield Entry(f"{head}.bias", ("params", "head", "bias"))


def _rdfcil_entries(module: Classifier, backbone: CifarResNet) -> Iterator[Entry]:
    yield from _conv("backbone.conv_1_3x3", ("backbone", "conv1"))
    yield from _batch_norm("backbone.bn_1", ("backbone", "bn1"))
    blocks = (backbone.depth - 2) // 6
    for stage, block in itertools.product((1, 2, 3), range(blocks)):
        # The last block of all is a stage of its own.
        is_last = (stage, block) == (3, blocks - 1)
        name = "backbone.stage_4" if is_last else f"backbone.stage_{stage}.blocks.{block}"
        for i, letter in ((1, "a"), (2, "b")):
            path = ("backbone", f"stage{stage}_block{block}")
            yield from _conv(f"{name}.conv_{letter}", (*path, f"conv{i}"))
            yield from _batch_norm(f"{name}.bn_{letter}", (*path, f"bn{i}"))
    yield Entry(f"{RDFCIL_HEAD}.0.weight", ("params", "head", "kernel"), _LINEAR)


def generator_entries(module: Generator) -> Iterator[Entry]:
    """Yields the tensors of a generator in PyTorch's order."""
    yield from _to_map("l1.0", ("project",), LATENT_SIZE, module.map_size, module.map_channels)
    yield from _batch_norm("conv_blocks0.0", ("project_bn",))
    stages = len(module.stages)
    for i in range(stages):
        yield from _conv(f"conv_blocks{i + 1}.0", (f"stage{i}_conv",), bias=True)
        yield from _batch_norm(f"conv_blocks{i + 1}.1", (f"stage{i}_bn",))
    # The image layers end the last stage's block; only the long IMNET_GEN gives them their own.
    own_block = stages > 3
    block, place = (stages + 1, 0) if own_block else (stages, 3)
    yield from _conv(f"conv_blocks{block}.{place}", ("image_conv",), bias=True)
    yield from _batch_norm(f"conv_blocks{block}.{place + 2}", ("image_bn",), affine=False)


def autoencoder_entries(module: AutoEncoder) -> Iterator[Entry]:
    """Yields the tensors of DGR's VAE in PyTorch's order."""
    # PyTorch's transposed kernels are IOHW and Flax's HWOI: the same exchange of axes.
    for part in ("encoder", "decoder"):
        for i in range(3):
            yield from _conv(f"{part}.{i}.0", (f"{part}_{i}",), bias=True)
    size, channels, latents = module.map_size, module.channels[-1], module.latent_size
    for name, path in (("q_mean", "mean"), ("q_logvar", "log_variance")):
        yield Entry(
            f"{name}.weight",
            ("params", path, "kernel"),
            axes=(2, 3, 1, 0),
            view=(size, size, channels, latents),
            merged=(1, 4),
        )
        yield Entry(f"{name}.bias", ("params", path, "bias"))
    yield from _to_map("project", ("project",), latents, size, channels)


def _to_map(
    name: str, path: tuple[str, ...], inputs: int, size: int, channels: int
) -> Iterator[Entry]:
    # A linear layer whose outputs are a map: C x m x m in PyTorch, m x m x C in Flax.
    yield Entry(
        f"{name}.weight",
        ("params", *path, "kernel"),
        axes=(3, 1, 2, 0),
        view=(inputs, size, size, channels),
        merged=(0, 3),
    )
    view = (size, size, channels)
    yield Entry(f"{name}.bias", ("params", *path, "bias"), (1, 2, 0), view, (0, 3))


def _conv(name: str, path: tuple[str, ...], bias: bool = False) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", ("params", *path, "kernel"), _CONV)
    if bias:
        yield Entry(f"{name}.bias", ("params", *path, "bias"))


def _batch_norm(name: str, path: tuple[str, ...], affine: bool = True) -> Iterator[Entry]:
    if affine:
        yield Entry(f"{name}.weight", ("params", *path, "scale"))
        yield Entry(f"{name}.bias", ("params", *path, "bias"))
    yield Entry(f"{name}.running_mean", ("batch_stats", *path, "mean"))
    yield Entry(f"{name}.running_var", ("batch_stats", *path, "var"))
