"""One run at a time in a directory, and one config for its whole life."""

import errno
import json
import os
import subprocess
import sys

import pytest

from cljax import settings as settings_lib
from cljax.errors import UserError
from cljax.output import workdir
from tests.helpers import tiny_runs


def claim(path, begin=True, **settings):
    config = settings_lib.read(tiny_runs.make_config(**settings))
    with workdir.claim(path, config):
        if begin:
            workdir.begin(path, config)


def test_writes_config(tmp_path):
    claim(tmp_path / "a" / "b", seeds=(3, 4))
    content = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert content["seeds"] == [3, 4]
    assert content["inversion"]["steps"] == 4


def test_same_config_again(tmp_path):
    claim(tmp_path)
    claim(tmp_path)


def test_other_config_is_refused_with_every_difference(tmp_path):
    claim(tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError) as error:
        claim(tmp_path, optimizer__lr=0.5, seeds=(1,), method__mu=0.2)
    message = str(error.value)
    assert "method.mu: 0.1 -> 0.2; optimizer.lr: 0.1 -> 0.5; seeds: [0] -> [1] (a run" in message
    assert "--config.overwrite=True" in message and "\n" not in message
    assert (tmp_path / "config.json").read_text() == before


def test_absent_keys_are_differences():
    assert workdir.differences({"a": {"b": 1}}, {"a": {}, "c": None}) == [
        "a.b: 1 -> absent",
        "c: absent -> None",
    ]


@pytest.mark.parametrize(
    ("block", "key", "as_before", "other"),
    [
        ("model", "pretrained", "", "a.npz"),
        ("data", "augmentation", {"crop_fill": "black"}, {"crop_fill": "mean"}),
        ("data", "augmentation", {"resized_crop": False}, {"resized_crop": True}),
    ],
)
def test_a_run_of_an_earlier_version_lacks_later_keys(block, key, as_before, other):
    before, same = {block: {"name": "x"}}, {block: {"name": "x", key: as_before}}
    assert workdir.differences(before, same) == workdir.differences(same, before) == []
    [line] = workdir.differences(before, {block: {"name": "x", key: other}})
    assert line.startswith(f"{block}.{key}")


@pytest.mark.parametrize(
    ("key", "before", "now", "is_allowed"),
    [
        ("seeds", [0, 1], [0, 1, 2], True),
        ("seeds", [0, 1], [2, 1, 0], True),
        ("seeds", [0, 1], [0], False),
        ("seeds", [0, 1], [0, 2], False),
        ("seeds", "01", [0, 1], False),  # a damaged file
        ("max_tasks", 2, 3, True),
        ("max_tasks", 2, 0, True),
        ("max_tasks", 3, 2, False),
        ("max_tasks", 0, 2, False),  # 0 are all tasks
        ("num_tasks", 5, 10, False),
    ],
)
def test_a_run_may_only_grow(key, before, now, is_allowed):
    lines = workdir.differences({key: before}, {key: now})
    if is_allowed:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"{key}: {before} -> {now}")
        assert ("(a run keeps what it has and may only get more)" in line) == (key != "num_tasks")


def test_growth_is_written_and_new_seeds_are_known(tmp_path):
    settings = settings_lib.read(tiny_runs.make_config(seeds=(0, 1)))
    assert workdir.new_seeds(tmp_path, settings) == [0, 1]
    claim(tmp_path)
    assert workdir.new_seeds(tmp_path, settings) == [1]
    claim(tmp_path, seeds=(0, 1), max_tasks=3)
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["seeds"], content["max_tasks"]) == ([0, 1], 3)
    assert workdir.new_seeds(tmp_path, settings) == []
    with pytest.raises(UserError, match=r"max_tasks: 3 -> 2 .*; seeds: \[0, 1\] -> \[0\]"):
        claim(tmp_path)


@pytest.mark.parametrize(
    ("results", "is_complete"),
    [
        (None, False),
        ({"complete": False, "seeds": [0], "tasks_total": 2}, False),
        ({"complete": True, "seeds": [0], "tasks_total": 2}, True),
        ({"complete": True, "seeds": [0], "tasks_total": 1}, False),  # a task is to be added
        ({"complete": True, "seeds": [1], "tasks_total": 2}, False),
        ({"complete": True}, False),
    ],
)
def test_a_run_is_complete_with_all_that_its_config_asks_for(tmp_path, results, is_complete):
    settings = settings_lib.read(tiny_runs.make_config())
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    assert workdir.is_complete(tmp_path, settings) is is_complete


def test_images_may_move_between_device_and_host():
    config = {"data": {"residence": "device"}}
    assert workdir.differences(config, {"data": {"residence": "stream"}}) == []
    assert workdir.differences(config, {"data": {}}) == []


