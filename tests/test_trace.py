"""A run's plan against the event list of the original trainer's tiny run of ABD."""

import importlib
import json

import numpy as np
import pytest

from cljax import setup


@pytest.fixture(scope="module")
def trace(goldens):
    """The original's run: 10 classes in tasks of 4, 3, 3; 24 training images per class."""
    return json.loads((goldens.folder / "trace.json").read_text())["abd"]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """The same run here."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 24), ("test", 6)):
        labels = np.repeat(np.arange(10), count)
        arrays[f"x_{split}"] = random.integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    config = importlib.import_module("configs.abd_cifar100").get_config()
    config.data.name, config.data.path = "npz", str(path)
    config.model.name, config.model.width = "resnet8", 4
    config.first_task_size, config.num_tasks = 4, 3
    config.batch_size, config.epochs, config.milestones = 20, 3, (1, 2)
    config.inversion.steps = 2
    return setup.make_problem(config)


def by_task(events, kinds):
    """The events of the given kinds, per task; the part after all tasks is left out."""
    tasks = []
    for event in events:
        if event[0] == "== evaluation ==":
            break
        if event[:2] == ["data.load_dataset", "train"]:
            tasks.append([])
        if tasks and event[0] in kinds:
            tasks[-1].append(event)
    return tasks


def test_steps_and_learning_rates_are_the_originals(trace, problem):
    assert problem.streams[0].task_sizes == tuple(trace["tasks_sizes"])
    counts = problem.streams[0].train_counts.tolist()
    for task, events in enumerate(by_task(trace["events"], {"optim.sgd"})):
        want = [(event[2], event[-1]) for event in events]
        stage = problem.method.stages(task, 3)[0]
        epochs = range(stage.epochs)
        got = [
            (stage.describe(e)["learning_rate"], stage.num_steps(e, counts[task])) for e in epochs
        ]
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_generator_is_trained_when_the_originals_is(trace, problem):
    kinds = {"teacher.new", "optim.adam"}
    for task, events in enumerate(by_task(trace["events"], kinds)):
        want = sum(event[-1] for event in events if event[0] == "optim.adam")
        later = problem.method.stages(task, 3)[1:]
        assert sum(s.num_steps(e, 0) for s in later for e in range(s.epochs)) == want
        assert bool(later) == events[0][4]


def test_a_task_is_evaluated_on_the_originals_images(trace, problem):
    """After task t on all tasks so far, each with as many images as the original loads."""
    stream = problem.streams[0]
    last = [e for e in by_task(trace["events"], {"data.load_dataset"})[-1] if e[1] == "test"]
    lengths = [event[event.index("len") + 1] for event in last[1:]]
    assert lengths == stream.eval_counts.tolist()
    assert sum(lengths) == len(stream.eval_indices)
