"""Trains the epochs of a stage for all seeds, whatever the method."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.compute.executor import Executor
from cljax.stages import Stage
from cljax.state import Data

PyTree = Any


def before_task(shared, state, task):
    """`before_task` of a method as the executor calls it; shared is (method, data)."""
    method, data = shared
    return method.before_task(state, task, data)


def after_task(shared, state, task):
    """`after_task` of a method as the executor calls it; shared is (method, data)."""
    method, data = shared
    return method.after_task(state, task, data)


def write_samples(shared, state, task):
    """`Stage.samples` as the executor calls it; shared is (method, stage)."""
    method, stage = shared
    return stage.samples(method, state, task)


def begin_stage(shared, state, task):
    """`Stage.begin` as the executor calls it; shared is (method, stage, data)."""
    method, stage, data = shared
    return stage.begin(method, state, task, data)


def choose_images(shared, state, task):
    """The task with a stage's images, as the executor calls it; shared is (method, stage, data)."""
    method, stage, data = shared
    return task.replace(images=stage.training_set(method, state, task, data))


def prepare_epoch(shared, state, task):
    """`Stage.prepare` as the executor calls it; shared is (stage, data, epoch)."""
    stage, data, epoch = shared
    return stage.prepare(state, task, data, epoch)


def train_step(shared, constant, i, carry):
    """`Stage.step` as the executor repeats it, with its metrics added up.

    Args:
      shared: (method, stage, data, epoch).
      constant: (task, what the stage prepared).
      i: int32 [], the step.
      carry: (state, sums of metrics).
    """
    state, sums = carry
    state, metrics = _step(shared, constant, i, state)
    return state, jax.tree.map(jnp.add, sums, metrics)


@functools.partial(jax.jit, inline=True)  # JAX remembers its trace: `zero_sums` needs it first
def _step(shared, constant, i, state):
    method, stage, data, epoch = shared
    task, prepared = constant
    return stage.step(method, data, task, epoch, prepared, i, state)


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

    def before_task(self, states: PyTree, tasks: PyTree) -> PyTree:
        """The packed states as a task's first stage finds them."""
        return self.executor.call(before_task, (self.method, self.data), states, tasks)

    def after_task(self, states: PyTree, tasks: PyTree) -> PyTree:
        """The packed states as a task leaves them."""
        return self.executor.call(after_task, (self.method, self.data), states, tasks)

    def begin(self, stage: Stage, states: PyTree, tasks: PyTree) -> PyTree:
        """The packed states with which a stage starts."""
        shared = (self.method, stage, self.data)
        return self.executor.call(begin_stage, shared, states, self._phase(stage, tasks))

    def choose_images(
        self, stage: Stage, states: PyTree, tasks: PyTree
    ) -> tuple[PyTree, list[int]]:
        """The packed tasks with a stage's images, and the number of these per seed."""
        shared = (self.method, stage, self.data)
        tasks = self.executor.call(choose_images, shared, states, self._phase(stage, tasks))
        counts = self.executor.each(lambda task: task.images.count, tasks)
        counts = [int(count) for count in self.executor.unpack(counts)]
        return tasks, counts

    def write_samples(self, stage: Stage, states: PyTree, tasks: PyTree) -> PyTree:
        """What a stage has to show, packed."""
        return self.executor.call(write_samples, (self.method, stage), states, tasks)

    def zero_sums(self, stage: Stage, states: PyTree, tasks: PyTree, num_seeds: int) -> PyTree:
        """Packed zeros for the sums of the metrics of a stage's steps."""
        state, task = self.executor.describe(states), self.executor.describe(tasks)
        phase = stage.name, task.is_first
        if phase not in self._metric_names:

            def metrics(state, task, data):
                epoch = jnp.int32(0)
                constant = task, stage.prepare(state, task, data, epoch)
                return _step((self.method, stage, data, epoch), constant, 0, state)[1]

            self._metric_names[phase] = tuple(jax.eval_shape(metrics, state, task, self.data))
        names = self._metric_names[phase]
        zeros = [{name: np.float32(0) for name in names} for _ in range(num_seeds)]
        return self.executor.pack(jax.device_put(zeros))

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
          states, sums: packed; donated.
          tasks: as `choose_images` gives them.
          starts, stops: per seed.
          stopped: True interrupts the epoch, where the executor can.

        Returns:
          The packed states and sums, and the step that each seed has reached.
        """
        epoch = jax.device_put(np.int32(epoch))
        prepared = self.executor.call(prepare_epoch, (stage, self.data, epoch), states, tasks)
        constant = self.executor.zip(tasks, prepared)
        carry = self.executor.zip(states, sums)
        shared = (self.method, stage, self.data, epoch)
        carry, reached = self.executor.repeat(
            train_step, shared, constant, carry, starts, stops, stopped
        )
        return *self.executor.unzip(carry), reached

    def _phase(self, stage, tasks):
        """The packed tasks, of which a stage without phases is not told which one is the first."""
        if stage.first_task_differs:
            return tasks
        return self.executor.each(lambda task: task.replace(is_first=False), tasks)
