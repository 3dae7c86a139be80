"""Converts state dicts of the PyTorch reference code to Flax variables and back, without PyTorch.

A state dict maps tensor names to numpy arrays: call `.numpy()` on each tensor of
`torch.load(..., weights_only=True)`, or read an `.npz` file. `entries.py` has one table per
network, which gives the path of each tensor in the Flax variables and the order of its axes. Both
directions and all checks use this table.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cljax.errors import UserError
from cljax.interop.entries import (
    RDFCIL_HEAD,
    Entry,
    autoencoder_entries,
    classifier_entries,
    generator_entries,
)
from cljax.models import LATENT_SIZE, AutoEncoder, Classifier, Generator
from cljax.state import PyTree

Shapes = dict[tuple[str, ...], tuple[int, ...]]  # of variables by path
_LISTED = 5  # names shown per kind of mismatch


def classifier_from_torch(
    module: Classifier, state_dict: Mapping[str, np.ndarray], image_channels: int = 3
) -> PyTree:
    """Converts the state dict of a ResNet to variables of `module`.

    Args:
      module: classifier with the same architecture, depth, width and number of classes.
      state_dict: named as in the reference code and torchvision (`conv1.weight`,
        `layer1.0.bn1.running_var`, `layer2.0.downsample.0.weight`, ..., ABD's `last.bias`,
        torchvision's `fc.bias` or LUCIR's `fc.sigma`), or with LibContinual's stem (`conv1.0`,
        `conv1.1`). `num_batches_tracked` is ignored. The old and the new half of LUCIR's split
        head, `fc.fc1` and `fc.fc2`, are joined, and so are the heads of R-DFCIL's tasks,
        `head.classifiers.0`, `.1`, ...
      image_channels: C of the images.

    Returns:
      `params` and `batch_stats` as numpy arrays with the dtypes of the state dict.

    Raises:
      UserError: tensors are missing, surplus, of another shape, or not finite floats.
    """
    shapes = classifier_shapes(module, image_channels)
    named = {layer_name(str(name)): array for name, array in state_dict.items()}
    return _from_torch(classifier_entries(module), shapes, _with_whole_head(named))


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
    return _to_torch(
        classifier_entries(module), classifier_shapes(module, image_channels), variables
    )


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
    return _from_torch(generator_entries(module), _generator(module), state_dict)


def generator_to_torch(module: Generator, variables: PyTree) -> dict[str, np.ndarray]:
    """Converts variables of a generator to a state dict, without `num_batches_tracked`.

    This is the inverse of `generator_from_torch`.

    Raises:
      UserError: arrays are missing, surplus, of another shape, or not finite floats.
    """
    return _to_torch(generator_entries(module), _generator(module), variables)


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
    return _from_torch(autoencoder_entries(module), _autoencoder(module), state_dict)


def autoencoder_to_torch(module: AutoEncoder, variables: PyTree) -> dict[str, np.ndarray]:
    """Converts variables of a VAE to a state dict; the inverse of `autoencoder_from_torch`.

    Raises:
      UserError: arrays are missing, surplus, of another shape, or not finite floats.
    """
    return _to_torch(autoencoder_entries(module), _autoencoder(module), variables)


def layer_name(name: str) -> str:
    """Returns torchvision's name of a tensor; LibContinual's stem is `conv1.0` and `conv1.1`."""
    return re.sub(r"^conv1\.1\.", "bn1.", re.sub(r"^conv1\.0\.", "conv1.", name))


def _with_whole_head(state_dict: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    lucir = ["fc.fc1.weight", "fc.fc2.weight"]
    names = (f"{RDFCIL_HEAD}.{task}.weight" for task in itertools.count())
    rdfcil = list(itertools.takewhile(lambda name: name in state_dict, names))
    for whole, parts in (("fc.weight", lucir), (f"{RDFCIL_HEAD}.0.weight", rdfcil)):
        if not (parts and all(name in state_dict for name in parts)):
            continue
        rows = finite_arrays({name: state_dict[name] for name in parts}, "state dict").values()
        if not all(array.ndim for array in rows) or len({array.shape[1:] for array in rows}) > 1:
            continue  # told as tensors that the network does not have
        others = {name: array for name, array in state_dict.items() if name not in parts}
        state_dict = others | {whole: np.concatenate(list(rows))}
    return state_dict


def classifier_shapes(module: Classifier, image_channels: int) -> Shapes:
    """Returns the shapes of all variables of a classifier by path."""
    # The parameters' shapes do not depend on the image size, for which 8 pixels will do.
    return _shapes(module, (1, 8, 8, image_channels), train=False)


def _generator(module: Generator) -> Shapes:
    return _shapes(module, (2, LATENT_SIZE), train=False)


def _autoencoder(module: AutoEncoder) -> Shapes:
    side, channels = module.image_size, module.image_channels
    return _shapes(module, (1, side, side, channels), (1, module.latent_size))


def _find_shapes(module: Any, *input_shapes: tuple[int, ...], **options: bool) -> Shapes:
    """Returns the shapes of all variables by path."""
    inputs = [jnp.zeros(shape) for shape in input_shapes]
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    return {path: leaf.shape for path, leaf in flat.items()}


# Tracing a deep network takes almost a second.
_shapes: Callable[..., Shapes] = functools.cache(_find_shapes)


def _from_torch(
    entries: Iterable[Entry], shapes: Shapes, state_dict: Mapping[str, np.ndarray]
) -> PyTree:
    entries = list(entries)
    tensors = {n: v for n, v in state_dict.items() if "num_batches_tracked" not in str(n)}
    found = finite_arrays(tensors, "state dict")
    check_shapes(found, {e.name: e.torch_shapes(shapes[e.path])[1] for e in entries}, "state dict")
    return traverse_util.unflatten_dict(to_flax(entries, shapes, found))


def to_flax(
    entries: Iterable[Entry], shapes: Shapes, arrays: Mapping[str, np.ndarray]
) -> dict[tuple[str, ...], np.ndarray]:
    """Returns tensors of a state dict, whose shapes are checked, as Flax has them, by path."""
    result = {}
    for entry in entries:
        apart, _ = entry.torch_shapes(shapes[entry.path])
        array = arrays[entry.name].reshape(apart).transpose(entry.axes)
        result[entry.path] = np.ascontiguousarray(array).reshape(shapes[entry.path])
    return result


def _to_torch(entries: Iterable[Entry], shapes: Shapes, variables: PyTree) -> dict[str, np.ndarray]:
    flat = {".".join(path): v for path, v in traverse_util.flatten_dict(variables).items()}
    found = finite_arrays(flat, "variables")
    check_shapes(found, {".".join(path): shape for path, shape in shapes.items()}, "variables")
    result = {}
    for entry in entries:
        shape = shapes[entry.path]
        array = found[".".join(entry.path)].reshape(entry.view or shape)
        array = array.transpose(np.argsort(entry.axes)).reshape(entry.torch_shapes(shape)[1])
        result[entry.name] = np.ascontiguousarray(array)
    return result


def finite_arrays(entries: Mapping[str, Any], what: str) -> dict[str, np.ndarray]:
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


def check_shapes(
    found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Checks that names and shapes of arrays are the expected ones.

    Args:
      found: by name, something with a `shape`.
      expected: shapes by name.
      what: what holds the arrays, for messages.

    Raises:
      UserError: arrays are missing, surplus or of another shape.
    """
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
