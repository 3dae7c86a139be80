"""Faults of the system and damaged files: a run loses nothing, and the same command goes on.

Whatever happens, a start either ends with one line, or goes on to the bits of a run without faults.
Once the system works again, the same command goes on to the same bits.
"""

import errno
from pathlib import Path

import pytest

from cljax import experiment
from cljax.errors import UserError
from tests.helpers import faults, tiny_runs

# TensorStore complains once more, from a thread of its own, of a file that it could not read.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FAULTS = [
    # while the run is looked at
    ("open", "/config.json", errno.EIO),
    ("open", "/metrics.jsonl", errno.ESTALE),
    ("open", "/log.txt", errno.EACCES),
    ("open", "/.lock", errno.EACCES),
    ("os.scandir", "/checkpoints", errno.EIO),
    ("os.scandir", "/checkpoints", errno.ESTALE),
    ("os.listdir", "/checkpoints", errno.EIO),
    ("os.listdir", "/checkpoints", errno.EACCES),
    ("open", "record/metadata", errno.EIO),
    ("open", "record/metadata", errno.ESTALE),
    ("open", "record/metadata", errno.EACCES),
    # while it writes
    ("open", "/.config.json.", errno.EROFS),
    ("os.rename", "/.config.json.", errno.EDQUOT),
    ("open", "/tensorboard", errno.ENOSPC),
    ("os.mkdir", "/checkpoints/", errno.ENOSPC),
    ("os.rename", "/checkpoints/", errno.EDQUOT),
    ("open", "_CHECKPOINT_METADATA", errno.EIO),
    ("os.mkdir", "/models/", errno.EROFS),
    ("os.rename", "/models/", errno.ENOSPC),
    ("open", "/.results.json.", errno.EDQUOT),
    ("os.fsync", "/.results.json.", errno.EIO),
    ("os.rename", "/.results.json.", errno.ENOSPC),
    ("os.fsync", "/metrics.jsonl", errno.ENOSPC),
]


@pytest.fixture(scope="module")
def problem():
    return tiny_runs.make_problem(tiny_runs.make_config())


@pytest.fixture(autouse=True)
def same_problem(problem, monkeypatch):
    """All starts have the same data and first states; making them would take half of the time."""
    monkeypatch.setattr(experiment, "make_problem", lambda *args: problem)


@pytest.mark.parametrize(("event", "text", "number"), FAULTS)
def test_fault_of_the_system(half, reference, event, text, number):
    with faults.refusing(event, text, number) as failed, pytest.raises(UserError) as error:
        tiny_runs.run(tiny_runs.make_config(), half)
    assert failed, "nothing was refused"
    assert "\n" not in str(error.value) and str(half) in str(error.value)
    assert "overwrite" not in str(error.value), "advice that would delete a whole run"
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)


def content(workdir: Path) -> dict[Path, bytes]:
    """The files of a run but log.txt, which says what happened."""
    return {
        path: path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and path.name != "log.txt"
    }


@pytest.mark.parametrize(
    ("harm", "victim"),
    [
        (faults.truncate, "config.json"),
        (faults.flip_bit, "metrics.jsonl"),
        (faults.truncate, "metrics.jsonl"),
        (faults.remove, "config.json"),
        (faults.lead_out, "checkpoints"),
        (faults.lead_out, "metrics.jsonl"),
        (faults.lead_out, "checkpoints/4/record/metadata"),
    ],
)
def test_damage_that_is_refused(half, harm, victim):
    harm(half / victim)
    before = content(half)
    with pytest.raises(UserError) as error:
        tiny_runs.run(tiny_runs.make_config(), half)
    assert "\n" not in str(error.value) and str(half) in str(error.value)
    assert content(half) == before


@pytest.mark.parametrize(
    ("harm", "victim"),
    [
        (faults.remove, "checkpoints/4"),
        (faults.remove, "checkpoints/4/record"),
        (faults.remove, "checkpoints/4/arrays/ocdbt.process_0"),
        (faults.truncate, "checkpoints/4/arrays/manifest.ocdbt"),
        (faults.flip_bit, "checkpoints/4/record/metadata"),
        (faults.remove, "checkpoints/3"),
        (faults.truncate, "results.json"),
        (faults.remove, "tensorboard"),
    ],
)
def test_damage_that_a_run_survives(half, reference, harm, victim):
    harm(half / victim)
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)


@pytest.mark.parametrize(
    "harm", [faults.remove, lambda path: faults.truncate(path / "record/metadata")]
)
def test_a_model_that_is_gone_or_damaged_is_named(half, harm):
    harm(half / "models" / "1")
    shown = tiny_runs.run(tiny_runs.make_config(), half)
    assert f"warning: {half / 'models' / '1'}: gone, or not what this run saved" in shown
