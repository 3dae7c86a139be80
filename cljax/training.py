"""Epochs of a stage, for all seeds, whatever the method."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cljax.execution import Executor
from cljax.stages import Stage
from cljax.state import Data

PyTree = Any


def before_task(method, state, task):
    """`before_task` of a method as the executor calls it."""
    return method.before_task(state, task)


def after_task(method, state, task):
    """`after_task` of a method as the executor calls it."""
    return method.after_task(state, task)


def draw_pictures(shared, state, task):
    """`Stage.pictures` as the executor calls it; shared is (method, stage)."""
    method, stage = shared
    return stage.pictures(method, state, task)


def begin_stage(shared, state):
    """`Stage.begin` as the executor calls it; shared is (method, stage)."""
    method, stage = shared
    return stage.begin(method, state)


def prepare_epoch(shared, state, task):
    """`Stage.prepare` as the executor calls it; shared is (stage, epoch)."""
    stage, epoch = shared
    return stage.prepare(state, task, epoch)


def train_step(shared, constant, i, carry):
    """`Stage.step` as the executor repeats it, with its metrics added up.

    Args:
      shared: (method, stage, data, epoch).
      constant: (task, what the stage prepared).
      i: int32 [], the step.
      carry: (state, sums of metrics).
    """
    method, stage, data, epoch = shared
    task, prepared = constant
    state, sums = carry
    state, metrics = stage.step(method, data, task, epoch, prepared, i, state)
    return state, jax.tree.map(jnp.add, sums, metrics)


class Trainer:
    """Runs stages epoch by epoch; knows the interface of stages, and no method.

    Attributes:
      executor: how steps and seeds are looped over.
      method: the method; passed on to the stages.
      data: the data set on the device.
    """

    def __init__(self, executor: Executor, method: Any, data: Data):
        self.executor = executor
        self.method = method
        self.data = data
        self._metric_names = {}

    def begin(self, stage: Stage, states: PyTree) -> PyTree:
        """The packed states with which a stage starts."""
        return self.executor.call(begin_stage, (self.method, stage), states)

    def zero_sums(self, stage: Stage, states: PyTree, tasks: PyTree, num_seeds: int) -> PyTree:
        """Packed zeros for the sums of the metrics of a stage's steps."""
        is_first = (tasks if self.executor.vmap_seeds else tasks[0]).is_first
        phase = stage.name, is_first
        if phase not in self._metric_names:
            state, task = self.executor.unpack(states)[0], self.executor.unpack(tasks)[0]

            def metrics(state, task):
                epoch = jnp.int32(0)
                prepared = stage.prepare(state, task, epoch)
                return stage.step(self.method, self.data, task, epoch, prepared, 0, state)[1]

            self._metric_names[phase] = tuple(jax.eval_shape(metrics, state, task))
        names = self._metric_names[phase]
        return self.executor.pack(
            [{name: jnp.zeros(()) for name in names} for _ in range(num_seeds)]
        )

    def run_epoch(
        self,
        stage: Stage,
        epoch: int,
        states: PyTree,
        tasks: PyTree,
        sums: PyTree,
        starts: Sequence[int],
        stops: Sequence[int],
        stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[PyTree, PyTree, list[int]]:
        """Steps starts..stops-1 of an epoch, for every seed.

        Args:
          states, tasks, sums: packed; states and sums are donated.
          starts, stops: per seed.
          stopped: True interrupts the epoch, where the executor can.

        Returns:
          The packed states and sums, and the step that each seed has reached.
        """
        if not stage.has_phases:
            tasks = self.executor.each(lambda task: task.replace(is_first=False), tasks)
        epoch = jnp.int32(epoch)
        prepared = self.executor.call(prepare_epoch, (stage, epoch), states, tasks)
        constant = self.executor.zip(tasks, prepared)
        carry = self.executor.zip(states, sums)
        shared = (self.method, stage, self.data, epoch)
        carry, reached = self.executor.repeat(
            train_step, shared, constant, carry, starts, stops, stopped
        )
        return *self.executor.unzip(carry), reached
