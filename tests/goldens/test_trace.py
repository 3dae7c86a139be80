"""The plan of a run against the event lists of the original trainer's tiny runs."""

import importlib
import json

import numpy as np
import pytest

from cljax import build
from cljax import settings as settings_lib
from cljax.stages import TrainStage
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow

# The original's run: our config, and the settings of that run.
RUNS = {
    "oracle": ("oracle_cifar100", {}),
    "rehearsal": ("rehearsal_cifar100", {"exemplars.total": 30}),
    "lwf": ("lwf_cifar100", {}),
    "ete": ("e2e_cifar100", {"exemplars.total": 30}),
    "bic": ("bic_cifar100", {"exemplars.total": 90, "batch_size": 10}),
    "abd": ("abd_cifar100", {"inversion.steps": 2}),
}
TINY = {
    "data.name": "npz",
    "model.name": "resnet8",
    "model.width": 4,
    "first_task_size": 4,
    "num_tasks": 3,
    "batch_size": 20,
    "epochs": 3,
    "milestones": (1, 2),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """10 classes of 24 training and 6 test images, as the original's runs had."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 24), ("test", 6)):
        labels = np.repeat(np.arange(10), count)
        arrays[f"x_{split}"] = random.integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = labels
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def make_problem(images, compiled):
    """A function from the name of one of the original's runs to the same run here."""

    def make(name):
        config_name, settings = RUNS[name]
        config = importlib.import_module(f"configs.{config_name}").get_config()
        settings = TINY | {"data.path": images} | settings
        config.update_from_flattened_dict(settings)
        return config, tiny_runs.make_problem(config)

    return make


@pytest.fixture(scope="module")
def traces(goldens):
    """The original's runs."""
    return json.loads((goldens.folder / "trace.json").read_text())


def by_task(events):
    """The events of each task; the part after all tasks is left out."""
    tasks = []
    for event in events:
        if event[0] == "== evaluation ==":
            break
        if event[:2] == ["data.load_dataset", "train"] and event[2] == [len(tasks)]:
            tasks.append([])
        if tasks:
            tasks[-1].append(event)
    return tasks


def original_epochs(events):
    """(images, learning rate, steps) of each training epoch, and the exemplars kept in the end."""
    epochs, images, kept = [], None, 0
    for event in events:
        if event[0].startswith("data.update_coreset"):
            kept = event[event.index("size") + 1]
        elif event[0].startswith("data.") and event[1] == "train":
            images = event[event.index("len") + 1]
        elif event[0] == "optim.sgd":
            epochs.append((images, event[event.index("lr") + 1], event[-1]))
    return epochs, kept


@pytest.mark.parametrize("name", RUNS)
def test_images_steps_and_learning_rates_are_the_originals(traces, make_problem, name):
    """All that a run does but the training steps themselves."""
    config, problem = make_problem(name)
    assert problem.streams[0].task_sizes == tuple(traces[name]["tasks_sizes"])
    executor = build.make_executor(settings_lib.read(config))
    method, data = problem.method, problem.data
    states = executor.distribute(problem.states)
    for task, events in enumerate(by_task(traces[name]["events"])):
        want, want_kept = original_epochs(events)
        got = []
        tasks = executor.distribute(problem.tasks(task))
        states = executor.call(type(method).before_task, method, states, tasks, data)
        for stage in method.stages(task, 3):
            kind, args = type(stage), (stage, method)
            states = executor.call(kind.begin, *args, states, tasks, data)
            images = executor.call(kind.training_set, *args, states, tasks, data)
            count = int(executor.collect(images)[0].count)
            if isinstance(stage, TrainStage):
                for epoch in range(stage.epochs):
                    rate = stage.log_scalars(epoch)["learning_rate"]
                    got.append((count, rate, stage.num_steps(epoch, count)))
        states = executor.call(type(method).after_task, method, states, tasks, data)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        exemplars = executor.collect(states)[0].exemplars
        assert (0 if exemplars is None else int(exemplars.counts.sum())) == want_kept


def test_the_generator_is_trained_when_the_originals_is(traces, make_problem):
    _, problem = make_problem("abd")
    for task, events in enumerate(by_task(traces["abd"]["events"])):
        want = sum(event[-1] for event in events if event[0] == "optim.adam")
        later = problem.method.stages(task, 3)[1:]
        assert sum(s.num_steps(e, 0) for s in later for e in range(s.epochs)) == want
        assert [bool(later)] == [event[4] for event in events if event[0] == "teacher.new"]


def test_a_task_is_evaluated_on_the_originals_images(traces, make_problem):
    """After task t on all tasks so far, each with as many images as the original loads."""
    _, problem = make_problem("abd")
    stream = problem.streams[0]
    loaded = [e for e in by_task(traces["abd"]["events"])[-1] if e[0] == "data.load_dataset"]
    last = [event for event in loaded if event[1] == "test"]
    lengths = [event[event.index("len") + 1] for event in last[1:]]
    assert lengths == stream.eval_counts.tolist()
    assert sum(lengths) == len(stream.eval_indices)
