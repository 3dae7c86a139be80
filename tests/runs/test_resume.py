"""However a run ends, the same command goes on to the same bits."""

import os
import shutil
import signal

import pytest

from cljax import experiment, files, training
from cljax.compute import device
from cljax.errors import UserError
from cljax.output import logs, plots
from cljax.output.checkpoints import Checkpoints
from tests.helpers import tiny_runs
from tests.helpers.faults import flip_bit, remove, truncate

write_plots = plots.write_plots  # `fast_runs` draws none
# TensorStore complains once more, from a thread of its own, of a file that it could not read.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize(
    ("number", "epoch", "step"),
    [
        (signal.SIGTERM, 0, 0),  # before the first step
        (signal.SIGINT, 1, 1),
        (signal.SIGHUP, 1, 0),
        (signal.SIGTERM, 3, 1),  # within the inversion
        (signal.SIGINT, 4, 0),  # in the second task, before its first step
    ],
)
def test_signal_saves_and_run_goes_on(
    fast_runs, interrupt, reference, tmp_path, number, epoch, step
):
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_DFL)  # as without nohup
    handler = signal.getsignal(number)
    interrupt(number, epoch, step)
    with pytest.raises(experiment.Stopped) as stopped:
        tiny_runs.run(tiny_runs.make_config(), tmp_path)
    assert stopped.value.number == number
    assert signal.getsignal(number) == handler
    assert len(tiny_runs.metrics(tmp_path)) == epoch
    shown = tiny_runs.run(tiny_runs.make_config(), tmp_path)
    assert "resuming" in shown
    tiny_runs.assert_same_run(tmp_path, reference)


def test_stopped_at_every_step(fast_runs, monkeypatch, reference, tmp_path):
    # Each start does one step only.
    run_epoch = training.run_epoch

    def one_step(*args):
        *args, stopped = args
        calls = []

        def asked():
            calls.append(None)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGTERM)
            return stopped()

        return run_epoch(*args, asked)

    monkeypatch.setattr(training, "run_epoch", one_step)
    starts = 0
    while True:
        starts += 1
        try:
            tiny_runs.run(tiny_runs.make_config(), tmp_path)
            break
        except experiment.Stopped:
            assert starts < 20
    assert starts > 6
    tiny_runs.assert_same_run(tmp_path, reference)


def test_second_signal_acts_at_once(fast_runs, interrupt, monkeypatch, reference, tmp_path):
    interrupt(signal.SIGINT, 3, 1)
    save = Checkpoints.save

    def impatient(self, *args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        return save(self, *args, **kwargs)

    write = experiment.Run._stop_here

    def stop_here(self):
        monkeypatch.setattr(Checkpoints, "save", impatient)
        write(self)

    monkeypatch.setattr(experiment.Run, "_stop_here", stop_here)
    with pytest.raises(KeyboardInterrupt):
        tiny_runs.run(tiny_runs.make_config(), tmp_path)
    monkeypatch.setattr(Checkpoints, "save", save)
    tiny_runs.run(tiny_runs.make_config(), tmp_path)
    tiny_runs.assert_same_run(tmp_path, reference)


def test_crash_leaves_a_resumable_run(half, reference):
    assert len(tiny_runs.metrics(half)) == 5
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)


def test_several_seeds_go_on(fast_runs, interrupt, tmp_path):
    config = tiny_runs.make_config(seeds=(1, 0))
    tiny_runs.run(config, tmp_path / "whole")
    interrupt(signal.SIGTERM, 2, 3)  # the second seed's second step; the first seed is through
    with pytest.raises(experiment.Stopped):
        tiny_runs.run(config, tmp_path / "stopped")
    tiny_runs.run(config, tmp_path / "stopped")
    tiny_runs.assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_metrics_after_the_checkpoint_are_cut(half, reference):
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 0, "stage": "train", "epoch": 99}\n{"seed": 0, "st')
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)


def test_shorter_metrics_are_refused(half):
    os.truncate(half / "metrics.jsonl", 10)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        tiny_runs.run(tiny_runs.make_config(), half)


@pytest.fixture
def order_file(tmp_path):
    path = tmp_path / "order.txt"
    path.write_text("3 1 4 0 2 5 9 7 8 6")
    return path


@pytest.mark.parametrize("complete", [False, True])
def test_another_order_in_the_same_file_is_refused(order_file, tmp_path, interrupt, complete):
    config = tiny_runs.make_config(data__class_order=str(order_file))
    workdir = tmp_path / "run"
    if complete:
        tiny_runs.run(config, workdir)
    else:
        interrupt(signal.SIGTERM, 1, 1)
        with pytest.raises(experiment.Stopped):
            tiny_runs.run(config, workdir)
    before = {path: path.read_bytes() for path in workdir.glob("*.json*")}
    order_file.write_text("3 1 0 4 2 5 9 7 8 6")
    with pytest.raises(UserError, match=f"class order.* put back what .*{order_file.name}"):
        tiny_runs.run(config, workdir)
    assert {path: path.read_bytes() for path in workdir.glob("*.json*")} == before
    order_file.write_text("3, 1, 4, 0, 8, 6, 9, 7, 2, 5")  # the run has the first four classes
    tiny_runs.run(config, workdir)


