"""What --dry_run checks and prints, and that it changes nothing."""

import io
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from rich.console import Console

from cljax import cli, dry_run
from cljax.errors import UserError
from cljax.settings import config_files
from tests.helpers import tiny_runs

# Not drawn: what names files or data that a test machine need not have.
PLACES = ("data.name", "data.dir", "data.path", "data.url", "first_task_from", "compilation_cache")
CONFIG = config_files.load("abd_digits")
CONFIG.update_from_flattened_dict(tiny_runs.TINY | tiny_runs.TINY_INVERSION)
KEYS = [
    key
    for key in cli.list_keys(CONFIG)
    if key not in PLACES and not isinstance(CONFIG[key], ConfigDict)
]


def run(config, directory) -> str:
    console = Console(file=io.StringIO(), width=200)
    dry_run.run(config, directory, console)
    return console.file.getvalue()


def stages(text: str) -> list[list[str]]:
    """Task, stage, epochs and steps of the printed rows of stages."""
    rows = [line.split("│") for line in text.splitlines() if line.count("│") == 6]
    return [[cell.strip() for cell in row[1:5]] for row in rows]


def test_the_plan_is_what_the_run_does(reference, tmp_path):
    text = run(tiny_runs.make_config(), tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    rows = tiny_runs.metrics(reference)
    epochs = Counter((str(row["task"]), row["stage"]) for row in rows)
    printed = stages(text)
    assert {(task, stage): int(number) for task, stage, number, _ in printed} == epochs
    assert [steps for *_, steps in printed] == ["4", "4", "4"]
    order = tiny_runs.results(reference)["class_orders"][0]
    for task in (0, 1):
        first, second = order[2 * task : 2 * task + 2]
        assert f"│ {task + 1}    │ {first}, {second}    │ 20 " in text
    assert "Nothing was written." in text


def test_a_runs_workdir_is_as_it_was(reference, tmp_path):
    workdir = shutil.copytree(reference, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    run(tiny_runs.make_config(overwrite=True), workdir)
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.1 -> 0\.5"):
        run(tiny_runs.make_config(optimizer__lr=0.5), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_disk_and_permission_are_checked(tmp_path, monkeypatch):
    config = tiny_runs.make_config()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs \d\.\d MB of disk, but only 0\.0 MB are free"):
        run(config, tmp_path / "run")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=f"no permission to write in {tmp_path}"):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_command_with_a_table(tmp_path):
    args = ["--config=table_digits", "--config.learners=('base','lwf')", "--config.seeds=(0,)"]
    status, out, err = tiny_runs.command(*args, "--dry_run", f"--workdir={tmp_path / 'table'}")
    assert (status, err) == (0, "")
    assert "base_5tasks" in out and "lwf_5tasks" in out
    assert len(stages(out)) == 10
    status, out, err = tiny_runs.command(*args, "--dry_run", "--config.batch_size=4000")
    tiny_runs.assert_one_line(status, err, "config.batch_size=4000", "only 284 training images")
    assert list(tmp_path.iterdir()) == []


def plausible(key: str):
    """A key with a value of its own type, valid or not."""
    words = ["auto", "vmap", "bfloat16", "herding", "random", "all", "none", "resnet14", "lwf"]
    kinds = {
        bool: st.booleans(),
        int: st.integers(-1, 40),
        float: st.floats(-0.5, 2),
        str: st.sampled_from(words),
        tuple: st.lists(st.integers(0, 6) | st.sampled_from(["nme"]), max_size=3).map(tuple),
    }
    return st.tuples(st.just(key), kinds[type(CONFIG[key])])


@pytest.mark.slow
@given(st.lists(st.sampled_from(KEYS).flatmap(plausible), min_size=1, max_size=2))
@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
def test_every_config_has_a_plan_or_a_line_for_each_mistake(compiled, tmp_path, changes):
    config = CONFIG.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(changes))
    try:
        text = run(config, tmp_path / "run")
    except UserError as error:
        assert error.args
        for line in error.args:
            assert "config." in line and "\n" not in line and len(line) < 600, line
    else:
        assert "Nothing was written." in text
    assert list(tmp_path.iterdir()) == []
