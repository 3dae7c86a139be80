"""Writes the files of an export."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cljax import build
from cljax.compute import device
from cljax.errors import UserError, note
from cljax.export.script import SCRIPT
from cljax.files import write_atomically, write_json_atomically, writing
from cljax.interop import (
    autoencoder_to_torch,
    classifier_to_torch,
    generator_to_torch,
    write_weights,
)
from cljax.interop.pth import write_pth
from cljax.methods.base import Finetune
from cljax.methods.dgr import DeepGenerativeReplay
from cljax.methods.dreaming import Dreaming
from cljax.saved.exports import CONFIG, FORMAT, PROGRAM, WEIGHTS
from cljax.saved.models import Learned
from cljax.state import LearnerState, PyTree

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_CLASSIFIER = ("backbone", "head")  # parameters; methods have others beside them


def write_for_jax(learned: Learned, out: Path) -> list[Path]:
    """Writes weights, program, script and config.json; returns their paths.

    The program maps the weights by name and images uint8 [B, H, W, C], with any B, to the logits
    float32 [B, seen classes] and the features float32 [B, D].

    Raises:
      UserError: the directory is not empty, or a file cannot be written.
    """
    _check_empty(out)
    if type(learned.method).inference is not Finetune.inference:
        note(
            "method %s predicts in a way of its own; the export has the logits of its network",
            learned.run.settings.method.name,
        )
    weights, program = make_program(learned)
    write_weights(out / WEIGHTS, weights)
    write_atomically(out / PROGRAM, program)
    write_atomically(out / "run.py", SCRIPT.encode())
    write_json_atomically(out / CONFIG, describe(learned))
    return [out / name for name in (WEIGHTS, PROGRAM, "run.py", CONFIG)]


def write_for_pytorch(learned: Learned, out: Path) -> list[Path]:
    """Writes class.pth, generator.pth (DGR: its VAE) if the task trained one, and config.json.

    These are the names of the ABD reference code, which loads them with strict names. Row k of the
    head belongs to label k; rows of classes that are not seen are untrained.

    Raises:
      UserError: the network has no names in PyTorch, the directory is not empty, or a file cannot
        be written.
    """
    method, state = learned.method, learned.state
    variables = state.variables
    params = {name: variables["params"][name] for name in _CLASSIFIER}
    classifier = {"params": params, "batch_stats": variables["batch_stats"]}
    channels = learned.dataset.image_shape[-1]
    files = {"class.pth": classifier_to_torch(method.classifier, classifier, channels)}
    if isinstance(method, DeepGenerativeReplay):
        found = {"params": state.params["autoencoder"]}
        files["generator.pth"] = autoencoder_to_torch(method.autoencoder, found)
    elif state.generator is not None and isinstance(method, Dreaming):
        found = {"params": state.generator.params, "batch_stats": state.generator.batch_stats}
        generator = method.inversion_stage.inversion.generator
        files["generator.pth"] = generator_to_torch(generator, found)
    _check_empty(out)
    for name, state_dict in files.items():
        write_pth(out / name, state_dict)
    write_json_atomically(out / CONFIG, describe(learned))
    return [out / name for name in (*files, CONFIG)]


def make_program(learned: Learned) -> tuple[dict[str, np.ndarray], bytes]:
    """Makes the weights by name, and the serialized program that takes them."""
    method, seen = learned.method, learned.seen
    leaves, structure = jax.tree_util.tree_flatten_with_path(_used(method, learned.state))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    weights = {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}

    def forward(weights, images):
        parts = structure.unflatten([weights[name] for name in names])
        state = learned.state.replace(**parts)
        pixels = method.preprocessing.test(images)
        features = method.classifier.apply(state.variables, pixels).features
        logits = method.forward(state, pixels)[:, :seen]
        return logits.astype(jnp.float32), features.astype(jnp.float32)

    shape = _image_shape(learned)
    images = jax.ShapeDtypeStruct(
        export.symbolic_shape(f"b, {', '.join(map(str, shape))}"), "uint8"
    )
    like = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in weights.items()}
    with device.fixed_settings(build.matmul_precision(learned.run.settings)):
        exported = export.export(jax.jit(forward), platforms=PLATFORMS)(like, images)
    return weights, bytes(exported.serialize())


def _used(method: Finetune, state: LearnerState) -> dict[str, PyTree]:
    """The parts of a state on which the logits depend."""
    if type(method).forward is not Finetune.forward:
        parts = {"params": state.params, "batch_stats": state.batch_stats, "extras": state.extras}
        return {name: part for name, part in parts.items() if part is not None}
    params = {name: state.params[name] for name in _CLASSIFIER}
    return {"params": params, "batch_stats": state.batch_stats}


def _image_shape(learned: Learned) -> tuple[int, int, int]:
    height, width, channels = learned.dataset.image_shape
    size = learned.dataset.input_size
    return size or height, size or width, channels


def describe(learned: Learned) -> dict[str, Any]:
    """Returns the content of an export's config.json."""
    settings, results = learned.run.settings, learned.run.results
    place, task = settings.seeds.index(learned.seed), learned.task
    preprocessing, size = learned.method.preprocessing, learned.dataset.input_size
    cut = f"short side to {size * 8 // 7} pixels, then the central {size}x{size}"
    fit = "largest central part with the ratio of the sides, resized bilinearly with antialiasing"
    return {
        "format": FORMAT,
        "network": {
            "name": settings.model.name,
            "width": settings.model.width,
            "head": settings.model.head,
            "num_classes": learned.method.classifier.num_classes,
            "dtype": settings.dtype,
        },
        "classes": learned.class_names,
        "class_ids": learned.class_ids,
        "preprocessing": {
            "image_shape": list(_image_shape(learned)),
            "input_size": size,
            "resize": cut if size else fit,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "provenance": {
            "method": settings.method.name,
            "dataset": learned.dataset.name,
            "seed": learned.seed,
            "task": task,
            "tasks_total": results["tasks_total"],
            "seen_accuracy": results["seen_accuracy"][place][task - 1],
            "accuracy": results["accuracy"][place][task - 1],
            "versions": results["versions"],
            "config": settings.plain(),
        },
    }


def _check_empty(out: Path) -> None:
    with writing(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out={out}: is not an empty directory; use a new one")
