"""What is refused, and what is warned of, before a run begins."""

import dataclasses
import logging

import numpy as np
import pytest

from cljax import problem
from cljax import settings as settings_lib
from cljax.data import sources
from cljax.errors import UserError
from tests.helpers import tiny_runs


@pytest.fixture
def warned(monkeypatch):
    """The warnings so far."""
    lines = []
    logger = logging.getLogger("cljax")
    monkeypatch.setattr(logger, "warning", lambda text, *args: lines.append(text % args))
    return lines


UNCOUNTED = "it does not count in accuracies"
UNEVEN = {"task_sizes": (4, 2), "max_tasks": 0}  # 40 images, then 20
PER_CLASS = {"exemplars__total": 0, "exemplars__per_class": 1, "drop_last": True}
BATCHES = {
    "as many": ("base", {"batch_size": 20}, None),
    "one more": ("base", {"batch_size": 21}, "task 1 of seed 0 has only 20 training images; use"),
    "incomplete": ("base", {"batch_size": 21, "drop_last": False}, None),
    "importance alone": ("ewc", {"batch_size": 21, "drop_last": True}, "task 1 of seed 0 has only"),
    "dreams alone": ("abd", {"batch_size": 21}, "task 1 of seed 0 has only 20"),
    "joint": ("oracle", {"batch_size": 40, **UNEVEN}, None),
    "exemplars": ("base", {"batch_size": 25, "exemplars__total": 5, **UNEVEN}, None),
    "too few exemplars": (
        "base",
        {"batch_size": 25, "exemplars__total": 4, **UNEVEN},
        "task 2 of seed 0 has only 20 training images and at most 4 exemplars; use",
    ),
    "exemplars of each class": (
        "wa",
        {"batch_size": 24, **PER_CLASS, **UNEVEN},
        None,
    ),
    "drawn exemplars": (
        "base",
        {"batch_size": 40, "exemplars__total": 1, "exemplars__replay": "bootstrap", **UNEVEN},
        None,
    ),
    "more exemplars than images": (
        "base",
        {"batch_size": 40, "exemplars__total": 900, "task_sizes": (4, 2, 2), "max_tasks": 0},
        None,
    ),
}


@pytest.mark.parametrize("case", BATCHES)
def test_a_task_needs_one_batch_exemplars_included(case):
    name, settings, complaint = BATCHES[case]
    config = tiny_runs.make_config(name, **settings)
    if complaint is None:
        tiny_runs.make_problem(config)
        return
    with pytest.raises(UserError) as error:
        tiny_runs.make_problem(config)
    assert f"config.batch_size={settings['batch_size']}: {complaint}" in str(error.value)


def test_few_images_are_trained_on_in_an_incomplete_batch(fast_runs, tmp_path):
    config = tiny_runs.make_config("base", batch_size=21, drop_last=False, data__per_class=3)
    tiny_runs.run(config, tmp_path)
    assert [row["task"] for row in tiny_runs.metrics(tmp_path)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("name", "method", "tasks"),
    [
        ("base", "base", "1"),
        ("oracle", "oracle", "1"),
        ("lwf", "lwf", "1"),
        ("lwf", "lwf_mc", None),
        ("icarl", "icarl", None),
        ("ewc", "ewc", "1, 2, 4"),
        ("abd", "abd", "2, 4"),
        ("rdfcil", "rdfcil", "1"),
        ("ewc", "libcontinual_ewc", "1, 2, 4"),
        ("lwf", "libcontinual_lwf", "1, 2, 4"),
        ("icarl", "libcontinual_icarl", "1"),
    ],
)
def test_methods_say_where_their_loss_is_zero(warned, name, method, tasks):
    config = tiny_runs.make_config(name, task_sizes=(1, 1, 2, 1), max_tasks=0, batch_size=4)
    config.method.name = method
    tiny_runs.make_problem(config)
    lines = [f"method {method!r}: its classification loss is always 0 in task {tasks}, because it "]
    assert len(warned) == (0 if tasks is None else 1)
    assert all(map(str.startswith, warned, lines)), warned


@pytest.mark.slow
@pytest.mark.parametrize(("name", "zero"), [("base", {1}), ("ewc", {1, 2})])
def test_that_loss_is_zero(fast_runs, tmp_path, name, zero):
    config = tiny_runs.make_config(
        name, task_sizes=(1, 1), max_tasks=0, batch_size=4, epochs=1, milestones=()
    )
    tiny_runs.run(config, tmp_path)
    rows = [row for row in tiny_runs.metrics(tmp_path) if row["stage"] == "train"]
    assert {row["task"] for row in rows if row["class"] == 0} == zero


def without_class(dataset, label):
    kept = dataset.test_labels != label
    names = [f"digit\x1b{n}" for n in range(10)]
    return dataclasses.replace(
        dataset,
        test_images=dataset.test_images[kept],
        test_labels=dataset.test_labels[kept],
        class_names=tuple(names),
    )


def test_classes_that_the_evaluation_lacks_are_named_once(warned):
    read = settings_lib.read(tiny_runs.make_config("base", max_tasks=0, seeds=(0, 1)))
    dataset = sources.load(read.data)
    problem.make_problem(read, dataset)
    assert warned == []
    problem.make_problem(read, without_class(dataset, 7))
    message = (
        r"digits: the test split has no image of class digit\x1b7; it does not count in accuracies"
    )
    assert warned == [message]


def test_classes_that_a_fold_lacks_are_named(warned):
    settings = {"data__validation": True, "data__per_class": 4, "seeds": (0, 3), "num_tasks": 1}
    made = tiny_runs.make_problem(tiny_runs.make_config("base", max_tasks=0, **settings))
    labels = made.dataset.train_labels
    lines = []
    for stream in made.streams:
        absent = np.setdiff1d(range(10), labels[stream.eval_indices[: stream.eval_counts.sum()]])
        assert 0 < len(absent) <= 5
        names = ", ".join(map(str, absent))
        fold = f"the validation fold of seed {stream.seed} has no image of class {names}"
        lines.append(f"digits: {fold}; {UNCOUNTED}")
    assert warned == lines
