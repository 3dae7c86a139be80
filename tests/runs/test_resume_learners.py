"""Every learner with stages or memory of its own goes on in the middle of them."""

import signal

import pytest

from cljax import experiment
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "epoch", "step", "stage"),
    [
        ("oracle", 3, 1, "train"),
        ("lwf_rehearsal", 3, 1, "train"),
        ("dgr", 3, 1, "train"),
        ("lucir", 3, 1, "train"),
        ("e2e", 5, 1, "balance"),
        ("bic", 5, 0, "correct"),  # whose epochs have one step
    ],
)
def test_learners_go_on_within_a_later_stage(
    fast_runs, interrupt, tmp_path, name, epoch, step, stage
):
    config = tiny_runs.make_config(name)
    tiny_runs.run(config, tmp_path / "whole")
    interrupt(signal.SIGTERM, epoch, step)
    with pytest.raises(experiment.Stopped):
        tiny_runs.run(config, tmp_path / "stopped")
    assert len(tiny_runs.metrics(tmp_path / "stopped")) == epoch
    tiny_runs.run(config, tmp_path / "stopped")
    tiny_runs.assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    last = tiny_runs.metrics(tmp_path / "whole")[-1]
    assert (last["task"], last["stage"], last["epoch"]) == (2, stage, 2)