def newest(workdir):
    return max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        ("arrays/**/d/*", truncate),
        ("arrays/**/d/*", flip_bit),
        ("arrays/**/d/*", os.unlink),
        ("record/metadata", truncate),
    ],
)
def test_damaged_checkpoint_falls_back(half, reference, victim, damage):
    broken = newest(half)
    # The largest file holds the numbers.
    damage(max(broken.glob(victim), key=lambda path: path.stat().st_size))
    shown = tiny_runs.run(tiny_runs.make_config(), half)
    assert "warning: checkpoint" in shown and str(broken) in shown
    tiny_runs.assert_same_run(half, reference)


def test_every_checkpoint_damaged(half):
    for checkpoint in (half / "checkpoints").iterdir():
        truncate(checkpoint / "record" / "metadata")
    before = sorted(path.name for path in (half / "checkpoints").iterdir())
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        tiny_runs.run(tiny_runs.make_config(), half)
    assert sorted(path.name for path in (half / "checkpoints").iterdir()) == before


def test_complete_run_only_reports(fast_runs, monkeypatch, reference, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(reference, workdir)
    monkeypatch.setattr(training, "run_epoch", None)  # a call would fail
    shown = tiny_runs.run(tiny_runs.make_config(), workdir)
    assert "complete" in shown and "2 of 2 tasks" in shown
    tiny_runs.assert_same_run(workdir, reference)
    content = (workdir / "results.json").read_text()
    assert content == (reference / "results.json").read_text()


def copy_with(source, workdir, victim, damage):
    """A copy of a run with one file or directory damaged; returns the victim."""
    shutil.copytree(source, workdir)
    (found,) = workdir.glob(victim)
    damage(found)
    return found


def flip_in_model(path):
    flip_bit(max(path.glob("arrays/**/d/*"), key=lambda file: file.stat().st_size))


def of_another_run(path):
    """Puts the classifier of the task before in place of this one."""
    shutil.rmtree(path)
    shutil.copytree(path.parent / "1", path)


@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        ("results.json", remove),
        ("results.json", truncate),
        ("results.json", lambda path: path.write_text(path.read_text().replace("0.0", "1.0", 1))),
        ("plots/accuracy_matrix.png", remove),
        ("plots/accuracy_after_each_task.png", truncate),
        ("plots/loss_curves.png", flip_bit),
        ("models/2", remove),
        ("models/2", flip_in_model),
        ("models/2", of_another_run),
    ],
)
def test_a_complete_run_mends_itself(reference, tmp_path, monkeypatch, victim, damage):
    damaged = copy_with(reference, tmp_path / "copy", victim, damage)
    monkeypatch.setattr(training, "run_epoch", None)  # a call would fail
    monkeypatch.setattr(plots, "write_plots", write_plots)
    shown = tiny_runs.run(tiny_runs.make_config(), tmp_path / "copy")
    assert f"{damaged}: was gone or damaged" in shown
    tiny_runs.assert_same_run(tmp_path / "copy", reference)
    tiny_runs.assert_same_arrays(
        tiny_runs.models(tmp_path / "copy", 2), tiny_runs.models(reference, 2)
    )
    for name in plots.PLOTS:
        assert (tmp_path / "copy/plots" / name).read_bytes() == (
            reference / "plots" / name
        ).read_bytes()
    assert "was gone" not in tiny_runs.run(tiny_runs.make_config(), tmp_path / "copy")


@pytest.mark.parametrize("victim", ["models/1", "plots/dreamed_task?_seed0.png"])
def test_what_a_complete_run_cannot_make_again_is_named(reference, tmp_path, victim):
    damaged = copy_with(reference, tmp_path / "copy", victim, remove)
    shown = tiny_runs.run(tiny_runs.make_config(), tmp_path / "copy")
    assert f"warning: {damaged}: gone" in shown


def test_a_results_file_written_again_says_where_the_run_ran(reference, tmp_path, monkeypatch):
    copy_with(reference, tmp_path / "copy", "results.json", remove)
    monkeypatch.setattr(device, "device_name", lambda: "another one")
    tiny_runs.run(tiny_runs.make_config(), tmp_path / "copy")
    assert tiny_runs.results(tmp_path / "copy") == tiny_runs.results(reference)


def test_a_foreign_model_is_not_taken_for_this_runs(half, reference):
    shutil.copytree(half / "models" / "1", half / "models" / "2")
    shown = tiny_runs.run(tiny_runs.make_config(), half)
    assert "models/2 is not what this run saves" in shown
    tiny_runs.assert_same_arrays(tiny_runs.models(half, 2), tiny_runs.models(reference, 2))
    assert (half / "models" / "damaged_2").is_dir()


