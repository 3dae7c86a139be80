"""Starts the classifiers of a run from the weights of a file."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cljax.errors import UserError, note
from cljax.interop import torch
from cljax.interop.entries import classifier_entries
from cljax.interop.weights import Tensor, open_weights
from cljax.models import Classifier
from cljax.state import LearnerState, PyTree

_COUNTER = "num_batches_tracked"  # of PyTorch's batch norms; cljax has none
# Begins the name of a layer of a backbone, here or in PyTorch.
_BACKBONE = re.compile(r"(params|batch_stats)\.backbone\.|(conv1|bn1|layer\d+)\.")


class Pretrained(NamedTuple):
    """Holds what a classifier takes from a file.

    Attributes:
      variables: `params` and `batch_stats`, numpy arrays float32, of `backbone` and, if it fits,
        `head`.
      left_out: names of the file's tensors that are not taken.
    """

    variables: PyTree
    left_out: list[str]


def start_from(
    path: str, module: Classifier, states: list[LearnerState], image_channels: int
) -> list[LearnerState]:
    """Returns the first states of a run with the weights of the file config.model.pretrained.

    Every seed has the same weights; a head that does not fit stays as it is. A note names the
    tensors that are not taken.

    Args:
      path: the file.
      module: the classifier.
      states: first state of each seed.
      image_channels: C of the images.

    Raises:
      UserError: the file is absent, of another form, damaged or of another network.
    """
    try:
        variables, left_out = read_pretrained(path, module, image_channels)
    except UserError as error:
        raise UserError(f"config.model.pretrained={error}") from error
    what = "backbone and head" if "head" in variables["params"] else "backbone"
    names = ", ".join(_with_few_counters(left_out)) or "nothing"
    note("%s: took the weights of the %s; not taken: %s", path, what, names)

    def start(state):
        # Each seed has copies, because steps reuse their memory.
        taken = {"batch_stats": {}} | jax.tree.map(jnp.array, variables)
        return state.replace(
            params=state.params | taken["params"],
            batch_stats=state.batch_stats | taken["batch_stats"],
        )

    return [start(state) for state in states]


def read_pretrained(path: str, module: Classifier, image_channels: int = 3) -> Pretrained:
    """Reads the weights of a classifier from a file.

    Args:
      path: .safetensors or .npz, with the names of `write_weights` or of a PyTorch state dict, see
        `classifier_from_torch`.
      module: the classifier.
      image_channels: C of the images.

    Raises:
      UserError: the file is absent, of another form, damaged or of another network.
    """
    shapes = torch.classifier_shapes(module, image_channels)
    with open_weights(path) as tensors:
        try:
            if any(name.startswith("params.") for name in tensors):
                return _read_ours(tensors, shapes)
            return _read_torch(tensors, shapes, module)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


def _read_ours(tensors: Mapping[str, Tensor], shapes: torch.Shapes) -> Pretrained:
    paths = {".".join(path): path for path in shapes}
    arrays = _read(tensors, {name: shapes[path] for name, path in paths.items()}, "params.head.")
    flat = {paths[name]: array for name, array in arrays.items()}
    return Pretrained(traverse_util.unflatten_dict(flat), [n for n in tensors if n not in arrays])


def _read_torch(
    tensors: Mapping[str, Tensor], shapes: torch.Shapes, module: Classifier
) -> Pretrained:
    entries = list(classifier_entries(module))
    head = next(entry.name for entry in entries if entry.path[1] == "head").split(".")[0]
    expected = {entry.name: entry.torch_shapes(shapes[entry.path])[1] for entry in entries}
    named = {torch.layer_name(name): tensor for name, tensor in tensors.items()}
    arrays = _read(named, expected, f"{head}.")
    taken = [entry for entry in entries if entry.name in arrays]
    flat = torch.to_flax(taken, shapes, arrays)
    left_out = [name for name in tensors if torch.layer_name(name) not in arrays]
    return Pretrained(traverse_util.unflatten_dict(flat), left_out)


def _read(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], head: str
) -> dict[str, np.ndarray]:
    """Reads the backbone, and the head (names that begin with `head`) if it fits; as float32."""
    backbone = {name: shape for name, shape in expected.items() if not name.startswith(head)}
    found = {name: t for name, t in tensors.items() if _BACKBONE.match(name) or name in backbone}
    found = {name: tensor for name, tensor in found.items() if _COUNTER not in name}
    torch.check_shapes(found, backbone, "file")
    theirs = {name: t.shape for name, t in tensors.items() if name.startswith(head)}
    ours = {name: shape for name, shape in expected.items() if name.startswith(head)}
    names = expected if theirs == ours else backbone
    arrays = torch.finite_arrays({name: tensors[name].read() for name in names}, "file")
    with np.errstate(over="ignore"):
        narrow = {name: array.astype(np.float32) for name, array in arrays.items()}
    return torch.finite_arrays(narrow, "file")  # a float64 may be too large


def _with_few_counters(names: list[str]) -> list[str]:
    """Names all tensors, but the counters of PyTorch's batch norms in two words."""
    counters = sum(_COUNTER in name for name in names)
    others = [name for name in names if _COUNTER not in name]
    return others + [f"{counters} x {_COUNTER}"] * bool(counters)
