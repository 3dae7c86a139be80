"""What is read of runs, in which order, and what is marked."""

import json

import pytest

from cljax.errors import UserError
from cljax.report import runs as runs_lib
from tests.helpers.fake_runs import write_run

THREE = (0, 1, 2)


def marks(workdir):
    (run,) = runs_lib.collect([workdir])
    return [str(mark) for mark in run.marks]


def test_a_run_of_the_published_setting_has_its_figure_and_no_mark(tmp_path):
    write_run(tmp_path / "run", "abd_cifar100", seeds=THREE, num_tasks=10)
    (run,) = runs_lib.collect([tmp_path / "run"])
    assert run.published == (33.7, 1.2) and run.marks == ()
    assert run.name == "ABD" and run.group == ("cifar100", 10, "10 tasks")


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("abd_cifar100", {}, ["1 seed"]),
        ("abd_cifar100", {"seeds": (0, 4)}, ["2 seeds"]),
        (
            "abd_cifar100",
            {"seeds": THREE, "inversion__steps": 500, "optimizer__lr": 0.2},
            ["shortened: optimizer.lr 0.2 instead of 0.1; inversion.steps 500 instead of 10000"],
        ),
        (
            "lwf_cifar100",
            {"seeds": THREE, "method__mu": 2.0},
            ["changed: method.mu 2 instead of 1"],
        ),
        (
            "lwf_cifar100",
            {"seeds": THREE, "schedule_scale": 0.1, "done": 3},
            ["3 of 5 tasks", "shortened: schedule_scale 0.1 instead of 1"],
        ),
        (
            "lwf_cifar100",
            {"seeds": THREE, "max_tasks": 2},
            ["shortened: max_tasks 2 instead of all"],
        ),
        ("lwf_cifar100", {"done": -1}, ["no task finished", "1 seed"]),
        ("lwf_cifar100", {"done": 0, "seeds": THREE}, ["no task finished"]),
        ("lwf_digits", {}, []),
        ("lwf_digits", {"epochs": 1, "optimizer__lr": 0.2}, []),
        ("lwf_digits", {"done": 1}, ["1 of 5 tasks"]),
        ("lwf_cifar10", {"data__validation": True}, ["changed: data.validation True instead of "]),
    ],
)
def test_marks(tmp_path, name, settings, expected):
    write_run(tmp_path / "run", name, **settings)
    found = marks(tmp_path / "run")
    assert len(found) == len(expected)
    assert all(map(str.startswith, found, expected)), found


def test_a_directory_of_runs_stands_for_them_in_the_order_of_the_paper(tmp_path):
    write_run(tmp_path / "mc", "lwf_mc_cifar100", done=-1, num_tasks=10)
    for name in ("abd_digits", "abd_cifar100", "lwf_cifar100", "base_cifar100"):
        write_run(tmp_path / name, name)
    (tmp_path / "notes").mkdir()
    runs = runs_lib.collect([tmp_path, tmp_path / "mc"])
    assert [(run.workdir.name, run.split) for run in runs] == [
        ("base_cifar100", "5 tasks"),
        ("lwf_cifar100", "5 tasks"),
        ("abd_cifar100", "5 tasks"),
        ("mc", "10 tasks"),
        ("abd_digits", "5 tasks"),
    ]


def test_learners_with_exemplars_come_after_those_without(tmp_path):
    for name, total in [("base", 2000), ("abd", 0), ("lwf", 2000), ("base", 0)]:
        workdir = tmp_path / f"{name}{total}"
        write_run(workdir, f"{name}_cifar100", seeds=THREE)
        config = json.loads((workdir / "config.json").read_text())
        config["exemplars"] = {"total": total}
        (workdir / "config.json").write_text(json.dumps(config))
    runs = runs_lib.collect([tmp_path])
    found = [(run.name, run.exemplars, run.published.mean) for run in runs]
    assert found == [
        ("Base", 0, 16.4),
        ("ABD", 0, 43.9),
        ("Naive rehearsal", 2000, 34.0),
        ("LwF", 2000, 39.4),
    ]