@pytest.mark.parametrize("event", ["removed", "renamed"])
def test_a_workdir_taken_away_is_not_made_anew(fast_runs, tmp_path, monkeypatch, event):
    workdir, run_epoch, epochs = tmp_path / "run", training.run_epoch, []

    def take_away(*args):
        epochs.append(None)
        if len(epochs) == 2:
            shutil.rmtree(workdir) if event == "removed" else workdir.rename(tmp_path / "other")
        return run_epoch(*args)

    monkeypatch.setattr(training, "run_epoch", take_away)
    with pytest.raises(UserError, match="was removed or renamed"):
        tiny_runs.run(tiny_runs.make_config(), workdir)
    assert not workdir.exists() and len(epochs) == 2
    monkeypatch.undo()
    if event == "renamed":
        assert "resuming" in tiny_runs.run(tiny_runs.make_config(), tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cursor": {"task": "1"}}, r"cursor\.task: "),
        ({"cursor": {"place": 1}}, r"cursor\.place"),
        ({"metrics": 3}, "metrics: "),
        ({"recorder": []}, "recorder: "),
        ({"recorder": None}, "recorder: "),
        ({"data": {}}, "data: "),
        ({"models": [None]}, r"models\.0: "),
    ],
)
def test_odd_types_in_a_record_are_named_and_nothing_is_cut(half, change, words):
    tiny_runs.change_record(newest(half), lambda record: record.update(change))
    before = (half / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=f"record of the checkpoint is damaged: {words}"):
        tiny_runs.run(tiny_runs.make_config(), half)
    assert (half / "metrics.jsonl").read_bytes() == before


def test_counts_of_other_read_outs_are_refused(half):
    def change(record):
        record["recorder"]["correct"]["own"]["seen"].pop()

    tiny_runs.change_record(newest(half), change)
    with pytest.raises(UserError, match=r"damaged: recorder\.correct has other read-outs or seeds"):
        tiny_runs.run(tiny_runs.make_config(), half)


def test_other_data_are_refused(half):
    tiny_runs.change_record(newest(half), lambda record: record.update(data=record["data"] + 1))
    with pytest.raises(UserError, match="other images or labels"):
        tiny_runs.run(tiny_runs.make_config(), half)


@pytest.mark.parametrize(
    "cursor",
    [
        {"task": 2, "stage": 1, "epoch": 0},
        {"task": -1, "stage": 0, "epoch": 0},
        {"task": 0, "stage": 9, "epoch": 0},
        {"task": 0, "stage": 0, "epoch": -3},
    ],
)
def test_an_impossible_place_is_refused(half, cursor):
    for checkpoint in (half / "checkpoints").iterdir():
        tiny_runs.change_record(checkpoint, lambda record: record.update(cursor=cursor))
    with pytest.raises(UserError, match="impossible place"):
        tiny_runs.run(tiny_runs.make_config(), half)


def test_a_run_of_an_older_version_is_refused(half):
    for checkpoint in (half / "checkpoints").iterdir():
        tiny_runs.change_record(checkpoint, lambda record: record.pop("format"))
    lines = tiny_runs.metrics(half)
    with pytest.raises(UserError, match=r"another version.*in another --workdir") as error:
        tiny_runs.run(tiny_runs.make_config(), half)
    assert "\n" not in str(error.value) and str(half) in str(error.value)
    assert tiny_runs.metrics(half) == lines


def test_free_keys_may_change(half, reference):
    config = tiny_runs.make_config(
        checkpoint__every_epochs=0, checkpoint__keep=1, data__dir="elsewhere"
    )
    tiny_runs.run(config, half)
    assert tiny_runs.results(half) == tiny_runs.results(reference)
    assert len(list((half / "checkpoints").iterdir())) == 1


def test_overwrite_starts_over(half, reference):
    (half / "mine.txt").write_text("kept")
    tiny_runs.run(tiny_runs.make_config(overwrite=True), half)
    tiny_runs.assert_same_run(half, reference)
    assert (half / "mine.txt").read_text() == "kept"


def test_overwrite_with_a_mistake_removes_nothing(half, reference):
    with pytest.raises(UserError, match="cannot be split"):
        tiny_runs.run(tiny_runs.make_config(num_tasks=3, overwrite=True), half)
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)


def test_full_disk_at_a_line_of_metrics(half, monkeypatch, reference):
    def full(self, row):
        with files.writing(self.path):
            raise OSError(28, os.strerror(28))

    append = logs.RunLog.append
    monkeypatch.setattr(logs.RunLog, "append", full)
    with pytest.raises(UserError, match=r"metrics\.jsonl.*No space left"):
        tiny_runs.run(tiny_runs.make_config(), half)
    monkeypatch.setattr(logs.RunLog, "append", append)
    tiny_runs.run(tiny_runs.make_config(), half)
    tiny_runs.assert_same_run(half, reference)