def test_places_and_checkpoints_are_free(tmp_path):
    claim(tmp_path)
    claim(tmp_path, data__dir="x", data__path="y", checkpoint__keep=5, checkpoint__every_epochs=9)
    with pytest.raises(UserError, match=r"data\.per_class"):
        claim(tmp_path, data__per_class=9)


def test_nothing_changes_before_begin(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    claim(tmp_path, begin=False, overwrite=True)
    assert (tmp_path / "config.json").read_text() == "{}"
    assert (tmp_path / "checkpoints").exists()


def test_mistake_does_not_bind_the_directory(tmp_path):
    claim(tmp_path, begin=False, num_tasks=3)
    claim(tmp_path)


def test_a_refused_run_leaves_no_folder(tmp_path):
    claim(tmp_path / "a" / "b", begin=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    claim(tmp_path / "mine" / "a", begin=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_link_as_lock_is_refused_and_what_it_names_stays(tmp_path):
    notes = tmp_path / "notes"
    notes.write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(notes)
    with pytest.raises(UserError, match=r"\.lock: a lock must not be a symbolic link; remove it"):
        claim(tmp_path / "run")
    assert notes.read_text() == "x"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    claim(tmp_path)
    assert (tmp_path / "config.json").exists()
    (warning,) = caplog.messages
    assert warning.startswith(f"cannot lock {tmp_path / '.lock'}: {os.strerror(number)}; make sure")


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "plots",
        "models/3",
        "checkpoints/0/arrays/d",
        "metrics.jsonl",
        "log.txt",
        "config.json",
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_touched_through_a_link_out_of_the_workdir(tmp_path, name, overwrite):
    workdir = tmp_path / "run"
    claim(workdir)
    path, target = workdir / name, tmp_path / "mine"
    content = target if path.suffix else target / "notes"
    before = (workdir / "config.json").read_text()
    content.parent.mkdir(exist_ok=True)
    content.write_text(before)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    with pytest.raises(UserError, match=f"{path}: is a symbolic link that leads out of"):
        claim(workdir, overwrite=overwrite)
    assert content.read_text() == before


def test_the_workdir_and_files_that_are_not_the_runs_may_be_links(tmp_path):
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    claim(tmp_path / "run")
    (tmp_path / "run" / "data").symlink_to(tmp_path / "other")
    (tmp_path / "run" / "log.txt").symlink_to("notes.txt")
    claim(tmp_path / "run")
    assert (tmp_path / "disk" / "config.json").exists()


def test_overwrite_removes_a_run_and_nothing_else(tmp_path):
    claim(tmp_path)
    for name in ("checkpoints/0/arrays", "models/0", "plots", "tensorboard", "mine"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("results.json", "metrics.jsonl", "log.txt", "mine/notes", "notes"):
        (tmp_path / name).write_text("x")
    claim(tmp_path, overwrite=True, epochs=7)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lock", "config.json", "mine", "notes"}
    assert (tmp_path / "mine" / "notes").read_text() == "x"


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_directory_is_left_alone(tmp_path, overwrite):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"not a cljax workdir \(found checkpoints, thesis\.tex"):
        claim(tmp_path, overwrite=overwrite)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "thesis.tex"}


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    claim(tmp_path)
    (tmp_path / "plots").mkdir()
    for name in (".results.json.123.tmp", "plots/.loss_curves.png.9.tmp"):
        (tmp_path / name).write_text("half")
    claim(tmp_path)
    assert {p.name for p in tmp_path.rglob("*")} == {".lock", "config.json", "plots"}


def test_second_process_is_refused_while_the_first_is_at_work(tmp_path):
    code = (
        "import sys, pathlib; from cljax.output import workdir\n"
        "from tests.helpers import tiny_runs\n"
        "from cljax import settings\n"
        "config = settings.read(tiny_runs.make_config())\n"
        "with workdir.claim(pathlib.Path(sys.argv[1]), config):\n"
        "    print('at work', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tiny_runs.ROOT,
    )
    assert first.stdout.readline() == b"at work\n"
    for overwrite in (False, True):
        with pytest.raises(UserError, match="another run is using"):
            claim(tmp_path, overwrite=overwrite)
    first.kill()  # however it ends, the directory is free
    first.communicate()
    claim(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_damaged_config(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        claim(tmp_path)
    claim(tmp_path, overwrite=True)


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="Not a directory"):
            claim(path)


def test_first_task_from_itself(tmp_path):
    with pytest.raises(UserError, match="the --workdir itself"):
        claim(tmp_path / "run", first_task_from=str(tmp_path / "x" / ".." / "run"))


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"caf\\udce9: the path is not UTF-8"):
        claim(tmp_path / "caf\udce9")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_is_refused(tmp_path):
    for command in (
        claim,
        lambda path: workdir.check(path, settings_lib.read(tiny_runs.make_config())),
    ):
        with pytest.raises(UserError, match=r"cannot read .*: File name too long"):
            command(tmp_path / ("x" * 5000))
