"""A workdir that gets more seeds or tasks has what all of them from the start would have given."""

import shutil
import signal

import pytest

from cljax import experiment
from cljax.errors import UserError
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow


def config(name, seeds, tasks, **settings):
    settings = {"epochs": 1, "milestones": ()} | settings
    return tiny_runs.make_config(name, seeds=seeds, max_tasks=tasks, **settings)


@pytest.fixture(scope="module")
def whole(fast_runs, tmp_path_factory):
    """A function from a method to the workdir of two seeds and three tasks at once."""
    return tiny_runs.on_demand(lambda name: config(name, (0, 1), 3), tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def small(fast_runs, tmp_path_factory):
    """A function from a method to the workdir of seed 0 and two tasks; not to be changed."""
    return tiny_runs.on_demand(lambda name: config(name, (0,), 2), tmp_path_factory.mktemp)


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


def test_seeds_and_tasks_are_added_to_a_run_that_was_stopped(whole, interrupt, tmp_path):
    interrupt(signal.SIGTERM, 1, 1)  # within the second task
    with pytest.raises(experiment.Stopped):
        tiny_runs.run(config("bic", (0,), 2), tmp_path)
    assert len(tiny_runs.metrics(tmp_path)) == 1
    for epoch in (0, 1, 0):  # where the new seed is, the last time within the second task as well
        interrupt(signal.SIGTERM, epoch, 1)
        with pytest.raises(experiment.Stopped):
            tiny_runs.run(config("bic", (0, 1), 3), tmp_path)
        results = tiny_runs.results(tmp_path)
        assert results["seeds"] == [0, 1] and not results["complete"]
    assert {row["seed"] for row in tiny_runs.metrics(tmp_path)[1:]} == {1}
    assert "resuming" in tiny_runs.run(config("bic", (0, 1), 3), tmp_path)
    assert_same_growth(tmp_path, whole("bic"))


KILLS = [
    ("epoch", 2),  # in the inversion of the new seed
    ("os.mkdir:models/1.orbax", 1),  # the model of both seeds takes the place of that of one
    ("os.rename:.results.json", 1),  # between model and results
    ("os.mkdir:models/3.orbax", 1),  # both seeds have done the new task
]


def test_killed_while_it_grows(whole, small, compiled, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(small("abd"), workdir)
    settings = {"epochs": 1, "milestones": "()", "seeds": "(0,1)", "max_tasks": 3}
    flags = tiny_runs.arguments(workdir, "abd", **settings)
    for moment, count in KILLS:
        fault = ("kill", moment, str(count))
        status, _, err = tiny_runs.command(*flags, cache=compiled, fault=fault)
        assert (status, err) == (-signal.SIGKILL, ""), moment
    status, _, err = tiny_runs.command(*flags, cache=compiled)
    assert (status, err) == (0, "")
    assert_same_growth(workdir, whole("abd"))


def test_a_seed_is_named_before_others(whole, small, tmp_path):
    """Lists over seeds follow config.seeds; a seed that was there need not be the first."""
    workdir = tmp_path / "run"
    shutil.copytree(small("bic"), workdir)
    tiny_runs.run(config("bic", (1, 0), 3), workdir)
    found, expected = tiny_runs.results(workdir), tiny_runs.results(whole("bic"))
    assert found["seeds"] == [1, 0]
    for key in ("accuracy", "accuracy_within_task", "class_orders", "seen_accuracy"):
        assert found[key] == expected[key][::-1]
    tiny_runs.assert_same_arrays(tiny_runs.arrays(workdir), tiny_runs.arrays(whole("bic")))


@pytest.mark.parametrize(
    ("seeds", "tasks", "words"),
    [
        ((1,), 2, r"seeds: \[0\] -> \[1\] \(a run keeps what it has and may only get more\)"),
        ((0, 1), 1, r"max_tasks: 2 -> 1 \(a run keeps what it has"),
    ],
)
def test_fewer_are_refused(small, seeds, tasks, words):
    before = {path: path.read_bytes() for path in small("bic").glob("*.json*")}
    with pytest.raises(UserError, match=f"holds a run with other settings .*{words}") as error:
        tiny_runs.run(config("bic", seeds, tasks), small("bic"))
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in small("bic").glob("*.json*")} == before


def test_a_new_seed_needs_what_its_first_task_is_taken_from(small, tmp_path):
    """Refused before anything is written; with more seeds there, it goes on."""
    first, workdir = tmp_path / "first", tmp_path / "run"
    shutil.copytree(small("bic"), first)
    taken = {"first_task_from": str(first)}
    tiny_runs.run(config("bic", (0,), 2, **taken), workdir)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"it has the seeds \[0\], not 1"):
        tiny_runs.run(config("bic", (0, 1), 2, **taken), workdir)
    assert (workdir / "config.json").read_bytes() == before
    tiny_runs.run(config("bic", (0, 1), 2), first)
    tiny_runs.run(config("bic", (0, 1), 2, **taken), workdir)
    assert tiny_runs.results(workdir)["accuracy"] == tiny_runs.results(first)["accuracy"]
