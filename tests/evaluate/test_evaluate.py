"""python -m cljax.evaluate: the run's own numbers again, and those of other images."""

import json
import shutil

import numpy as np
import pytest

import cljax
from cljax.evaluate import __main__ as evaluate
from cljax.output import plots
from tests.helpers import saved, tiny_runs

VARIES = {"seconds", "device", "versions"}
OF_TRAINING = {"cost", "carried_bytes"}


def scored(workdir, out, *flags):
    saved.call(evaluate, workdir, f"--out={out}", *flags)
    return json.loads((out / "evaluation.json").read_text())


def test_the_runs_own_numbers(reference, tmp_path, capsys):
    found = scored(reference, tmp_path)
    own = json.loads((reference / "results.json").read_text())
    for key in own.keys() - VARIES - OF_TRAINING:
        assert found[key] == own[key], key
    counts = np.array(found["confusion"][0])
    order, dataset = own["class_orders"][0], saved.digits()
    predicted = cljax.load(reference).rank(dataset.test_images)[:, 0]
    for i, class_id in enumerate(order):
        of_class = predicted[dataset.test_labels == class_id]
        np.testing.assert_array_equal(counts[i], np.bincount(of_class, minlength=len(order)))
        assert found["class_accuracy"][0][i] == 100 * float((of_class == i).mean())
    assert plots.is_whole(tmp_path / "confusion_seed0.png")
    printed = capsys.readouterr().out
    for words in ("Accuracy matrix (%)", "Accuracy of each class, seed 0", "taken for a class"):
        assert words in printed


def test_fewer_tasks_and_more_read_outs(reference, tmp_path):
    found = scored(reference, tmp_path, "--task=1", "--read_outs=cnn,ncm", "--seeds=0")
    own = tiny_runs.results(reference)
    assert found["accuracy"] == [own["accuracy"][0][:1]] and not found["complete"]
    assert found["read_outs"].keys() == {"cnn", "ncm"}
    assert found["read_outs"]["cnn"]["accuracy"] == found["accuracy"]
    assert np.shape(found["confusion"]) == (1, 2, 2)


@pytest.mark.slow
def test_every_read_out_of_icarl(fast_runs, tmp_path):
    config = tiny_runs.make_config("icarl", eval__read_outs=("cnn", "nme", "ncm"), seeds=(0, 1))
    tiny_runs.run(config, tmp_path / "run")
    found = scored(tmp_path / "run", tmp_path / "out")
    own = json.loads((tmp_path / "run" / "results.json").read_text())
    for key in own.keys() - VARIES - OF_TRAINING:
        assert found[key] == own[key], key
    assert found["read_outs"]["nme"] != found["read_outs"]["cnn"]
    one = scored(tmp_path / "run", tmp_path / "one", "--seeds=1")
    assert one["accuracy"] == own["accuracy"][1:]


def test_a_validation_fold(reference, tmp_path):
    """Of a run that has trained on it; images of a fold are counted, not those of the test."""
    found = scored(reference, tmp_path, "--data.validation=True")
    own = tiny_runs.results(reference)
    assert found["class_orders"] == own["class_orders"]
    config = tiny_runs.make_config(data__validation=True)
    counts = tiny_runs.make_problem(config).streams[0].eval_counts
    assert found["test_images"] == [counts.tolist()] != own["test_images"]


def archive(path, change=lambda arrays: arrays):
    dataset = saved.digits()
    arrays = {
        "x_train": dataset.train_images,
        "y_train": dataset.train_labels,
        "x_test": dataset.test_images,
        "y_test": dataset.test_labels,
    }
    np.savez(path, **change(arrays))
    return ["--data.name=npz", f"--data.path={path}"]


def test_another_data_set_with_the_same_classes(reference, tmp_path):
    def double(arrays):
        twice = {key: np.concatenate([arrays[key]] * 2) for key in ("x_test", "y_test")}
        return arrays | twice

    flags = archive(tmp_path / "other.npz", double)
    found = scored(reference, tmp_path / "out", *flags)
    own = tiny_runs.results(reference)
    assert found["accuracy"] == own["accuracy"] and found["dataset"] == "npz"
    assert found["test_images"] == [[2 * count for count in own["test_images"][0]]]


def fewer_classes(arrays):
    kept = {split: arrays[f"y_{split}"] < 8 for split in ("train", "test")}
    return {key: array[kept[key[2:]]] for key, array in arrays.items()}


def larger(arrays):
    return {k: a.repeat(2, 1).repeat(2, 2) if k[0] == "x" else a for k, a in arrays.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [(fewer_classes, "has other classes than digits"), (larger, "its images are [16, 16, 1]")],
)
def test_images_that_do_not_fit(reference, tmp_path, capsys, change, words):
    flags = archive(tmp_path / "other.npz", change)
    with pytest.raises(SystemExit):
        scored(reference, tmp_path / "out", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --data.name=npz: ") and words in line
    assert not (tmp_path / "out").exists()


def test_data_that_have_changed(reference, tmp_path, capsys):
    shutil.copytree(reference, tmp_path / "run")
    tiny_runs.change_record(tmp_path / "run" / "models" / "1", lambda record: record.update(data=1))
    with pytest.raises(SystemExit):
        scored(tmp_path / "run", tmp_path / "out")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "has other images or labels than when the run" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seeds=3"], "seed 3: "),
        (["--seeds=x"], "--seeds=x: must be whole numbers"),
        (["--read_outs=best"], "config.eval.read_outs: entry 1 is 'best'"),
        (["--read_outs=nme"], "config.eval.read_outs: 'nme' needs exemplars"),
        (["--data.nam=npz"], "config.data.nam: "),
        (["--data.name=npz", "--data.path=absent.npz"], "absent.npz: no such file"),
    ],
)
def test_one_line(reference, tmp_path, capsys, flags, words):
    with pytest.raises(SystemExit):
        scored(reference, tmp_path / "out", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "out").exists()
