"""Takes over the first task of another run."""

import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from cljax.errors import UserError, note
from cljax.files import Record, check_record, read_json
from cljax.output.checkpoints import Checkpoints, unflatten
from cljax.output.metrics import FORMAT
from cljax.output.workdir import differences
from cljax.problem import Problem, model_number
from cljax.saved.contents import ModelRecord
from cljax.settings import Settings
from cljax.state import LearnerState

NonEmpty = Annotated[list[int], Field(min_length=1)]
_STAGE_OF_GENERATOR = 1  # right after the classifier's; other stages of the first task run again


class Adopted(NamedTuple):
    """Holds the states of the seeds with what another run has learned.

    Attributes:
      states: learner states.
      has_generators: whether these have the other run's generators, and their teachers.
    """

    states: list[LearnerState]
    has_generators: bool


def adopt_first_task(settings: Settings, problem: Problem, states: list[LearnerState]) -> Adopted:
    """Takes the classifiers after task 1 of the run in config.first_task_from, and its generators.

    Generators are taken if the method trains one in this task, right after the classifier, and the
    other run has trained it in the same way. Otherwise a note says why not.

    Raises:
      UserError: there is no such run, its first task is not finished, or it has other data, other
        classes, another network, or other preprocessing or precision.
    """
    other = Path(settings.first_task_from)
    where = f"config.first_task_from={other}"
    if not os.path.isfile(other / "results.json"):
        raise UserError(f"{where}: no run there has finished its first task")
    results = read_json(other / "results.json")
    if results.get("format") != FORMAT:
        raise UserError(
            f"{where}: results.json is of another program or version: format "
            f"{results.get('format')} instead of {FORMAT}"
        )
    check_file(results, _ResultsRecord, other / "results.json")
    config = read_json(other / "config.json")
    check_file(config, _ConfigRecord, other / "config.json")
    saved = Checkpoints(other / "models", keep=None, read_only=True)
    try:
        arrays, record = saved.read(model_number(0))
    finally:
        saved.close()
    check_file(record, ModelRecord, other / "models")
    if results["dataset"] != settings.data.name:
        raise UserError(f"{where}: a run on {results['dataset']}, not on {settings.data.name}")
    saved_settings = _what_computes(config)
    if lines := differences(saved_settings, _what_computes(settings.plain())):
        raise UserError(f"{where}: its network computes something else ({'; '.join(lines)})")
    if record["data"] != problem.fingerprint:
        raise UserError(f"{where}: its data differ from what {settings.data.name} holds here")
    adopted = []
    for seed, stream, state in zip(settings.seeds, problem.streams, states, strict=True):
        if seed not in results["seeds"]:
            raise UserError(f"{where}: it has the seeds {results['seeds']}, not {seed}")
        place = results["seeds"].index(seed)
        order = results["class_orders"][place]
        classes = stream.class_order[: stream.task_sizes[0]].tolist()
        if results["task_sizes"][0] != len(classes) or order[: len(classes)] != classes:
            raise UserError(f"{where}: its first task has other classes with seed {seed}")
        if results["test_images"][place][0] != stream.eval_counts[0]:
            raise UserError(f"{where}: config.data.validation is not the same there")
        kept = {name: state.params[name] for name in problem.method.extra_parameters}
        params = {name: p for name, p in state.params.items() if name not in kept}
        try:
            found = unflatten(state.replace(params=params).variables, f"seed{seed}", arrays)
        except UserError as error:
            raise UserError(f"{where}: it has another network: {error}") from error
        found["params"] |= kept
        adopted.append(state.replace(**found))
    return _with_generators(settings, problem, adopted, config, arrays)


def _with_generators(
    settings: Settings,
    problem: Problem,
    states: list[LearnerState],
    config: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> Adopted:
    """Adds the generators of the other run where its config and its arrays have the same ones."""
    stages = problem.stages(0)
    if not any(stage.has_samples for stage in stages[_STAGE_OF_GENERATOR:][:1]):
        return Adopted(states, has_generators=False)
    reasons = differences(_what_dreams(config), _what_dreams(settings.plain()))
    try:
        pairs = list(zip(settings.seeds, states, strict=True))
        found = [unflatten(s.generator, f"seed{seed}['generator']", arrays) for seed, s in pairs]
    except UserError as error:
        found, reasons = [], reasons or [str(error)]
    if reasons:
        note(
            "config.first_task_from=%s: its generator is not taken, and is trained here (%s)",
            settings.first_task_from,
            "; ".join(reasons),
        )
        return Adopted(states, has_generators=False)
    taken = zip(states, found, strict=True)
    return Adopted([s.replace(generator=g).with_teacher() for s, g in taken], has_generators=True)


class _ResultsRecord(Record):
    """What is read of the other run's results.json."""

    dataset: str
    seeds: list[int]
    task_sizes: list[int] = Field(min_length=1)
    class_orders: list[list[int]]
    test_images: list[NonEmpty]

    @model_validator(mode="after")
    def _check_seeds(self):
        if not len(self.seeds) == len(self.class_orders) == len(self.test_images):
            raise ValueError("seeds, class_orders and test_images have different lengths")
        return self


class _ConfigRecord(Record):
    """What is read of the other run's config.json."""

    data: dict[str, Any]
    model: dict[str, Any]


def check_file(content: Any, kind: type[Record], path: Path) -> None:
    """Raises UserError, which names the file, unless its content is of the kind."""
    try:
        check_record(kind, content)
    except ValueError as error:
        raise UserError(
            f"{path}: damaged, or written by another version of cljax: {error}"
        ) from error


def _what_computes(config: dict[str, Any]) -> dict[str, Any]:
    """The settings on which the outputs of a saved classifier depend."""
    return {
        "model": {key: value for key, value in config["model"].items() if key != "pretrained"},
        "dtype": config.get("dtype"),
        "data": {
            key: config["data"].get(key) for key in ("image_size", "mean", "standardise", "std")
        },
    }


def _what_dreams(config: dict[str, Any]) -> dict[str, Any]:
    """The settings on which the training of a generator depends, given its classifier."""
    return {key: config.get(key) for key in ("inversion", "batch_size", "schedule_scale")}
