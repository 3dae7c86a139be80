"""An epoch of a stage, as a run trains it, without the run around it."""

import jax
import numpy as np
import pytest

from cljax import training
from cljax.compute.executor import Executor
from cljax.methods.base import Finetune
from cljax.stages import StepInput
from cljax.state import EpochState
from tests.helpers import tiny_runs

STEPS = 2


@pytest.fixture(scope="module")
def problem():
    return tiny_runs.make_problem(tiny_runs.make_config("base"))


def start(executor, problem):
    """The inputs of the first task's first epoch, and the learners."""
    method, data = problem.method, problem.data
    tasks, states = map(executor.distribute, (problem.tasks(0), problem.states))
    states = states.map(lambda state: jax.tree.map(jax.numpy.copy, state))  # they are donated
    return StepInput(method, method.training, data, tasks, np.int32(0)), states


def test_the_loss_is_traced_once(problem, monkeypatch):
    """`begin_epoch` asks for the names of the metrics, and `train_step` uses the same trace."""
    observe, traces = Finetune.observe, []

    def counted(*args):
        traces.append(None)
        return observe(*args)

    jax.clear_caches()
    monkeypatch.setattr(Finetune, "observe", counted)
    executor = Executor()
    inputs, states = start(executor, problem)
    after = training.run_epoch(executor, inputs, states, [STEPS])
    training.run_epoch(executor, inputs, after.map(lambda state: state.learner), [STEPS])
    assert len(traces) == 1


@pytest.mark.parametrize("stop", range(STEPS))
def test_an_epoch_goes_on_where_it_was_stopped(problem, stop):
    executor = Executor(compiled_loop=False)
    inputs, states = start(executor, problem)
    whole = executor.collect(training.run_epoch(executor, inputs, states, [STEPS]))[0]
    asked = iter([False] * stop + [True])
    inputs, states = start(executor, problem)
    part = training.run_epoch(executor, inputs, states, [STEPS], lambda: next(asked))
    assert part.holds(EpochState) and executor.collect(part)[0].step == stop
    rest = executor.collect(training.run_epoch(executor, inputs, part, [STEPS]))[0]
    assert rest.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, rest, whole)


@pytest.mark.parametrize(
    ("name", "settings", "members"),
    [
        ("lucir", {"method__balanced_finetuning": True}, {"observe", "observe_in_eval_mode"}),
        ("bic", {}, {"observe", "observe_corrected"}),
        ("e2e", {}, {"observe", "observe_balanced"}),
    ],
)
def test_the_loss_that_a_stage_names_is_a_member_of_its_method(problem, name, settings, members):
    method = tiny_runs.make_method(tiny_runs.make_config(name, **settings), problem.dataset)
    stages = method.stages(1, 3)
    assert {stage.observes for stage in stages} == members
    assert all(callable(getattr(method, stage.observes)) for stage in stages)
