"""The run's files: metrics.jsonl and its TensorBoard mirror, log.txt, and atomic JSON."""

import errno
import io
import json
import logging
import os
import resource
import struct

import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from cljax import errors, files
from cljax.errors import UserError
from cljax.output import logs


def row(epoch, seed=0, stage="train", **values):
    number = epoch + 1
    labels = {"seed": seed, "task": 1, "stage": stage, "epoch": number, "global_epoch": number}
    return labels | {"loss": 1.0 / (epoch + 1)} | values


def scalars(workdir):
    """[(tag, step, value)] of all event files of a run."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def test_a_line_is_in_the_file_when_append_returns(tmp_path):
    with logs.RunLog(tmp_path) as log:
        log.append(row(0))
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == row(0)
        assert log.position()[0] == (tmp_path / "metrics.jsonl").stat().st_size
        log.append(row(1))
        assert log.rows() == [row(0), row(1)]


def test_non_finite_and_numpy_values(tmp_path):
    with logs.RunLog(tmp_path) as log:
        log.append(
            row(0, loss=float("nan"), a=np.float32(np.inf), b=np.float32(0.5), c=np.int64(3))
        )
        text = (tmp_path / "metrics.jsonl").read_text()
        assert "NaN" not in text and "Infinity" not in text
        assert log.rows() == [row(0, loss=None, a=None, b=0.5, c=3)]
    assert [tag for tag, *_ in scalars(tmp_path)] == ["seed0/train/b", "seed0/train/c"]


def test_a_resumed_run_has_no_line_twice_and_none_missing(tmp_path):
    with logs.RunLog(tmp_path) as log:
        for epoch in range(3):
            log.append(row(epoch))
        position = log.position()
        log.append(row(3, loss=99.0))
        log.append(row(4, loss=99.0))
    (events,) = (tmp_path / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.1.elsewhere"))  # of an older day
    with logs.RunLog(tmp_path) as log:
        log.truncate(*position)
        for epoch in range(3, 5):
            log.append(row(epoch))
        assert log.rows() == [row(epoch) for epoch in range(5)]
    expected = [("seed0/train/loss", e + 1, pytest.approx(1.0 / (e + 1))) for e in range(5)]
    assert scalars(tmp_path) == expected


def test_events_follow_the_file_without_truncate_too(tmp_path):
    for epoch in range(2):
        with logs.RunLog(tmp_path) as log:
            log.append(row(epoch))
    assert [step for _, step, _ in scalars(tmp_path)] == [1, 2]


def test_truncate_to_zero_starts_anew(tmp_path):
    with logs.RunLog(tmp_path) as log:
        log.append(row(0))
        log.truncate(0, 0)
        assert log.rows() == [] and log.position() == (0, 0)
    assert scalars(tmp_path) == []


def test_rows_without_global_epoch_are_counted_per_seed_and_stage(tmp_path):
    with logs.RunLog(tmp_path) as log:
        log.append(row(7))
        for task, seed in [(1, 0), (1, 1), (2, 0), (2, 1)]:
            log.append({"seed": seed, "task": task, "stage": "invert", "epoch": 1, "prior": 2.0})
    assert [(tag, step) for tag, step, _ in scalars(tmp_path)] == [
        ("seed0/train/loss", 8),
        ("seed0/invert/prior", 1),
        ("seed1/invert/prior", 1),
        ("seed0/invert/prior", 2),
        ("seed1/invert/prior", 2),
    ]


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(row(0)) + '\n{"seed": 0, "ta')
    assert logs.read_rows(path) == [row(0)]
    with logs.RunLog(tmp_path) as log:
        log.append(row(1))
    assert logs.read_rows(path) == [row(0), row(1)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[" * 100_000, "line 2 is not JSON (nested too deeply)"),
        ('{"loss": NaN}', "line 2 is not JSON (NaN is not a finite number)"),
        ("{}", "line 2: no 'seed'"),
        ('{"seed": [], "stage": "train"}', "line 2: seed: "),
        ('{"seed": 0, "stage": null}', "line 2: stage: "),
        ('{"seed": 0, "stage": "train", "global_epoch": "1"}', "line 2: global_epoch: "),
    ],
)
def test_an_odd_line_is_named(tmp_path, line, words):
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row(0))}\n{line}\n")
    with logs.RunLog(tmp_path) as log, pytest.raises(UserError) as error:
        log.append(row(1))
    assert f"{tmp_path}/metrics.jsonl: {words}" in str(error.value)


def test_a_file_shorter_than_the_checkpoint_is_refused(tmp_path):
    with logs.RunLog(tmp_path) as log:
        log.append(row(0))
        length, checksum = log.position()
        with pytest.raises(UserError, match=r"has [0-9]+ bytes, but the checkpoint was saved at"):
            log.truncate(length + 1, checksum)
        with pytest.raises(UserError, match=f"its first {length - 1} bytes are not those of the"):
            log.truncate(length - 1, checksum)
        assert log.rows() == [row(0)]


@pytest.mark.parametrize("content", ["", "no newline", '{"seed": 0}\n' * 40])
def test_a_foreign_file_is_refused_and_stays(tmp_path, content):
    with logs.RunLog(tmp_path) as log:
        log.append(row(0))
        position = log.position()
    (tmp_path / "metrics.jsonl").write_text(content)
    with logs.RunLog(tmp_path) as log, pytest.raises(UserError, match="put the file back"):
        log.truncate(*position)
    assert (tmp_path / "metrics.jsonl").read_text() == content


@pytest.mark.parametrize("line", ["{]", "3"])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row(0))}\n{line}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not"):
        logs.read_rows(tmp_path / "metrics.jsonl")


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        logs.read_rows(tmp_path / "metrics.jsonl")


def test_a_disk_that_fills_up_loses_only_the_last_line(tmp_path):
    with logs.RunLog(tmp_path) as log:
        log.append(row(0))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # A write past the limit is cut short, as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.position()[0] + 5, hard))
        try:
            with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"):
                log.append(row(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with logs.RunLog(tmp_path) as log:
        log.append(row(2))
        assert log.rows() == [row(0), row(2)]


def test_a_workdir_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for opening in (logs.RunLog, logs.log_to_file):
        with pytest.raises(UserError, match=r"cannot write .*file"):
            opening(tmp_path / "file" / "run")


@pytest.fixture
def cljax_logger():
    logger = logging.getLogger("cljax")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    for handler in set(logger.handlers) - set(before[0]):
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def test_log_file_has_every_line_once_and_the_console_notes_and_warnings(tmp_path, cljax_logger):
    console = Console(file=io.StringIO(), width=40)
    child = logging.getLogger("cljax.training")
    for _ in range(2):
        logs.log_to_console(console)
        child.info("before there is a workdir")
        logs.log_to_file(tmp_path)
    child.debug("unseen")
    child.info("fine [bold]")
    child.log(errors.NOTE, "checkpoint of task 2 found in a folder with quite a long name")
    child.warning("odd")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "INFO before there is a workdir",
        "INFO before there is a workdir",
        "INFO fine [bold]",
        "NOTE checkpoint of task 2 found in a folder with quite a long name",
        "WARNING odd",
    ]
    assert console.file.getvalue() == (
        "checkpoint of task 2 found in a folder with quite a long name\nwarning: odd\n"
    )


def test_a_second_run_logs_into_its_own_file_and_appends(tmp_path, cljax_logger):
    console = Console(file=io.StringIO())
    for workdir in ("a", "b", "a"):
        logger = logs.log_to_console(console)
        logs.log_to_file(tmp_path / workdir)
        logger.info("in %s", workdir)
    assert [(tmp_path / d / "log.txt").read_text().count("\n") for d in "ab"] == [2, 1]
    assert "in a" not in (tmp_path / "b" / "log.txt").read_text()


VALUE = {
    "name": "a [1,\n 2] é",
    "rows": [[], [1, 2.5], [0.1 + 0.2, None]],
    "words": ["x", "y"],
    "empty": {},
    "flag": True,
}


def test_json_round_trips_and_keeps_numbers_on_one_line(tmp_path):
    path = tmp_path / "results.json"
    files.write_json_atomically(path, VALUE)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == VALUE
    assert "    [0.30000000000000004, null]\n" in text
    files.write_json_atomically(path, VALUE)
    assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["results.json"]


def test_json_takes_numpy_and_writes_non_finite_as_null(tmp_path):
    path = tmp_path / "results.json"
    value = {"a": np.arange(3), "b": np.float64("nan"), "c": (np.float32(0.5), float("-inf"))}
    files.write_json_atomically(path, value)
    assert json.loads(path.read_text()) == {"a": [0, 1, 2], "b": None, "c": [0.5, None]}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "results.json"
    files.write_json_atomically(path, {"old": 1})

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(UserError, match=r"cannot write .*results\.json: No space left"):
        files.write_json_atomically(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_missing_folder_is_made(tmp_path):
    files.write_json_atomically(tmp_path / "new" / "results.json", {"a": 1})
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == {"a": 1}


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"results\.json: (File exists|Not a directory)"):
        files.write_json_atomically(tmp_path / "file" / "results.json", {})
