"""Says what a checkpoint's record holds, and checks it before a run resumes from it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cljax import files
from cljax.errors import UserError
from cljax.output.recorder import Cursor
from cljax.problem import Problem
from cljax.settings import Settings

FORMAT = 5


class _RecorderRecord(files.Record):
    correct: dict[str, dict[str, list[list[list[int]]]]]
    seconds: dict[str, float]
    metrics_position: Annotated[list[int], Field(min_length=2, max_length=2)]


class _CheckpointRecord(files.Record):
    """What a checkpoint says beside its arrays."""

    cursor: dict[Literal["task", "stage", "epoch"], int]
    metrics: list[str] | None
    recorder: _RecorderRecord
    data: int
    models: list[int]


def check(
    record: dict[str, Any],
    settings: Settings,
    problem: Problem,
    correct: dict[str, dict[str, list]],
    directory: Path,
) -> None:
    """Checks that a run can resume from a checkpoint's record.

    Args:
      record: the record, as `Checkpoints.restore` returned it.
      settings, problem: those of the run.
      correct: counts of the run's recorder, whose read-outs and seeds the record must have.
      directory: workdir of the run, for messages.

    Raises:
      UserError: another version wrote the record, it is damaged, or the data are not the same.
    """
    if record.get("format") != FORMAT:
        raise UserError(
            f"{directory}: the run was saved by another version of cljax, with other files; finish "
            "it with that version, or start over in another --workdir"
        )
    try:
        files.check_record(_CheckpointRecord, record)
        if _lengths(record["recorder"]["correct"]) != _lengths(correct):
            raise ValueError("recorder.correct has other read-outs or seeds")
    except ValueError as error:
        raise UserError(f"{directory}: the record of the checkpoint is damaged: {error}") from error
    cursor = Cursor(**record["cursor"])
    stages = (
        problem.method.stages(cursor.task, problem.num_tasks)
        if 0 <= cursor.task < problem.num_tasks
        else ()
    )
    at_end = cursor == Cursor(problem.num_tasks)
    within = 0 <= cursor.stage <= len(stages) and cursor.epoch >= 0
    if not (at_end or (stages and within)):
        raise UserError(f"{directory}: the checkpoint names an impossible place, {cursor}")
    if record["data"] != problem.fingerprint:
        raise UserError(
            f"{directory}: {settings.data.name} has other images or labels than when this run "
            "started; set --config.data.dir or --config.data.path to the data of the start"
        )
    if record["class_orders"] != class_orders(problem):
        raise UserError(
            f"{directory}: the class order, or the tasks' sizes, are not those with which this run "
            f"started; put back what config.data.class_order={settings.data.class_order} names"
        )


def class_orders(problem: Problem) -> list[dict[str, list[int]]]:
    """Returns the classes and the sizes of the tasks of each seed, as a record has them."""
    sizes = list(problem.streams[0].task_sizes)  # the same for all seeds
    return [{"classes": order, "task_sizes": sizes} for order in problem.class_orders]


def _lengths(correct: dict) -> dict:
    """Returns the number of seeds of each kind of count of the recorder."""
    return {name: {kind: len(of) for kind, of in kinds.items()} for name, kinds in correct.items()}
