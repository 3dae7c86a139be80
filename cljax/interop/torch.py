"""Converts state dicts of the PyTorch reference code to Flax variables and back, without PyTorch.

A state dict maps tensor names to numpy arrays: call `.numpy()` on each tensor of
`torch.load(..., weights_only=True)`, or read an `.npz` file. One table per network gives the path
of each tensor in the Flax variables and the order of its axes. Both directions and all checks use
this table.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cljax.errors import UserError
from cljax.models import LATENT_SIZE, AutoEncoder, Classifier, CosineHead, Generator
from cljax.state import PyTree

_CONV = (2, 3, 1, 0)  # OIHW read as HWIO
_LINEAR = (1, 0)
Shapes = dict[tuple[str, ...], tuple[int, ...]]  # of variables by path
_RDFCIL_HEAD = "head.classifiers"
_LISTED = 5  # names shown per kind of mismatch


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


def classifier_from_torch(
    module: Classifier, state_dict: Mapping[str, np.ndarray], image_channels: int = 3
) -> PyTree:
    """Converts the state dict of a CIFAR ResNet to variables of `module`.

    Args:
      module: classifier with the same architecture, depth, width and number of classes.
      state_dict: named as in the reference code (`conv1.weight`, `layer1.0.bn1.running_var`, ...,
        ABD's `last.bias` or LUCIR's `fc.sigma`). `num_batches_tracked` is ignored. The old and the
        new half of LUCIR's split head, `fc.fc1` and `fc.fc2`, are joined, and so are the heads of
        R-DFCIL's tasks, `head.classifiers.0`, `.1`, ...
      image_channels: C of the images.

    Returns:
      `params` and `batch_stats` as numpy arrays with the dtypes of the state dict.

    Raises:
      UserError: tensors are missing, surplus, of another shape, or not finite floats.
    """
    shapes = _classifier(module, image_channels)
    return _from_torch(_classifier_entries(module), shapes, _with_whole_head(state_dict))


def classifier_to_torch(
    module: Classifier, variables: PyTree, image_channels: int = 3
) -> dict[str, np.ndarray]:
    """Converts variables of `module` to a state dict for PyTorch's `load_state_dict`.

    This is the inverse of `classifier_from_torch`. `num_batches_tracked` is left out, and PyTorch
    fills it in. The heads of LUCIR and R-DFCIL are not split.

    Args:
      module: the classifier.
      variables: its `params` and `batch_stats`.
      image_channels: C of the images.

    Raises:
      UserError: arrays are missing, surplus, of another shape, or not finite floats.
    """
    return _to_torch(_classifier_entries(module), _classifier(module, image_channels), variables)


def generator_from_torch(module: Generator, state_dict: Mapping[str, np.ndarray]) -> PyTree:
    """Converts the state dict of a CIFAR_GEN, TINYIMNET_GEN or IMNET_GEN to variables of `module`.

    Args:
      module: the generator "cifar", "tiny_imagenet" or "imagenet" with the same image size.
      state_dict: named as in the reference code (`l1.0.weight`, `conv_blocks1.0.weight`, ...);
        `num_batches_tracked` is ignored.

    Returns:
      `params` and `batch_stats` as numpy arrays with the dtypes of the state dict.

    Raises:
      UserError: tensors are missing, surplus, of another shape, or not finite floats.
    """
    return _from_torch(_generator_entries(module), _generator(module), state_dict)


def generator_to_torch(module: Generator, variables: PyTree) -> dict[str, np.ndarray]:
    """Converts variables of a generator to a state dict, without `num_batches_tracked`.

    This is the inverse of `generator_from_torch`.

    Raises:
      UserError: arrays are missing, surplus, of another shape, or not finite floats.
    """
    return _to_torch(_generator_entries(module), _generator(module), variables)


def autoencoder_from_torch(module: AutoEncoder, state_dict: Mapping[str, np.ndarray]) -> PyTree:
    """Converts the state dict of DGR's VAE to variables of `module`.

    Args:
      module: a VAE with the same image size and widths.
      state_dict: named as in the reference code (`encoder.0.0.weight`, ..., `project.bias`).

    Returns:
      `params` as numpy arrays with the dtypes of the state dict.

    Raises:
      UserError: tensors are missing, surplus, of another shape, or not finite floats.
    """
    return _from_torch(_autoencoder_entries(module), _autoencoder(module), state_dict)


def autoencoder_to_torch(module: AutoEncoder, variables: PyTree) -> dict[str, np.ndarray]:
    """Converts variables of a VAE to a state dict; the inverse of `autoencoder_from_torch`.

    Raises:
      UserError: arrays are missing, surplus, of another shape, or not finite floats.
    """
    return _to_torch(_autoencoder_entries(module), _autoencoder(module), variables)


def _classifier_entries(module: Classifier) -> Iterator[Entry]:
    if module.backbone.shortcut == "append":
        yield from _rdfcil_entries(module)
        return
    backbone, has_projections = ("backbone",), module.backbone.shortcut == "projection"
    yield from _conv("conv1", (*backbone, "conv1"))
    yield from _batch_norm("bn1", (*backbone, "bn1"))
    for stage in (1, 2, 3):
        for block in range((module.backbone.depth - 2) // 6):
            name, path = f"layer{stage}.{block}", (*backbone, f"stage{stage}_block{block}")
            for i in (1, 2):
                yield from _conv(f"{name}.conv{i}", (*path, f"conv{i}"))
                yield from _batch_norm(f"{name}.bn{i}", (*path, f"bn{i}"))
            if has_projections and stage > 1 and block == 0:
                yield from _conv(f"{name}.downsample.0", (*path, "shortcut_conv"))
                yield from _batch_norm(f"{name}.downsample.1", (*path, "shortcut_bn"))
    head = "fc" if has_projections else "last"  # LUCIR's name and ABD's
    yield Entry(f"{head}.weight", ("params", "head", "kernel"), _LINEAR)
    if isinstance(module.head, CosineHead):
        yield Entry(f"{head}.sigma", ("params", "head", "scale"), view=(1,))
    else:
        yield Entry(f"{head}.bias", ("params", "head", "bias"))


def _rdfcil_entries(module: Classifier) -> Iterator[Entry]:
    yield from _conv("backbone.conv_1_3x3", ("backbone", "conv1"))
    yield from _batch_norm("backbone.bn_1", ("backbone", "bn1"))
    blocks = (module.backbone.depth - 2) // 6
    for stage, block in itertools.product((1, 2, 3), range(blocks)):
        # The last block of all is a stage of its own.
        is_last = (stage, block) == (3, blocks - 1)
        name = "backbone.stage_4" if is_last else f"backbone.stage_{stage}.blocks.{block}"
        for i, letter in ((1, "a"), (2, "b")):
            path = ("backbone", f"stage{stage}_block{block}")
            yield from _conv(f"{name}.conv_{letter}", (*path, f"conv{i}"))
            yield from _batch_norm(f"{name}.bn_{letter}", (*path, f"bn{i}"))
    yield Entry(f"{_RDFCIL_HEAD}.0.weight", ("params", "head", "kernel"), _LINEAR)


def _with_whole_head(state_dict: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    lucir = ["fc.fc1.weight", "fc.fc2.weight"]
    names = (f"{_RDFCIL_HEAD}.{task}.weight" for task in itertools.count())
    rdfcil = list(itertools.takewhile(lambda name: name in state_dict, names))
    for whole, parts in (("fc.weight", lucir), (f"{_RDFCIL_HEAD}.0.weight", rdfcil)):
        if not (parts and all(name in state_dict for name in parts)):
            continue
        rows = _arrays({name: state_dict[name] for name in parts}, "state dict").values()
        if not all(array.ndim for array in rows) or len({array.shape[1:] for array in rows}) > 1:
            continue  # told as tensors that the network does not have
        others = {name: array for name, array in state_dict.items() if name not in parts}
        state_dict = others | {whole: np.concatenate(list(rows))}
    return state_dict


def _generator_entries(module: Generator) -> Iterator[Entry]:
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


def _autoencoder_entries(module: AutoEncoder) -> Iterator[Entry]:
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


def _classifier(module: Classifier, image_channels: int) -> Shapes:
    # The parameters' shapes do not depend on the image size, for which 8 pixels will do.
    return _shapes(module, jnp.zeros((1, 8, 8, image_channels)), train=False)


def _generator(module: Generator) -> Shapes:
    return _shapes(module, jnp.zeros((2, LATENT_SIZE)), train=False)


def _autoencoder(module: AutoEncoder) -> Shapes:
    side, channels = module.image_size, module.image_channels
    return _shapes(module, jnp.zeros((1, side, side, channels)), jnp.zeros((1, module.latent_size)))


def _shapes(module, *inputs: jax.Array, **options) -> Shapes:
    """Returns the shapes of all variables by path."""
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    return {path: leaf.shape for path, leaf in flat.items()}


def _from_torch(
    entries: Iterable[Entry], shapes: Shapes, state_dict: Mapping[str, np.ndarray]
) -> PyTree:
    entries = list(entries)
    tensors = {n: v for n, v in state_dict.items() if "num_batches_tracked" not in str(n)}
    found = _arrays(tensors, "state dict")
    _check(found, {e.name: e.torch_shapes(shapes[e.path])[1] for e in entries}, "state dict")
    result = {}
    for entry in entries:
        apart, _ = entry.torch_shapes(shapes[entry.path])
        array = found[entry.name].reshape(apart).transpose(entry.axes)
        result[entry.path] = np.ascontiguousarray(array).reshape(shapes[entry.path])
    return traverse_util.unflatten_dict(result)


def _to_torch(entries: Iterable[Entry], shapes: Shapes, variables: PyTree) -> dict[str, np.ndarray]:
    flat = {".".join(path): v for path, v in traverse_util.flatten_dict(variables).items()}
    found = _arrays(flat, "variables")
    _check(found, {".".join(path): shape for path, shape in shapes.items()}, "variables")
    result = {}
    for entry in entries:
        shape = shapes[entry.path]
        array = found[".".join(entry.path)].reshape(entry.view or shape)
        array = array.transpose(np.argsort(entry.axes)).reshape(entry.torch_shapes(shape)[1])
        result[entry.name] = np.ascontiguousarray(array)
    return result


def _arrays(entries: Mapping[str, Any], what: str) -> dict[str, np.ndarray]:
    """Returns the entries as arrays; raises UserError for one that is not of finite floats."""
    arrays = {}
    for name, value in entries.items():
        try:
            array = np.asarray(value)
        except Exception as error:  # a tensor of another package has errors of its own
            raise UserError(f"{what}: {name} is not an array: {error}") from error
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{what}: {name} is {array.dtype}; expected floating-point numbers")
        if not np.isfinite(array).all():
            raise UserError(f"{what}: {name} holds NaN or infinity; expected finite numbers")
        arrays[name] = array
    return arrays


def _check(
    found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    problems = {
        "missing": [name for name in expected if name not in found],
        "surplus": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {list(found[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        ],
    }
    parts = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            parts.append(f"{kind}: {', '.join(names[:_LISTED])}{more}")
    if parts:
        raise UserError(f"{what} and network differ; {'; '.join(parts)}")
