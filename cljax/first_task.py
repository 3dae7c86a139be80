"""Takes over the first task of another run."""

from pathlib import Path
from typing import Any

from cljax.errors import UserError
from cljax.files import read_json
from cljax.output.checkpoints import Checkpoints, unflatten
from cljax.output.metrics import FORMAT
from cljax.output.workdir import differences
from cljax.problem import Problem, model_number
from cljax.settings import Settings
from cljax.state import LearnerState


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
    if not (other / "results.json").is_file():
        raise UserError(f"{where}: no run there has finished its first task")
    results = read_json(other / "results.json")
    if results.get("format") != FORMAT:
        raise UserError(
            f"{where}: results.json is of another program or version: format "
            f"{results.get('format')} instead of {FORMAT}"
        )
    saved = Checkpoints(other / "models", keep=None, read_only=True)
    arrays, record = saved.read(model_number(0))
    saved.close()
    if results["dataset"] != settings.data.name:
        raise UserError(f"{where}: a run on {results['dataset']}, not on {settings.data.name}")
    saved_settings = _what_computes(read_json(other / "config.json"))
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


def _what_computes(config: dict[str, Any]) -> dict[str, Any]:
    """The settings on which the outputs of a saved classifier depend."""
    data = config.get("data") or {}
    return {
        "model": config.get("model"),
        "dtype": config.get("dtype"),
        "data": {key: data.get(key) for key in ("image_size", "mean", "standardise", "std")},
    }
