"""python -m cljax.dream: the images of a run's pictures, by the label of the teacher."""

import numpy as np
import pytest
from PIL import Image

from cljax import dream
from cljax.export import __main__ as export
from cljax.interop import autoencoder_to_torch
from cljax.saved import dreams as dreams_lib
from cljax.saved.models import read_learned
from cljax.saved.runs import open_run
from tests.helpers import pth, saved, tiny_runs


def of_stage(workdir, task, teacher, known):
    """The candidates of the run's own picture."""
    learned = read_learned(open_run(workdir), task)
    state = learned.state.replace(teacher=read_learned(learned.run, teacher).state.variables)
    stage = learned.method.inversion_stage
    images, labels, found = stage.samples(learned.method, state, dreams_lib._describe(learned))
    assert found == known
    return np.asarray(images), np.asarray(labels)


def assert_sorted(dreams, images, labels):
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(dreams["labels"], labels[order])
    np.testing.assert_array_equal(dreams["images"], images[order])


@pytest.mark.slow
def test_what_a_run_has_drawn(reference, tmp_path, capsys):
    saved.call(dream, reference, "--count=1024", f"--out={tmp_path / 'dreams.npz'}")
    assert "1024 images: " in capsys.readouterr().out
    with np.load(tmp_path / "dreams.npz", allow_pickle=False) as found:
        assert_sorted(found, *of_stage(reference, 1, 1, 2))  # the last task with a generator
        names = tiny_runs.results(reference)["class_names"][0][:2]
        assert found["class_names"].tolist() == names == [str(k) for k in found["class_ids"]]


def test_more_than_a_picture_has(reference):
    found = dreams_lib.dream(open_run(reference), count=1500)
    assert found.images.shape == (1500, 8, 8, 1)
    assert len(np.unique(found.images.reshape(1500, -1), axis=0)) > 1024  # no block twice


def test_a_class_that_is_wanted(reference, tmp_path):
    everything = dreams_lib.dream(open_run(reference), count=1024)
    label = int(np.bincount(everything.labels).argmax())
    name = everything.class_names[label]
    found = dreams_lib.dream(open_run(reference), count=10, classes=[name])
    assert found.labels.tolist() == [label] * 10
    of_class = everything.images[everything.labels == label]
    np.testing.assert_array_equal(found.images, of_class[:10])
    saved.call(
        dream, reference, f"--classes={name}", "--count=20", f"--out={tmp_path / 'dreams.png'}"
    )
    with Image.open(tmp_path / "dreams.png") as picture:
        width, height = picture.size
    assert width > 16 * 64 and 2 * 64 < height < 3 * 64  # two rows of up to 16


@pytest.mark.slow
def test_a_teacher_of_the_task_before(fast_runs, tmp_path):
    """R-DFCIL trains its generator first thing in a task, against the old classifier."""
    tiny_runs.run(tiny_runs.make_config("rdfcil"), tmp_path)
    found = dreams_lib.dream(open_run(tmp_path), count=1024)
    assert len(found.class_names) == 2
    assert_sorted(found._asdict(), *of_stage(tmp_path, 2, 1, 2))


@pytest.mark.slow
def test_the_autoencoder_of_dgr(fast_runs, tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "out"
    tiny_runs.run(tiny_runs.make_config("dgr", max_tasks=1, model__name="resnet8"), workdir)
    found = dreams_lib.dream(open_run(workdir), count=8)
    assert found.images.shape == (8, 8, 8, 1) and np.ptp(found.images) > 0
    saved.call(export, workdir, "--format=pytorch", f"--out={out}")
    learned = read_learned(open_run(workdir))
    variables = {"params": learned.state.params["autoencoder"]}
    expected = autoencoder_to_torch(learned.method.autoencoder, variables)
    tiny_runs.assert_same_arrays(pth.read(out / "generator.pth"), expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--task=2"], "has no generator of this task; use task 1"),
        (["--classes=x"], "knows no class 'x', only "),
        (["--count=0"], "--count=0: must be 1 to 65536"),
        (["--out=dreams.jpg"], "must end with .png or .npz"),
    ],
)
def test_one_line(reference, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        saved.call(dream, reference, "--out=dreams.png", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not list(tmp_path.iterdir())
