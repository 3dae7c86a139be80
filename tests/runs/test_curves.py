"""What TensorBoard and metrics.jsonl show of a run beside its training: accuracies and pictures."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from cljax import build
from cljax.compute.executor import Executor
from cljax.output import plots
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow


def events(workdir):
    """[(tag, step, value)] of a run's event file; of a picture, the bytes of its file."""
    found = []
    (path,) = (workdir / "tensorboard").iterdir()
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            is_picture = value.HasField("image")
            shown = value.image.encoded_image_string if is_picture else value.simple_value
            found.append((value.tag, event.step, shown))
        data = data[16 + length :]
    return found


@pytest.fixture(scope="module")
def evaluated(compiled, tmp_path_factory):
    """A run that is evaluated after every epoch, the same without, and its executor."""
    workdir, executor = tmp_path_factory.mktemp("curves"), Executor()
    settings = {"max_tasks": 3, "eval__read_outs": ("nme",), "seeds": (0, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "make_executor", lambda config: executor)
        patch.setattr(plots, "write_plots", lambda *args: [])
        for name, every in (("with", 1), ("without", 0)):
            config = tiny_runs.make_config("rehearsal", eval__every_epochs=every, **settings)
            tiny_runs.run(config, workdir / name)
            if every:
                programs = executor.num_compilations()
    return workdir / "with", workdir / "without", programs


def test_evaluation_between_epochs_changes_no_bit_and_compiles_once(evaluated):
    one, other, programs = evaluated
    rows = tiny_runs.metrics(one)
    accuracies = [row.pop("test_accuracy") for row in rows]
    assert rows == tiny_runs.metrics(other)
    assert tiny_runs.results(one) == tiny_runs.results(other)
    tiny_runs.assert_same_arrays(tiny_runs.arrays(one), tiny_runs.arrays(other))
    seen = tiny_runs.results(one)["seen_accuracy"]
    for seed in (0, 1):
        own = [a for row, a in zip(rows, accuracies, strict=True) if row["seed"] == seed]
        assert len(own) == 6 and len(set(own)) > 2
        # After the last epoch of a task it is the accuracy of the task's results.
        assert [100 * value for value in own[1::2]] == pytest.approx(seen[seed])
    # One for all epochs of all tasks; one with the read-outs of the config after tasks.
    assert programs["score_batch"] == 2


def test_accuracies_after_tasks_are_events(evaluated):
    workdir = evaluated[1]
    results = tiny_runs.results(workdir)
    scalars = {(tag, step): value for tag, step, value in events(workdir)}
    assert len(scalars) == len(events(workdir))
    for seed in (0, 1):
        for task in (1, 2, 3):
            found = {
                tag.removeprefix(f"seed{seed}/after_task/"): value
                for (tag, step), value in scalars.items()
                if step == task and tag.startswith(f"seed{seed}/after_task/")
            }
            expected = {"seen_accuracy": results["seen_accuracy"][seed][task - 1]}
            row = results["accuracy"][seed][task - 1]
            expected |= {f"accuracy_on_task_{j}": value for j, value in enumerate(row, start=1)}
            expected |= {
                "mean_over_tasks": results["mean_over_tasks"][seed][task - 1],
                "nme/seen_accuracy": results["read_outs"]["nme"]["seen_accuracy"][seed][task - 1],
            }
            if task == 3:
                expected["forgetting"] = results["forgetting"]["per_seed"][seed]
            assert expected.items() <= {k: pytest.approx(v) for k, v in found.items()}.items()
            assert ("forgetting" in found) == ("nme/forgetting" in found) == (task > 1)
    assert ("seed0/train/test_accuracy", 6) in {e[:2] for e in events(evaluated[0])}


def test_a_resumed_run_has_all_events_once(evaluated):
    workdir = evaluated[0]
    before = events(workdir)
    tiny_runs.run(
        tiny_runs.make_config(
            "rehearsal",
            eval__every_epochs=1,
            max_tasks=3,
            eval__read_outs=("nme",),
            seeds=(0, 1),
        ),
        workdir,
    )
    assert sorted(events(workdir)) == sorted(before)


def test_dreamed_pictures_are_events_once(reference, tmp_path):
    (picture,) = [event for event in events(reference) if event[0] == "seed0/dreamed"]
    assert picture[1] == 1
    assert picture[2] == (reference / "plots" / "dreamed_task1_seed0.png").read_bytes()
