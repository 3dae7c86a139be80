"""A grid of settings by one command: its points, their programs, its table and its best point."""

import io
import json
import signal

import pytest
from rich.console import Console

from cljax import build, experiment, problem
from cljax.errors import UserError
from cljax.output import plots
from cljax.plans import grid
from cljax.report import grid as report
from cljax.report.published import MeanStd
from tests.helpers import tiny_runs

WEIGHTS = {"method.mu": (0.5, 1.0, 2.0)}


def make_config(*grids, **settings):
    """Two tasks of LwF, an epoch each, judged on validation images."""
    common = {"epochs": 1, "milestones": (), "max_tasks": 2, "data__validation": True}
    config = tiny_runs.make_config("lwf", **common | settings)
    config.grid = grids
    return config


def run(config, directory):
    console = Console(file=io.StringIO(), width=120)
    grid.run(config, directory, console)
    return console.file.getvalue()


def record(patch):
    """A list that gets every executor that is made."""
    made, make = [], build.make_executor
    patch.setattr(build, "make_executor", lambda given: made.append(make(given)) or made[-1])
    return made


@pytest.fixture(scope="module", autouse=True)
def no_plots(compiled):
    """Unlike those of `fast_runs`, executors are each test's own, so that programs are counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_plots", lambda *args: [])
        yield


@pytest.fixture(scope="module")
def whole(no_plots, tmp_path_factory):
    """A grid over three loss weights: its directory, what it printed, and its executors."""
    directory = tmp_path_factory.mktemp("grid") / "grid"
    with pytest.MonkeyPatch.context() as patch:
        made = record(patch)
        problem._compiled_init().clear_cache()
        shown = run(make_config(WEIGHTS), directory)
        return directory, shown, made, problem._compiled_init()._cache_size()


@pytest.mark.slow
def test_other_loss_weights_compile_nothing(whole, tmp_path, monkeypatch):
    directory, _, executors, inits = whole
    (executor,) = executors
    assert inits == 1 and len(list(directory.glob("mu=*/results.json"))) == 3
    alone = record(monkeypatch)
    tiny_runs.run(make_config(method__mu=1.0), tmp_path / "alone")
    assert executor.num_compilations() == alone[0].num_compilations()
    tiny_runs.assert_same_run(directory / "mu=1.0", tmp_path / "alone")


@pytest.mark.slow
def test_a_stopped_grid_goes_on_to_the_same_bits(whole, interrupt, tmp_path):
    reference, config = whole[0], make_config(WEIGHTS)
    interrupt(signal.SIGTERM, 3, 0)  # in the second task of the second point
    with pytest.raises(experiment.Stopped):
        run(config, tmp_path / "grid")
    assert not (tmp_path / "grid" / "mu=2.0").exists()
    shown = run(config, tmp_path / "grid")
    assert shown.count("already complete, skipped") == 1
    for name in ("mu=0.5", "mu=1.0", "mu=2.0"):
        tiny_runs.assert_same_run(tmp_path / "grid" / name, reference / name)


@pytest.mark.slow
def test_points_train_together_where_seeds_do(round_as_users_do, interrupt, tmp_path, monkeypatch):
    """In one program, to the bits of each alone; also after a stop, with more points and seeds."""
    made = record(monkeypatch)
    few, together = {"method.mu": (0.5, 2.0)}, {"execution__seeds": "interleaved"}
    interrupt(signal.SIGTERM, 1, 1)  # within the second task
    with pytest.raises(experiment.Stopped):
        run(make_config(few, **together), tmp_path / "grid")
    assert len(list((tmp_path / "grid").glob("mu=*/results.json"))) == 2
    more = make_config({"method.mu": (0.5, 1.0, 2.0)}, seeds=(0, 1), **together)
    shown = run(more, tmp_path / "grid")
    assert "training together: mu=0.5, mu=1.0, mu=2.0" in shown
    assert "mu=0.5: adds seeds 1 to this run" in shown
    assert len(made) == 2  # one a start
    for mu in (0.5, 1.0, 2.0):
        point, alone = tmp_path / "grid" / f"mu={mu}", tmp_path / f"alone{mu}"
        tiny_runs.run(make_config(method__mu=mu, seeds=(0, 1)), alone)
        assert tiny_runs.results(point) == tiny_runs.results(alone)
        tiny_runs.assert_same_arrays(tiny_runs.arrays(point), tiny_runs.arrays(alone))
        rows = [sorted(tiny_runs.metrics(w), key=lambda row: row["seed"]) for w in (point, alone)]
        assert rows[0] == rows[1] and len(rows[0]) == 4


@pytest.mark.slow
def test_points_are_an_axis_of_vmap(whole, tmp_path, monkeypatch):
    made = record(monkeypatch)
    shown = run(make_config(WEIGHTS, execution__seeds="vmap"), tmp_path / "grid")
    assert "training together: mu=0.5, mu=1.0, mu=2.0" in shown
    (executor,) = made
    alone = whole[2][0].num_compilations()
    assert executor.num_compilations() == alone
    for name in ("mu=0.5", "mu=1.0", "mu=2.0"):
        tiny_runs.assert_near_run(tmp_path / "grid" / name, whole[0] / name)


@pytest.mark.slow
def test_a_point_that_fails_leaves_the_others(tmp_path):
    rates = {"optimizer.lr": (0.1, 1e30)}
    with pytest.raises(UserError) as error:
        run(make_config(rates, execution__seeds="vmap"), tmp_path / "grid")
    assert "1 of 2 runs failed" in str(error.value)
    assert "lr=1e+30: the loss is not finite in task 1" in str(error.value)
    assert tiny_runs.results(tmp_path / "grid" / "lr=0.1")["complete"]


@pytest.mark.slow
def test_a_size_is_another_program(monkeypatch, tmp_path):
    made = record(monkeypatch)
    values = {"optimizer.lr": (0.1, 0.2), "model.width": (4, 8)}
    run(make_config(values, max_tasks=1), tmp_path / "grid")
    assert len(made) == 2
    places = sorted((tmp_path / "grid").glob("*/results.json"), key=lambda p: p.stat().st_mtime_ns)
    rates_vary_fastest = [f"lr={lr},width={width}" for width in (4, 8) for lr in (0.1, 0.2)]
    assert [path.parent.name for path in places] == rates_vary_fastest


@pytest.mark.slow
def test_the_best_point_is_chosen_by_validation_accuracy(whole):
    directory, shown, *_ = whole
    points = report._read(directory)
    assert [point.values for point in points] == [{"method.mu": mu} for mu in (0.5, 1.0, 2.0)]
    best, verdict = report.choose(points)
    assert best is max(points, key=lambda p: p.run.average_incremental_accuracy.mean)
    assert verdict.startswith(
        "Best on validation images, by average incremental accuracy over the "
    )
    assert f"the first 2 of 5 tasks: {best.name} (" in verdict
    text = (directory / "grid.md").read_text()
    assert verdict in text and text.count("| best |") == 1 and shown.count(" best") == 1
    assert (directory / "grid.png").read_bytes().startswith(b"\x89PNG")


def point(values, score, validates=True, std=1.0):
    """A point of a fake grid of two seeds; without a score its run is not complete."""
    record = report.RunRecord(
        workdir=None,
        name="LwF",
        method="lwf",
        exemplars=0,
        dataset="digits",
        num_tasks=2,
        split="2 tasks",
        seeds=(0, 1),
        published=None,
        marks=(),
        tasks_done=2,
        tasks_total=2,
        average_incremental_accuracy=None if score is None else MeanStd(score, std),
    )
    return report.Point(grid._name(values), values, record, validates)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([point({"a": 1}, 50.0), point({"a": 2}, None)], "No best point yet: 1 of 2 are not"),
        ([point({"a": 1}, 50.0), point({"a": 2}, 60.0, False)], "accuracies of test images"),
        ([point({"a": 1}, 50.0), point({"a": 2}, 60.0)], "over all 2 tasks: a=2 (60.0 ± 1.0 %)"),
        ([point({"a": i}, 50.0) for i in range(3)], "a=0 (50.0 ± 1.0 %); a=1, a=2 equal it"),
    ],
)
def test_what_is_said_of_the_best_point(points, words):
    best, verdict = report.choose(points)
    assert words in verdict
    assert (best is None) == verdict.startswith("No best point")


@pytest.mark.parametrize(
    "values",
    [
        [{"a": a} for a in (1, 2, 3)],
        [{"a": a, "b": b} for a in (1, 2) for b in ("x", "$y_1$")],
        [{"a": a, "b": b, "c": True} for a in (1, 2) for b in ("x", "y")],
        [{"a": 1, "b": 2}, {"a": 2}],
    ],
)
def test_pictures(values):
    """Whatever the keys and however far the grid is."""
    points = [point(chosen, 50.0 + n) for n, chosen in enumerate(values)]
    assert report.draw(points).startswith(b"\x89PNG")
    assert report.draw([points[0], *(point(p.values, None) for p in points[1:])])


def test_points_are_all_combinations_of_each_mapping():
    config = make_config(
        {"optimizer.lr": (0.1, 0.2), "model.name": ("resnet8", "resnet14")}, {"method.mu": (3.0,)}
    )
    points = grid.make_points(config)
    assert [name for name, *_ in points] == [
        "lr=0.1,name=resnet8",
        "lr=0.2,name=resnet8",
        "lr=0.1,name=resnet14",
        "lr=0.2,name=resnet14",
        "mu=3.0",
    ]
    _, values, made = points[3]
    assert values == {"optimizer.lr": 0.2, "model.name": "resnet14"}
    assert (made.optimizer.lr, made.model.name, made.grid) == (0.2, "resnet14", ())
    assert points[4][2].method.mu == 3.0 and points[4][2].optimizer.lr == config.optimizer.lr


def test_names_tell_points_apart():
    same_ends = {"inversion.lr": (0.1,), "optimizer.lr": (0.2,)}
    odd = {"model.name": ("a/b c", "a b/c"), "optimizer.lr": (0.1,)}
    config = tiny_runs.make_config("abd")
    config.grid = (same_ends, odd, {"model.name": ("x" * 300,)})
    names = [name for name, *_ in grid.make_points(config)]
    assert names == [
        "inversion.lr=0.1,optimizer.lr=0.2",
        "name=a-b-c,lr=0.1",
        "point3",
        "point4",
    ]


MISTAKES = {
    "unknown": ({"method.muu": (1.0,)}, "the config has no setting 'method.muu'; did you mean met"),
    "a block": ({"method": (1.0,)}, "the config has no setting 'method'"),
    "not values": ({"method.mu": 1.0}, "method.mu=1.0: must be a tuple of values"),
    "no values": ({"method.mu": ()}, "method.mu=(): must be a tuple of values"),
    "type": ({"method.mu": ("much",)}, "method.mu='much': "),
    "bounds": ({"method.mu": (1.0, -1.0)}, "config.method.mu=-1.0: must be a finite number from 0"),
    "seeds": ({"seeds": ((0,), (1,))}, "seeds is the same for all points; set --config.seeds"),
    "tasks": ({"num_tasks": (2, 5)}, "num_tasks is the same for all points"),
    "display": ({"overwrite": (True, False)}, "overwrite is the same for all points"),
    "twice": ({"method.mu": (1.0, 1.0)}, "has the point mu=1.0 twice; name it once"),
    "a grid": ({"grid": ((), ())}, "the config has no setting 'grid'"),
    "empty": ({}, "config.grid={}: must be a dictionary of keys and their values, such as"),
}


@pytest.mark.parametrize(("values", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_show_before_anything_runs(tmp_path, values, message):
    with pytest.raises(UserError) as error:
        run(make_config(values), tmp_path / "grid")
    assert message in str(error.value)
    assert not (tmp_path / "grid").exists()


def test_a_grid_needs_a_directory_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is the workdir of a run; a grid needs another --workdir"):
        run(make_config(WEIGHTS), tmp_path)


def test_a_single_run_refuses_a_grid(tmp_path):
    with pytest.raises(UserError, match=r"config\.grid: is for many runs, and this is one"):
        experiment.run(make_config(WEIGHTS), tmp_path / "run")


@pytest.mark.parametrize(
    "plan", [{"points": []}, {"points": [{"name": "../x", "values": {}}]}, {"points": 3}]
)
def test_a_damaged_plan_is_one_line(tmp_path, plan):
    (tmp_path / report.PLAN).write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"grid.json: damaged: "):
        report.write(tmp_path, tmp_path, Console(file=io.StringIO()))


@pytest.mark.slow
def test_the_command_line_lists_the_points(tmp_path):
    flags = "--config.grid={'method.mu': (0.5, 2.0), 'model.width': (4, 8)}"
    arguments = tiny_runs.arguments(tmp_path / "grid", "lwf")
    status, out, err = tiny_runs.command(*arguments, flags, "--dry_run")
    assert (status, err) == (0, "")
    for name in ("mu=0.5,width=4", "mu=2.0,width=4", "mu=0.5,width=8", "mu=2.0,width=8"):
        assert name in out
    assert "4 runs; programs are compiled 2 times." in out
    assert not (tmp_path / "grid").exists()
    wrong = "--config.grid={'method.mu': (0.5, 2.0)"
    status, _, err = tiny_runs.command(*arguments, wrong, "--dry_run")
    tiny_runs.assert_one_line(status, err, "config.grid")
