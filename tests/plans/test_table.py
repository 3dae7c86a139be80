"""A table of runs by one command: what it runs, skips, resumes and survives."""

import io
import json

import pytest
from rich.console import Console

from cljax import experiment
from cljax.errors import UserError
from cljax.plans import table
from configs import common, table_datafree_cifar100
from tests.helpers import tiny_runs

TINY = {
    "seeds": (0,),
    "model.width": 4,
    "epochs": 1,
    "milestones": (),
    "batch_size": 4,
    "max_tasks": 2,
    "data.per_class": 10,
}


def make_config(*learners, splits=(5,), **settings):
    config = common.table("digits", common.LEARNERS, splits)
    config.learners = learners
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    config.update_from_flattened_dict(TINY | settings)
    return config


def run(config, directory):
    """What the console showed."""
    console = Console(file=io.StringIO(), width=200)
    table.run(config, directory, console)
    return console.file.getvalue()


def test_a_plan_is_every_learner_in_every_split():
    config = make_config("oracle", "base", "bic", splits=(5, 2))
    config.runs.bic.exemplars.total = 77
    plan = dict(table.make_plan(config))
    assert list(plan) == ["oracle_5tasks", "base_5tasks", "bic_5tasks", "base_2tasks", "bic_2tasks"]
    bic = plan["bic_2tasks"]
    assert (bic.num_tasks, bic.epochs, bic.method.name) == (2, 1, "bic")
    assert bic.exemplars.total == 77 and bic.data.per_class == 10
    assert bic.optimizer.momentum == 0.9, "what the table leaves open stays"


def test_abd_and_rdfcil_meet_on_both_grounds():
    """On one ground they differ by the method alone, and in a later task train as long."""
    plan = dict(table.make_plan(table_datafree_cifar100.get_config()))
    assert len(plan) == 12

    def ground(name):
        settings = plan[f"{name}_10tasks"].to_dict()
        epochs = settings.pop("epochs") + settings.pop("method").get("finetuning_epochs", 0)
        return settings | {"epochs": epochs}

    assert ground("abd") == ground("rdfcil_on_abd")
    assert ground("rdfcil") == ground("abd_on_rdfcil")
    different = {key for key, value in ground("abd").items() if value != ground("rdfcil").get(key)}
    assert different == {"data", "epochs", "inversion", "milestones", "model", "optimizer"}
    assert plan["abd_on_rdfcil_5tasks"].method == plan["abd_5tasks"].method


@pytest.mark.parametrize("data", ["cifar100", "cifar10", "digits"])
def test_without_settings_of_its_own_a_table_runs_the_learners_configs(data):
    config = common.table(data, common.LEARNERS, (5,))
    config.seeds = (0,)
    for name, planned in table.make_plan(config):
        learner = name.removesuffix("_5tasks")
        assert planned.to_json() == config.runs[learner].to_json()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learners": ("base", "icarl")}, ["config.learners", "'icarl'", "rehearsal"]),
        ({"learners": ()}, ["config.learners", "config.splits"]),
        ({"splits": ()}, ["config.learners", "config.splits"]),
        ({"epochs": 0}, ["config.epochs=0: must be a whole number"]),
    ],
)
def test_mistakes_show_before_anything_runs(tmp_path, settings, words):
    config = make_config("base")
    config.update(settings)
    with pytest.raises(UserError) as error:
        table.run(config, tmp_path / "table")
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "table").exists()


@pytest.mark.slow
def test_complete_runs_are_skipped_and_others_resumed(fast_runs, monkeypatch, tmp_path):
    config = make_config("base", "lwf")
    begun = []
    go = experiment.run_first

    def stop_in_the_second(runs, *others):
        begun.extend(directory.name for _, directory in runs)
        if len(begun) == 2:
            raise experiment.Stopped(15)
        return go(runs, *others)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_first", stop_in_the_second)
        with pytest.raises(experiment.Stopped):
            run(config, tmp_path)
        assert begun == ["base_5tasks", "lwf_5tasks"]
        shown = run(config, tmp_path)
    assert begun == ["base_5tasks", "lwf_5tasks", "lwf_5tasks"]
    assert "base_5tasks: already complete, skipped" in shown
    for name in ("report.md", "report.csv", "report.html"):
        assert (tmp_path / name).stat().st_size > 100
    report = (tmp_path / "report.md").read_text()
    assert "Base" in report and "LwF" in report and "shortened" in report
    with pytest.raises(UserError, match="other settings"):
        run(make_config("base", "lwf", epochs=2), tmp_path)


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_table(fast_runs, monkeypatch, tmp_path):
    config = make_config("rehearsal", "base")
    config.runs.rehearsal.eval.top_k = 11  # more than the classes, which only the data tell
    with pytest.raises(UserError) as error:
        run(config, tmp_path)
    assert "1 of 2 runs failed" in str(error.value)
    assert "rehearsal_5tasks: config.eval.top_k" in str(error.value)
    assert tiny_runs.results(tmp_path / "base_5tasks")["complete"]
    assert "Base" in (tmp_path / "report.md").read_text()

    def break_down(*args):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(experiment, "run_first", break_down)
    with pytest.raises(UserError, match="lwf_5tasks: RuntimeError: RESOURCE_EXHAUSTED"):
        run(make_config("lwf", "base"), tmp_path)


def check_results(directory, task_sizes):
    results = json.loads((directory / "results.json").read_text())
    assert results["complete"] and results["task_sizes"] == task_sizes
    assert 0 < results["final_accuracy"]["mean"] <= 100
    assert {row["task"] for row in tiny_runs.metrics(directory)} == {1, 2}


@pytest.mark.slow
@pytest.mark.real_data
def test_learners_of_each_kind_on_real_cifar100(tmp_path, tfds_dir, compiled):
    """The whole program's smoke test: two tasks, a few steps each, as a user calls it.

    Each learner by itself runs in runs/test_resume_learners.
    """
    learners = ("base", "abd", "dgr", "bic")
    settings = {
        "learners": learners,
        "seeds": "(0,)",
        "splits": "(20,)",
        "max_tasks": 2,
        "model.name": "resnet8",
        "data.dir": tfds_dir,
        "data.per_class": 16,
        "epochs": 1,
        "milestones": "()",
        "batch_size": 8,
        "runs.abd.inversion.steps": 3,
        "runs.dgr.autoencoder.channels": "(8,8,8)",
        "runs.dgr.autoencoder.latents": 16,
        "runs.bic.exemplars.total": 80,
    }
    process = tiny_runs.start(
        "--config=configs/table_cifar100.py",
        f"--workdir={tmp_path}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
        cwd=tiny_runs.ROOT,
    )
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert out.count("shortened") >= len(learners)
    for name in learners:
        check_results(tmp_path / f"{name}_20tasks", [5, 5])
