"""Accuracy metrics against matrices worked by hand and against the original's summary."""

import numpy as np
import pytest

from cljax.output import metrics

# Task 0 recovers after its low at task 1, task 1 ends better than it began.
MATRIX = [[80.0], [50.0, 60.0], [70.0, 75.0, 90.0], [64.0, 71.0, 66.0, 88.0]]


def test_forgetting_and_backward_transfer_by_hand():
    # Best before the last task: 80, 75, 90; after it: 64, 71, 66; lost: 16, 4, 24.
    assert metrics.forgetting(MATRIX) == pytest.approx(44 / 3)
    # From the diagonal: 64-80, 71-60, 66-90.
    assert metrics.backward_transfer(MATRIX) == pytest.approx((-16 + 11 - 24) / 3)


def test_improvement_counts_as_negative_forgetting():
    matrix = [[50.0], [70.0, 40.0]]
    assert metrics.forgetting(matrix) == -20.0
    assert metrics.backward_transfer(matrix) == 20.0


def test_the_best_is_looked_for_before_the_last_row_only():
    matrix = [[10.0], [30.0, 50.0], [90.0, 50.0, 50.0]]
    assert metrics.forgetting(matrix) == pytest.approx((30 - 90 + 0) / 2)


@pytest.mark.parametrize("matrix", [[], [[93.0]]])
def test_fewer_than_two_tasks_have_nothing_to_forget(matrix):
    assert metrics.forgetting(matrix) is None
    assert metrics.backward_transfer(matrix) is None


def test_seen_accuracy_weighs_images_and_mean_over_tasks_weighs_tasks():
    correct, images = [[45], [30, 5]], [50, 10]
    accuracy = metrics.accuracy_matrix(correct, images)
    assert accuracy == [[90.0], [60.0, 50.0]]
    assert metrics.seen_accuracy(correct, images) == [90.0, pytest.approx(100 * 35 / 60)]
    assert metrics.mean_over_tasks(accuracy[1]) == 55.0


def test_final_and_average_incremental_accuracy():
    assert metrics.final_accuracy([90.0, 60.0, 45.0]) == 45.0
    assert metrics.average_incremental_accuracy([90.0, 60.0, 45.0]) == 65.0
    assert metrics.final_accuracy([]) is None
    assert metrics.average_incremental_accuracy([]) is None


@pytest.mark.parametrize(
    ("correct", "images"),
    [([[5], [5]], [10, 10]), ([[11]], [10]), ([[-1]], [10]), ([[0]], [0]), ([[1], [1, 1]], [10])],
)
def test_impossible_counts_are_refused(correct, images):
    with pytest.raises(ValueError, match="row"):
        metrics.accuracy_matrix(correct, images)


def test_summarise_uses_the_population_deviation():
    assert metrics.summarise([1.0, 2.0, 6.0]) == {
        "mean": 3.0,
        "std": pytest.approx(np.std([1.0, 2.0, 6.0])),
        "per_seed": [1.0, 2.0, 6.0],
    }
    assert metrics.summarise([4.0])["std"] == 0.0


@pytest.mark.parametrize("values", [[], [None], [1.0, None]])
def test_summarise_never_means_fewer_seeds_than_listed(values):
    assert metrics.summarise(values) == {"mean": None, "std": None, "per_seed": values}


def test_mean_over_tasks_is_the_global_accuracy_of_the_original(goldens):
    arrays = goldens("metrics")
    table = arrays["table/acc_val_train"]  # [test task, training task]
    trial = 1
    ours = [metrics.mean_over_tasks(table[: i + 1, i].tolist()) for i in range(len(table))]
    np.testing.assert_allclose(ours, arrays["table/out_global"][:, trial], rtol=1e-6)


def test_percentages_are_those_of_the_original(goldens):
    arrays = goldens("metrics")
    logits, targets = arrays["logits"], arrays["targets"]
    hits = logits[:, :9].argmax(1) == targets
    tasks = [(targets >= 3 * j) & (targets < 3 * j + 3) for j in range(3)]
    images = [int(mask.sum()) for mask in tasks]
    row = [int(hits[mask].sum()) for mask in tasks]
    correct = [row[:1], row[:2], row]
    assert metrics.seen_accuracy(correct, images)[-1] == pytest.approx(
        float(arrays["global_top1"]), rel=1e-6
    )


def build(correct, **changes):
    settings = {
        "method": "finetune",
        "dataset": "digits",
        "seeds": [3, 7],
        "class_orders": [[2, 0, 1], [1, 0, 2]],
        "class_names": [["two", "zero", "one"], ["one", "zero", "two"]],
        "task_sizes": [2, 1],
        "test_images": [[10, 20], [20, 10]],
        "correct": correct,
        "correct_within_task": correct,
        "seconds": {"train": 1.5},
        "device": "cpu",
        "versions": {"numpy": "2"},
    }
    return metrics.build_results(**(settings | changes))


def test_build_results_of_a_finished_run():
    results = build(
        [[[9], [5, 15]], [[10], [12, 9]]], correct_within_task=[[[9], [9, 16]], [[10], [12, 9]]]
    )
    assert (results["complete"], results["tasks_done"], results["tasks_total"]) == (True, 2, 2)
    assert results["accuracy"] == [[[90.0], [50.0, 75.0]], [[50.0], [60.0, 90.0]]]
    assert results["accuracy_within_task"][0] == [[90.0], [90.0, 80.0]]
    assert results["seen_accuracy"] == [[90.0, pytest.approx(200 / 3)], [50.0, 70.0]]
    assert results["mean_over_tasks"] == [[90.0, 62.5], [50.0, 75.0]]
    assert results["final_accuracy"]["mean"] == pytest.approx((200 / 3 + 70) / 2)
    assert results["forgetting"]["per_seed"] == [40.0, -10.0]
    assert results["backward_transfer"]["mean"] == pytest.approx(-15.0)
    assert results["average_incremental_accuracy"]["per_seed"][1] == 60.0


def test_build_results_of_an_unfinished_run():
    results = build([[[9]], [[10]]])
    assert (results["complete"], results["tasks_done"]) == (False, 1)
    assert results["top_k"] == 1
    assert results["forgetting"] == {"mean": None, "std": None, "per_seed": [None, None]}
    assert build([[], []])["final_accuracy"]["mean"] is None


def test_seeds_must_have_finished_the_same_tasks():
    with pytest.raises(ValueError, match="correct needs 2 rows for each of 2 seeds"):
        build([[[9], [5, 15]], [[10]]])
