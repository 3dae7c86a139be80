"""LUCIR's switches in small runs, and what it refuses."""

import numpy as np
import pytest

from cljax.errors import UserError
from tests.helpers import tiny_runs


def kernel(workdir):
    """The head's weights [D, K] after the run."""
    return tiny_runs.arrays(workdir)["seed0.params['head']['kernel']"]


def stages_of(workdir):
    return [(row["task"], row["stage"]) for row in tiny_runs.metrics(workdir)]


@pytest.mark.slow
def test_new_weights_are_imprinted_or_stay_random(fast_runs, tmp_path):
    """At a rate of next to nothing, all that moves weights is imprinting, of new classes only."""
    for name, imprinted in (("yes", True), ("no", False)):
        settings = {"epochs": 1, "milestones": (), "optimizer__lr": 1e-12}
        config = tiny_runs.make_config("lucir", method__imprint_weights=imprinted, **settings)
        tiny_runs.run(config, tmp_path / name)
    differs = (kernel(tmp_path / "yes") != kernel(tmp_path / "no")).all(0)
    np.testing.assert_array_equal(np.flatnonzero(differs), [4, 5])


@pytest.mark.slow
def test_a_phase_may_end_with_class_balanced_finetuning(fast_runs, tmp_path):
    config = tiny_runs.make_config(
        "lucir", epochs=1, milestones=(), method__balanced_finetuning=True
    )
    config.schedule_scale = 0.1
    tiny_runs.run(config, tmp_path)
    assert stages_of(tmp_path) == [(1, "train"), (2, "train"), (2, "balance"), (2, "balance")]


@pytest.mark.slow
def test_old_weights_stay_unless_scores_are_distilled(fast_runs, tmp_path):
    settings = {"epochs": 1, "milestones": ()}
    tiny_runs.run(tiny_runs.make_config("lucir", max_tasks=1, **settings), tmp_path / "first")
    for distillation in ("features", "scores"):
        config = tiny_runs.make_config("lucir", method__distillation=distillation, **settings)
        tiny_runs.run(config, tmp_path / distillation)
    before = kernel(tmp_path / "first")[:, :4]
    np.testing.assert_array_equal(kernel(tmp_path / "features")[:, :4], before)
    assert (kernel(tmp_path / "scores")[:, :4] != before).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model__head": "linear"}, "needs the cosine head"),
        (
            {"method__distillation": "all"},
            "distillation='all': must be one of 'features'",
        ),
        ({"method__hard_negatives": "old"}, "hard_negatives='old': must be one of 'new', 'all'"),
        ({"method__num_hard_negatives": 3}, "num_hard_negatives=3: a later task has only 2 new"),
        (
            {"method__balanced_finetuning": True, "exemplars__per_class": 0},
            "balanced_finetuning=True: needs exemplars",
        ),
    ],
)
def test_mistakes(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        tiny_runs.run(tiny_runs.make_config("lucir", **settings), tmp_path)
