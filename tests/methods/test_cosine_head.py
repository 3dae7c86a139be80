"""Every method with a cosine head: it runs, learns, and its columns behave as the method says."""

import numpy as np
import pytest

from cljax.methods import METHODS
from tests.helpers import tiny_runs

# Methods without columns for classes to come.
GROWING = ("wa", "ewc", "lucir", "libcontinual_wa", "libcontinual_ewc", "libcontinual_lucir")
GROWING = (*GROWING, "libcontinual_lwf")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_tasks(name, fast_runs, tmp_path):
    config = tiny_runs.make_config(
        name.removeprefix("libcontinual_"), epochs=1, milestones=(), model__head="cosine"
    )
    config.method.name = name
    tiny_runs.run(config, tmp_path)
    rows = tiny_runs.metrics(tmp_path)
    assert {row["task"] for row in rows} == {1, 2}
    assert all(np.isfinite(row["loss"]) for row in rows)
    first, second = (head(tmp_path, task) for task in (1, 2))
    trains_head = name != "libcontinual_wa"
    assert (first["scale"] != 1) == (second["scale"] != first["scale"]) == trains_head
    moved = first["kernel"] != second["kernel"]
    old, new = tiny_runs.results(tmp_path)["task_sizes"][:2]
    assert moved[:, old : old + new].all() == trains_head
    if name in GROWING:
        assert not moved[:, old + new :].any()


def head(workdir, task):
    """The parameters of the head after a task."""
    prefix = "seed0['params']['head']"
    found = tiny_runs.models(workdir, task).items()
    return {name.split("'")[5]: array for name, array in found if name.startswith(prefix)}
