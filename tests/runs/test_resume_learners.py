"""Every learner goes on to the same bits, wherever it was stopped or killed."""

import shutil
import signal
import time
import zlib

import numpy as np
import pytest

from cljax import experiment
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow
LEARNERS = sorted(
    path.name.removesuffix("_digits.py")
    for path in (tiny_runs.ROOT / "configs").glob("*_digits.py")
    if not path.name.startswith(("table", "sweep"))
)
MANY_STAGES = ("abd", "deep_inversion", "deep_inversion_lwf", "lucir", "rdfcil")  # are killed twice


@pytest.fixture(scope="module")
def whole(fast_runs, tmp_path_factory):
    """A function from a learner to the workdir of its run without an interruption."""
    return tiny_runs.on_demand(tiny_runs.make_config, tmp_path_factory.mktemp)


@pytest.mark.parametrize(
    ("name", "epoch", "step", "stage"),
    [
        ("oracle", 3, 1, "train"),
        ("lwf_rehearsal", 3, 1, "train"),
        ("dgr", 3, 1, "train"),
        ("lucir", 3, 1, "train"),
        ("e2e", 5, 1, "balance"),
        ("bic", 5, 0, "correct"),  # whose epochs have one step
        ("rdfcil", 5, 1, "train"),  # after the inversion that the task begins with
        ("rdfcil", 7, 1, "heads"),
    ],
)
def test_learners_go_on_within_a_later_stage(whole, interrupt, tmp_path, name, epoch, step, stage):
    config = tiny_runs.make_config(name)
    reference = whole(name)
    interrupt(signal.SIGTERM, epoch, step)
    with pytest.raises(experiment.Stopped):
        tiny_runs.run(config, tmp_path / "stopped")
    assert len(tiny_runs.metrics(tmp_path / "stopped")) == epoch
    tiny_runs.run(config, tmp_path / "stopped")
    tiny_runs.assert_same_run(tmp_path / "stopped", reference)
    row = tiny_runs.metrics(reference)[epoch]
    assert (row["task"], row["stage"], row["epoch"]) == (2, stage, 2)


def kill_at_a_random_moment(random, workdir, name, num_lines, cache):
    """Starts or resumes a run, and kills it from outside; says whether it was still at work."""
    metrics = workdir / "metrics.jsonl"
    done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
    line, delay = random.integers(min(done, num_lines - 1), num_lines), random.uniform(0, 0.2)
    process = tiny_runs.start(*tiny_runs.arguments(workdir, name), cache=cache)
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= line:
            break
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    _, err = process.communicate()
    assert err == ""
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", LEARNERS)
def test_killed_at_random_moments(whole, compiled, tmp_path, name):
    reference = whole(name)
    num_lines = len(tiny_runs.metrics(reference))
    random = np.random.default_rng(zlib.crc32(name.encode()))
    kills = 0
    while kills < (2 if name in MANY_STAGES else 1):
        if kill_at_a_random_moment(random, tmp_path / "run", name, num_lines, compiled):
            kills += 1
        else:  # it was done before
            shutil.rmtree(tmp_path / "run")
            kills = 0
    tiny_runs.run(tiny_runs.make_config(name), tmp_path / "run")
    tiny_runs.assert_same_run(tmp_path / "run", reference)
