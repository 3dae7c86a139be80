"""A run compiles a program per function and phase: none for another seed, or for a later task."""

import jax
import pytest

from cljax import build, experiment
from cljax.compute import compilation
from cljax.compute.executor import Executor
from cljax.output import plots
from tests.helpers import tiny_runs

# Programs of each function: the first task and later ones are two phases of every stage.
ABD = {
    "before_task": 2,
    "begin": 3,  # training in two phases, inversion in one
    "training_set": 3,
    "begin_epoch": 3,
    "train_step": 3,
    "samples": 1,
    "after_task": 2,
    "score_batch": 1,
}
LUCIR = {
    "before_task": 2,
    "begin": 2,
    "training_set": 2,
    "begin_epoch": 2,
    "train_step": 2,
    "after_task": 2,
    "find_means": 1,
    "score_batch": 1,
}
BIC = {
    "before_task": 2,
    "begin": 3,  # the bias layers are trained in later tasks only
    "training_set": 3,
    "begin_epoch": 3,
    "train_step": 3,
    "after_task": 2,
    "score_batch": 1,
}
RDFCIL = {
    "before_task": 2,
    "begin": 4,  # training in two phases, inversion and the head in later tasks only
    "training_set": 4,
    "begin_epoch": 4,
    "train_step": 4,
    "samples": 1,
    "after_task": 2,
    "score_batch": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "programs"), [("abd", ABD), ("lucir", LUCIR), ("bic", BIC), ("rdfcil", RDFCIL)]
)
def test_programs_of_four_tasks_and_three_seeds(compiled, monkeypatch, tmp_path, name, programs):
    jax.clear_caches()
    for on_one_core in (False, True):
        compilation.compiler_options(
            on_one_core, "between"
        )  # finds out by a tiny program, once in a process
    executor = Executor()
    everything, after_tasks = [], []

    def listen(event, seconds, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            everything.append(kwargs.get("fun_name"))

    run_task = experiment.Run._run_task

    def counted(run):
        run_task(run)
        after_tasks.append((executor.num_compilations(), len(everything)))

    monkeypatch.setattr(build, "make_executor", lambda config: executor)
    monkeypatch.setattr(plots, "write_plots", lambda *args: None)
    monkeypatch.setattr(experiment.Run, "_run_task", counted)
    settings = {"exemplars__total": 120, "data__per_class": 20} if name == "bic" else {}
    config = tiny_runs.make_config(
        name,
        model__name="resnet8",
        seeds=(0, 1, 2),
        task_sizes=(4, 2, 2, 2),
        max_tasks=4,
        epochs=1,
        milestones=(),
        **settings,
    )
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        tiny_runs.run(config, tmp_path)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    _, second, third, fourth = after_tasks
    assert fourth[0] == programs
    assert second == third == fourth, everything[second[1] :]
    # Outside the executor there is the program that makes the initial states.
    assert len(everything) == sum(programs.values()) + 1, everything
