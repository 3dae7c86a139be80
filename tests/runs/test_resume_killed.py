"""Runs as their own processes go on to the same bits: killed, signalled, on a full disk."""

import signal
import time

import pytest

from tests.helpers import tiny_runs

# (moment, count, what is on the disk then). The rename of a checkpoint's folder makes it valid.
KILLS = [
    ("epoch", 1),  # before anything is saved
    ("os.mkdir:checkpoints/0.orbax", 1),  # the first save has just begun
    ("os.rename:0.orbax-checkpoint-tmp", 1),  # an item of it is written
    ("os.rename:dreamed_task1", 1),  # after the inversion, before it is saved
    ("os.rename:.results.json", 1),  # between model and results
    ("os.rename:accuracy_matrix.png", 1),  # between results and checkpoint
    ("os.mkdir:models/2.orbax", 1),  # the last model is being saved
]


@pytest.mark.slow
def test_killed_again_and_again(reference, compiled, tmp_path):
    for moment, count in KILLS:
        fault = ("kill", moment, str(count))
        process = tiny_runs.start(*tiny_runs.arguments(tmp_path), cache=compiled, fault=fault)
        _, err = process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, (moment, err)
        assert err == "", moment
    status, out, err = tiny_runs.command(*tiny_runs.arguments(tmp_path), cache=compiled)
    assert (status, err) == (0, "")
    assert "resuming" in out
    tiny_runs.assert_same_run(tmp_path, reference)
    assert [path for path in tmp_path.rglob("*") if "tmp" in path.name] == []


@pytest.mark.slow
def test_killed_when_a_save_shows(reference, compiled, tmp_path):
    # Nothing is arranged within the program: it is killed from outside in the middle of a save.
    process = tiny_runs.start(*tiny_runs.arguments(tmp_path), cache=compiled)
    while process.poll() is None:
        if list((tmp_path / "checkpoints").glob("2.orbax-checkpoint-tmp*")):
            break
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    status, _, err = tiny_runs.command(*tiny_runs.arguments(tmp_path), cache=compiled)
    assert (status, err) == (0, "")
    tiny_runs.assert_same_run(tmp_path, reference)


@pytest.mark.slow
def test_signals_from_outside(compiled, tmp_path):
    flags = tiny_runs.arguments(tmp_path, epochs=100_000)
    process = tiny_runs.start(*flags, cache=compiled)
    metrics = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    # While it is at work, nobody else is let in.
    tiny_runs.assert_one_line(
        *tiny_runs.command(*flags, cache=compiled)[::2], "another run is using this workdir"
    )
    over = tiny_runs.command(*flags, "--config.overwrite=True", cache=compiled)
    tiny_runs.assert_one_line(*over[::2], "another run is using this workdir")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == ""
    assert f"Stopped. Checkpoint saved in {tmp_path}; run the same command to resume." in out
    assert list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_full_disk_at_a_checkpoint(half, reference, compiled):
    flags = tiny_runs.arguments(half)
    before = tiny_runs.arrays(half)
    limit = 200_000  # bytes of a file: more than the metrics, less than the weights
    fault = (f"full:{limit}", "epoch", "1")
    status, _, err = tiny_runs.command(*flags, cache=compiled, fault=fault)
    tiny_runs.assert_one_line(status, err, "cannot write a checkpoint", "File too large")
    tiny_runs.assert_same_arrays(tiny_runs.arrays(half), before)
    assert not list((half / "checkpoints").glob("*tmp*"))
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)


@pytest.mark.slow
def test_full_disk_at_everything(half, reference, compiled):
    before = tiny_runs.arrays(half)
    fault = ("full:1", "epoch", "1")
    status, _, err = tiny_runs.command(*tiny_runs.arguments(half), cache=compiled, fault=fault)
    tiny_runs.assert_one_line(status, err, "cannot write", "File too large")
    tiny_runs.assert_same_arrays(tiny_runs.arrays(half), before)
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)
