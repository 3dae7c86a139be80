"""Generators are taken over with the first task; tests/test_experiment.py has the classifiers."""

import numpy as np
import pytest

from tests.helpers import tiny_runs

GENERATOR = "seed0['generator']"


def test_a_generator_is_kept_where_a_task_trains_one(reference):
    first, last = tiny_runs.models(reference, 1), tiny_runs.models(reference, 2)
    kept = {name for name in first if name.startswith(GENERATOR)}
    assert first.keys() - kept == last.keys()  # ABD's last task trains none
    assert any(name.startswith(f"{GENERATOR}.opt_state") for name in kept)  # it goes on
    after = tiny_runs.arrays(reference)  # the last task did not change it
    for name in kept:
        twin = f"seed0.generator{name.removeprefix(GENERATOR)}"
        np.testing.assert_array_equal(first[name], after[twin])


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"inversion__prior": 1.0}, {"inversion__generator": "cifar"}])
def test_a_generator_of_other_settings_is_trained_here(fast_runs, reference, tmp_path, change):
    config = tiny_runs.make_config(first_task_from=str(reference), max_tasks=0, **change)
    config.num_tasks, config.task_sizes = 2, (2, 2)
    printed = tiny_runs.run(config, tmp_path)
    key = next(iter(change)).replace("__", ".")
    assert f"its generator is not taken, and is trained here ({key}: " in printed
    stages = [row["stage"] for row in tiny_runs.metrics(tmp_path)]
    assert stages == ["invert"] * 2 + ["train"] * 2
