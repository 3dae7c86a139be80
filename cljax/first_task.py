"""Takes over the first task of another run."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from cljax.errors import UserError
from cljax.files import Record, check_record, read_json
from cljax.output.checkpoints import Checkpoints, unflatten
from cljax.output.metrics import FORMAT
from cljax.output.workdir import differences
from cljax.problem import Problem, model_number
from cljax.settings import Settings
from cljax.state import LearnerState

NonEmpty = Annotated[list[int], Field(min_length=1)]


def adopt_first_task(
    settings: Settings, problem: Problem, states: list[LearnerState]
) -> list[LearnerState]:
    """Returns the states with the classifiers of the run in config.first_task_from after task 1.

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
    _check(results, _ResultsRecord, other / "results.json")
    config = read_json(other / "config.json")
    _check(config, _ConfigRecord, other / "config.json")
    saved = Checkpoints(other / "models", keep=None, read_only=True)
    try:
        arrays, record = saved.read(model_number(0))
    finally:
        saved.close()
    _check(record, _ModelRecord, other / "models")
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
    return adopted


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


class _ModelRecord(Record):
    """What is read of the record of the other run's model."""

    data: int


def _check(content: Any, kind: type[Record], path: Path) -> None:
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
