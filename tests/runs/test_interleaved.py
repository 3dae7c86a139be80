"""Runs whose seeds take their steps in one program leave the same as seeds one after another."""

import signal

import pytest

from cljax import build, experiment
from tests.helpers import tiny_runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("round_as_users_do", "one_executor_each")]

UNEQUAL = {"data__per_class": 0, "batch_size": 32, "max_tasks": 1}  # 9 steps, and 8
RESNET = {"model__name": "resnet8"}


@pytest.fixture
def one_executor_each(monkeypatch):
    """The runs of a test compile once for `sequential`, and once for `interleaved`."""
    make, made = build.make_executor, {}

    def make_executor(settings):
        kind = settings.execution.seeds
        return made[kind] if kind in made else made.setdefault(kind, make(settings))

    monkeypatch.setattr(build, "make_executor", make_executor)


def config(name, execution, **settings):
    settings = {"seeds": (3, 1), "execution__seeds": execution, **settings}
    settings |= {"epochs": 1, "milestones": ()}
    return tiny_runs.make_config(name, **settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("abd", {}),
        ("lucir", {"execution__loop": "compiled"}),
        ("base", UNEQUAL | RESNET),
    ],
)
def test_same_bits(name, settings, tmp_path):
    for execution in ("sequential", "interleaved"):
        tiny_runs.run(config(name, execution, **settings), tmp_path / execution)
    tiny_runs.assert_same_run(tmp_path / "interleaved", tmp_path / "sequential")


def test_a_run_may_change_between_both_and_grow(interrupt, tmp_path):
    """Also within an epoch, and where a seed joins later."""
    tiny_runs.run(config("bic", "sequential"), tmp_path / "whole")
    tiny_runs.run(config("bic", "sequential", seeds=(3,), max_tasks=1), tmp_path / "grown")
    for epoch, execution in ((1, "interleaved"), (0, "sequential")):
        interrupt(signal.SIGTERM, epoch, 1)
        with pytest.raises(experiment.Stopped):
            tiny_runs.run(config("bic", execution), tmp_path / "grown")
    shown = tiny_runs.run(config("bic", "interleaved"), tmp_path / "grown")
    assert "at task 2, stage 1, epoch 1" in shown  # which both seeds take, one a step further
    whole, grown = (tiny_runs.arrays(tmp_path / name) for name in ("whole", "grown"))
    tiny_runs.assert_same_arrays(grown, whole)
    assert tiny_runs.results(tmp_path / "grown") == tiny_runs.results(tmp_path / "whole")