def test_runs_of_one_learner_are_told_apart_by_their_directories(tmp_path):
    for name in ("a/one", "a/two", "b/two"):
        write_run(tmp_path / name, "lwf_digits")
    write_run(tmp_path / "a/other", "lwf_digits", num_tasks=2)
    runs = runs_lib.collect([tmp_path / "a", tmp_path / "b"])
    names = ["LwF", "LwF (one)", f"LwF ({tmp_path / 'a/two'})", f"LwF ({tmp_path / 'b/two'})"]
    assert [run.name for run in runs] == names


def test_uneven_tasks_are_a_split_of_their_own_without_a_figure(tmp_path):
    write_run(tmp_path / "run", "abd_cifar100", first_task_size=60)
    (run,) = runs_lib.collect([tmp_path / "run"])
    assert (run.split, run.published) == ("5 tasks, the first of 60 classes", None)


def spoil(change, name="results.json"):
    """Changes a file of a run by a function, or by new values."""

    def apply(workdir):
        path = workdir / name
        content = json.loads(path.read_text())
        if callable(change):
            change(content)
        else:
            content |= change
        path.write_text(json.dumps(content))

    return apply


def test_results_of_the_older_format_are_read(tmp_path):
    write_run(tmp_path / "run", "abd_digits")
    (new,) = runs_lib.collect([tmp_path / "run"])
    spoil(lambda r: r.update(format=1))(tmp_path / "run")
    (old,) = runs_lib.collect([tmp_path / "run"])
    assert old.final_accuracy == new.final_accuracy and old.marks == new.marks


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: (w / "config.json").unlink(), r"run: neither .* workdirs \(no config\.json\)"),
        (lambda w: (w / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda w: (w / "config.json").write_text("{}"), r"config\.json: damaged.*'method'"),
        (lambda w: (w / "results.json").write_text(""), r"results\.json: not valid JSON"),
        (lambda w: (w / "results.json").write_text("[]"), r"results\.json: not a JSON object"),
        (spoil(lambda r: r.pop("forgetting")), r"results\.json: damaged.*no 'forgetting'"),
        (spoil(lambda r: r.update(format=99)), r"results\.json: .* format 99 instead of 2"),
        (spoil(lambda r: r.update(seconds=None)), r"results\.json: damaged"),
        (spoil(lambda r: r["seen_accuracy"].pop()), r"results\.json: .*seen_accuracy"),
        (spoil(lambda r: r["seen_accuracy"][0].__setitem__(0, None)), r"seen_accuracy"),
        (spoil(lambda r: r["task_sizes"].pop()), r"results\.json: .*sizes of 4"),
        (lambda w: (w / "config.json").write_text("[" * 100_000), r"config\.json: .*too deeply"),
        (lambda w: (w / "results.json").write_text('{"a": NaN}'), r"results\.json: .*NaN is not"),
        (spoil(lambda r: r.update(dataset=None)), r"results\.json: damaged.*dataset: "),
        (spoil(lambda r: r["forgetting"].update(mean="x")), r"damaged.*forgetting\.mean: "),
        (spoil(lambda r: r["seconds"].update(total=-1)), r"damaged.*seconds\.total: "),
        (spoil(lambda r: r.update(versions=[])), r"damaged.*versions: "),
        (spoil({"seeds": []}, "config.json"), r"config\.json: damaged.*seeds: "),
        (spoil({"num_tasks": "5"}, "config.json"), r"config\.json: damaged.*num_tasks: "),
        (spoil({"exemplars": {"per_class": "x"}}, "config.json"), r"exemplars\.per_class: "),
        (spoil({"method": "lwf"}, "config.json"), r"config\.json: damaged.*method: "),
    ],
)
def test_a_damaged_run_is_named_in_one_line(tmp_path, damage, message):
    write_run(tmp_path / "good", "abd_digits")
    write_run(tmp_path / "run", "lwf_digits")
    damage(tmp_path / "run")
    with pytest.raises(UserError, match=message) as caught:
        runs_lib.collect([tmp_path / "good", tmp_path / "run"])
    assert "\n" not in str(caught.value)
