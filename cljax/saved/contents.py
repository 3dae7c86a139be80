"""Says what `models/` of a workdir holds, so that a model can be used without its data."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cljax.data.sources import Dataset
from cljax.files import Record
from cljax.methods.base import Finetune
from cljax.state import LearnerState, PyTree

_Side = Annotated[int, Field(ge=1, le=4096)]
_Moments = Annotated[list[float], Field(min_length=1, max_length=3)]


class DatasetRecord(Record):
    """What a model's record says of the dataset, as `Dataset` has it.

    `image_shape` is [H, W, C] of the images as they are stored: canvases are larger than images.
    """

    name: str
    image_shape: list[_Side] = Field(min_length=3, max_length=3)
    num_classes: Annotated[int, Field(ge=1, le=2**20)]
    class_names: list[str]
    mean: _Moments
    std: _Moments
    input_size: int = Field(ge=0)


class ModelRecord(Record):
    """What is read of a model's record; `dataset` is missing in runs of earlier versions."""

    data: int
    dataset: DatasetRecord | None = None


def make_record(dataset: Dataset, fingerprint: int) -> dict[str, Any]:
    """Makes the record that is saved beside the arrays of a model.

    Args:
      dataset: the run's.
      fingerprint: checksum of its images and labels.
    """
    facts = DatasetRecord(
        name=dataset.name,
        image_shape=[int(size) for size in dataset.train_images.shape[1:]],
        num_classes=dataset.num_classes,
        class_names=list(dataset.class_names),
        mean=list(dataset.mean),
        std=list(dataset.std),
        input_size=dataset.input_size,
    )
    return {"data": fingerprint, "dataset": facts.model_dump()}


def empty_dataset(facts: DatasetRecord) -> Dataset:
    """Returns a dataset without images, from which a method is built as from the run's own."""
    images, labels = np.zeros((0, *facts.image_shape), np.uint8), np.zeros(0, np.int32)
    return Dataset(
        facts.name,
        *(images, labels, images, labels),
        facts.num_classes,
        tuple(facts.class_names),
        tuple(facts.mean),
        tuple(facts.std),
        facts.input_size,
    )


def kept(method: Finetune, state: LearnerState, task: int, num_tasks: int) -> dict[str, PyTree]:
    """Returns what `models/` keeps of a state after a task: all that predicts, and what dreams.

    Args:
      method: the method.
      state: learner state, or arrays of several seeds in the form of one.
      task: the task, from 0.
      num_tasks: number of tasks of the run.

    Returns:
      `params` and `batch_stats`. `exemplars`, where there are some. `extras`, where the method has
      predictions of its own. `generator`, where the task trains one: its Adam state only after the
      first task, which another run may take over.
    """
    parts: dict[str, PyTree] = dict(state.variables)
    if state.exemplars is not None:
        parts["exemplars"] = state.exemplars
    if predicts_itself(method) and state.extras is not None:
        parts["extras"] = state.extras
    if state.generator is not None and trains_generator(method, task, num_tasks):
        generator = state.generator
        parts["generator"] = generator.replace(opt_state=None) if task else generator
    return parts


def predicts_itself(method: Finetune) -> bool:
    """Whether a method computes logits or predictions in another way than its classifier does."""
    cls = type(method)
    return cls.forward is not Finetune.forward or cls.inference is not Finetune.inference


def trains_generator(method: Finetune, task: int, num_tasks: int) -> bool:
    """Whether a stage of a task (from 0) trains a generator."""
    return any(stage.has_samples for stage in method.stages(task, num_tasks))
