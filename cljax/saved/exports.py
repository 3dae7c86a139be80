"""Defines the files of an export, and reads them as a model."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from pydantic import Field

from cljax.errors import UserError
from cljax.files import Record, open_plain, read_json
from cljax.interop.weights import open_weights
from cljax.saved.first_task import check_file
from cljax.saved.models import Compute, Model
from cljax.settings import Count

FORMAT = "cljax export 1"
CONFIG, WEIGHTS, PROGRAM = "config.json", "model.safetensors", "forward.stablehlo"
# Of symbolic dimensions; any other custom call could run code that the file only names.
_CUSTOM_CALLS = {"shape_assertion"}
_CUSTOM_CALL = re.compile(r"custom_call\s*@?([\w.$\"]*)")


class PreprocessingRecord(Record):
    """Says how an image becomes input: its size, and the moments that the program uses itself."""

    image_shape: list[Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=3, max_length=3)
    input_size: int = Field(ge=0, le=4096)
    resize: str
    mean: list[float]
    std: list[float]


class ExportRecord(Record):
    """What is read of an export's config.json."""

    format: Literal["cljax export 1"]
    classes: list[str] = Field(min_length=1)
    class_ids: list[Count]
    preprocessing: PreprocessingRecord


def is_export(directory: Path) -> bool:
    """Whether a directory holds an export, whole or damaged; a workdir has another config.json."""
    try:
        if any((directory / name).exists() for name in (WEIGHTS, PROGRAM)):
            return True
        found = read_json(directory / CONFIG).get("format")
    except (UserError, OSError):
        return False
    return isinstance(found, str) and found.startswith("cljax export")


def load(directory: Path) -> Model:
    """Loads an export as a model; its predictions are those of the logits.

    Raises:
      UserError: a file is absent, damaged or of another version.
    """
    path = directory / CONFIG
    content = read_json(path)
    check_file(content, ExportRecord, path)
    record = ExportRecord.model_validate(content)
    if len(record.class_ids) != len(record.classes):
        raise UserError(f"{path}: damaged: classes and class_ids have different lengths")
    if not (directory / PROGRAM).exists():
        raise UserError(f"{directory}: has no {PROGRAM}; export again with --format=jax")
    with open_weights(directory / WEIGHTS) as tensors:
        weights = {name: tensor.read() for name, tensor in tensors.items()}
    height, width, channels = image_shape = tuple(record.preprocessing.image_shape)
    outputs = _read_program(directory / PROGRAM, weights, image_shape, len(record.classes))

    def rank(images, k):
        return jnp.argsort(outputs(images)[0], descending=True, stable=True)[:, :k]

    shape = height, width, channels
    size = record.preprocessing.input_size
    return Model(Compute(outputs, rank), record.classes, record.class_ids, shape, size)


def _read_program(
    path: Path, weights: dict[str, np.ndarray], image_shape: tuple[int, ...], classes: int
) -> Callable[[np.ndarray], tuple[Any, Any]]:
    """Reads a program, and checks what it does before it runs."""
    try:
        with open_plain(path) as file:
            program = export.deserialize(bytearray(file.read()))
        text = program.mlir_module()
        images = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
        results = jax.eval_shape(program.call, weights, images)
        shapes = [result.shape for result in results]
    except Exception as error:  # the readers of flatbuffers and of MLIR share no error class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: damaged, or of another export: {reason}") from error
    if strange := {name.strip('"') for name in _CUSTOM_CALL.findall(text)} - _CUSTOM_CALLS:
        raise UserError(f"{path}: not a program of cljax: it calls {', '.join(sorted(strange))}")
    if len(shapes) != 2 or shapes[0] != (1, classes):
        raise UserError(f"{path}: not the program of this {CONFIG}: it returns {shapes}")
    weights = jax.device_put(weights)
    compiled = jax.jit(program.call)
    return lambda images: compiled(weights, jnp.asarray(images))
