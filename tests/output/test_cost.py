"""Time and memory by task, and the bytes that a learner carries on."""

import jax
import pytest

from cljax.compute import device
from cljax.output import cost
from tests.helpers import tiny_runs


def test_times_and_images_add_up_by_task_and_over_starts():
    costs = cost.Costs()
    costs.add_seconds(1, "train", 2.0)
    costs.add_seconds(1, "train", 1.0)
    costs.add_seconds(1, "invert", 0.5)
    costs.add_images(1, "train", 90)
    resumed = cost.Costs()
    resumed.tasks = costs.tasks
    resumed.add_seconds(1, "train", 3.0)
    resumed.add_images(1, "train", 90)
    first, second = resumed.results(2)
    assert first["seconds"] == first["images"] == first["images_per_second"] == {}
    assert second["seconds"] == {"train": 6.0, "invert": 0.5}
    assert second["images"] == {"train": 180} and second["images_per_second"] == {"train": 30.0}
    assert resumed.results(1) == [first]


@pytest.mark.parametrize(
    ("now", "then", "noted"),
    [
        (5, 9, 9),
        (9, 9, None),  # an earlier run of the process needed as much
        (None, None, None),  # a CPU
    ],
)
def test_a_peak_belongs_to_a_task_if_it_has_risen(monkeypatch, now, then, noted):
    monkeypatch.setattr(device, "peak_memory", lambda: now)
    costs = cost.Costs()
    monkeypatch.setattr(device, "peak_memory", lambda: then)
    costs.note_peaks(0)
    (found,) = costs.results(1)
    assert found["peak_device_bytes"] == noted
    costs.tasks[0]["peak_device_bytes"] = 99  # of a process before
    costs.note_peaks(0)
    assert costs.results(1)[0]["peak_device_bytes"] == 99


def float32(*counts):
    return 4 * sum(counts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("base", {"classifier"}),
        ("abd", {"classifier", "teacher", "generator"}),
        ("ewc", {"classifier", "importance"}),
        ("icarl", {"classifier", "teacher", "means", "exemplars"}),
        ("bic", {"classifier", "bias_layers", "bias_layer_of_label", "teacher", "exemplars"}),
        ("rdfcil", {"classifier", "projections", "label_counts", "teacher", "generator"}),
        ("dgr", {"classifier", "autoencoder", "teacher"}),
    ],
)
def test_what_each_method_carries_is_named(name, names):
    problem = tiny_runs.make_problem(tiny_runs.make_config(name, max_tasks=1))
    sizes = cost.carried_bytes(problem.method, problem.states[0], 7, 64)
    assert set(sizes) == names | {"total"}
    assert sizes["total"] == sum(sizes[name] for name in names)
    assert sizes.get("exemplars", 7 * 64) == 7 * 64
    if "bias_layers" in names:
        assert sizes["bias_layers"] == float32(10, 10)
        assert sizes["teacher"] == sizes["classifier"] + sizes["bias_layers"]
    if name == "ewc":  # the sum, the current task's, and the anchor
        params = sum(leaf.size for leaf in jax.tree.leaves(problem.states[0].params))
        assert sizes["importance"] == 3 * float32(params)
    if name == "icarl":
        width, classes = problem.states[0].params["head"]["kernel"].shape
        assert sizes["means"] == float32(width * classes)
