"""Runs with an optimizer and a schedule of Optax, and a first task of its own length."""

import signal

import pytest

from cljax import experiment
from tests.helpers import tiny_runs

SETTINGS = {
    "epochs": 3,
    "init_epochs": 2,
    "optimizer__name": "adamw",
    "optimizer__lr": 0.01,
    "optimizer__init_lr": 0.02,
    "optimizer__clip_norm": 1.0,
    "optimizer__arguments": {"b1": 0.8},
    "schedule__name": "cosine",
    "schedule__arguments": {"alpha": 0.5},
}


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(fast_runs, interrupt, tmp_path):
    config = tiny_runs.make_config("lucir", **SETTINGS)
    tiny_runs.run(config, tmp_path / "whole")
    rows = tiny_runs.metrics(tmp_path / "whole")
    assert [(row["task"], row["epoch"]) for row in rows] == [
        (1, 1),
        (1, 2),
        *((2, e) for e in (1, 2, 3)),
    ]
    rates = [0.02, 0.015, 0.01, 0.00875, 0.00625]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates)
    interrupt(signal.SIGTERM, 3, 1)
    with pytest.raises(experiment.Stopped):
        tiny_runs.run(config, tmp_path / "stopped")
    assert len(tiny_runs.metrics(tmp_path / "stopped")) == 3
    tiny_runs.run(config, tmp_path / "stopped")
    tiny_runs.assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_the_command_line_takes_arguments_and_refuses_unknown_ones(tmp_path):
    flags = (
        "--config.optimizer.name=adam",
        "--config.optimizer.arguments={'b1': 0.8, 'beta2': 0.9}",
        "--config.schedule.name=cosine",
    )
    status, _, err = tiny_runs.command(*tiny_runs.arguments(tmp_path / "run"), *flags)
    tiny_runs.assert_one_line(status, err, "config.optimizer.arguments", "beta2", "it has b1, b2")
    assert not (tmp_path / "run").exists()
