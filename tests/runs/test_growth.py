"""A workdir that gets more seeds or tasks has what all of them from the start would have given."""

import shutil

import pytest

from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow


def config(name, seeds, tasks, **settings):
    settings = {"epochs": 1, "milestones": ()} | settings
    return tiny_runs.make_config(name, seeds=seeds, max_tasks=tasks, **settings)


@pytest.fixture(scope="module")
def whole(fast_runs, tmp_path_factory):
    """A function from a method to the workdir of two seeds and three tasks at once."""
    workdirs = {}

    def run(name):
        if name not in workdirs:
            workdirs[name] = tmp_path_factory.mktemp(name) / "whole"
            tiny_runs.run(config(name, (0, 1), 3), workdirs[name])
        return workdirs[name]

    return run


@pytest.fixture(scope="module")
def small(fast_runs, tmp_path_factory):
    """A function from a method to the workdir of seed 0 and two tasks; not to be changed."""
    workdirs = {}

    def run(name):
        if name not in workdirs:
            workdirs[name] = tmp_path_factory.mktemp(name) / "small"
            tiny_runs.run(config(name, (0,), 2), workdirs[name])
        return workdirs[name]

    return run


def rows_of(workdir, seed):
    return [row for row in tiny_runs.metrics(workdir) if row["seed"] == seed]


def assert_same_growth(workdir, reference):
    """As `tiny_runs.assert_same_run`; the lines of metrics.jsonl may be in another order."""
    assert tiny_runs.results(workdir) == tiny_runs.results(reference)
    for seed in (0, 1):
        assert rows_of(workdir, seed) == rows_of(reference, seed)
    assert len(tiny_runs.metrics(workdir)) == len(tiny_runs.metrics(reference))
    tiny_runs.assert_same_arrays(tiny_runs.arrays(workdir), tiny_runs.arrays(reference))
    for task in (1, 2, 3):
        found = tiny_runs.models(workdir, task), tiny_runs.models(reference, task)
        tiny_runs.assert_same_arrays(*found)
    drawn = [{path.name for path in run.rglob("dreamed*.png")} for run in (workdir, reference)]
    assert drawn[0] == drawn[1]
    assert not list(workdir.rglob("damaged_*")) and not list(workdir.rglob("replaced_*"))


@pytest.mark.parametrize("name", ["abd", "lucir", "bic", "ewc"])
def test_seeds_and_then_tasks_are_added(whole, small, tmp_path, name):
    workdir = tmp_path / "run"
    shutil.copytree(small(name), workdir)
    shown = tiny_runs.run(config(name, (0, 1), 2), workdir)
    assert "adds seeds 1 to this run" in shown and "warning" not in shown
    shown = tiny_runs.run(config(name, (0, 1), 3), workdir)
    assert "adds tasks 3 to 3 to this run" in shown and "warning" not in shown
    assert_same_growth(workdir, whole(name))
