"""Trains one epoch of a stage for all seeds: what an epoch is, and what a step is.

The loss, its gradient and the update are the stage's (`TrainStage.update` in `cljax.stages`). A
function is of one seed unless a type says `PerSeed`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.compute import per_seed
from cljax.compute.executor import Executor
from cljax.compute.host_images import HostImages, windows
from cljax.compute.per_seed import PerSeed
from cljax.stages import StepInput
from cljax.state import EpochState, LearnerState, PyTree


def run_epoch(
    executor: Executor,
    inputs: StepInput,
    states: PerSeed[LearnerState] | PerSeed[EpochState],
    stops: Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
) -> PerSeed[EpochState]:
    """Runs the steps of an epoch for every seed, from where `states` stands up to `stops`.

    Args:
      executor: loops over steps and seeds.
      inputs: with `PerSeed` tasks, and `PerSeed` methods and stages of runs that train together;
        `prepared` is filled in here.
      states: learners at the start of the epoch, or what an interrupted epoch returned; donated.
      stops: number of steps of each seed.
      stopped: asked between steps where the host loops; True interrupts the epoch.

    Returns:
      The states after the last steps; each one's `step` tells how far the seed came.
    """
    resumes = states.holds(EpochState)
    learners = states.map(lambda state: state.learner) if resumes else states
    start = executor.call(begin_epoch, inputs, learners)
    inputs = inputs._replace(prepared=start.map(lambda begun: begun.prepared))
    steps = [0] * len(stops)
    if resumes:
        steps = [int(step) for step in executor.collect(states.map(lambda state: state.step))]
    else:
        states = learners.map(lambda one, new: EpochState(one, new.sums, new.step), start)
    stage = per_seed.first(inputs.stage)  # all are equal but for traced values
    orders = start.map(lambda begun: stage.image_rows(begun.prepared))
    if isinstance(inputs.data.train_pixels, HostImages) and orders.groups[0] is not None:
        return _run_windows(executor, inputs, states, orders, steps, stops, stopped)
    return executor.repeat(train_step, inputs, states, steps, stops, stopped)


def _run_windows(executor, inputs, states, orders, steps, stops, stopped):
    """Runs the steps of an epoch on images that the host reads while the device computes."""
    images = inputs.data.train_pixels
    batch_size = per_seed.first(inputs.stage).images_per_step
    orders = [np.asarray(order) for order in executor.collect(orders)]
    found = windows(executor, images, orders, batch_size, steps, stops)
    while window := executor.wait_for(found, states):
        jax.block_until_ready(states)  # or windows would pile up on the device
        if stopped():
            break
        given = inputs._replace(window=window.images)
        states = executor.repeat(train_step, given, states, window.starts, window.stops, stopped)
    return states


class EpochStart(NamedTuple):
    """What `begin_epoch` computes.

    Attributes:
      prepared: what the steps share.
      sums: float32 [] zeros, one for each metric of a step.
      step: int32 [], 0.
    """

    prepared: PyTree
    sums: dict[str, jax.Array]
    step: jax.Array


def begin_epoch(inputs: StepInput, learner: LearnerState) -> EpochStart:
    """Prepares an epoch: what its steps share, and zeros for the metrics that they return."""
    stage = inputs.stage
    prepared = stage.prepare(inputs.method, learner, inputs.task, inputs.data, inputs.epoch)
    inputs = inputs._replace(prepared=prepared)

    def metrics():
        drawn = stage.draw(inputs, jnp.int32(0), learner)
        return _traced_once(type(stage).update)(stage, inputs, learner, drawn)[1]

    names = jax.eval_shape(metrics)  # nothing runs
    return EpochStart(prepared, {name: jnp.float32(0) for name in names}, jnp.int32(0))


def train_step(inputs: StepInput, i: jax.Array, state: EpochState) -> EpochState:
    """Runs step `i` of an epoch: draws a batch, updates the learner, adds up the metrics."""
    stage = inputs.stage
    drawn = stage.draw(inputs, i, state.learner)
    update = _traced_once(type(stage).update)
    learner, metrics = update(stage, inputs, state.learner, drawn)
    return EpochState(learner, jax.tree.map(jnp.add, state.sums, metrics), jnp.int32(i + 1))


@functools.cache
def _traced_once(update):
    return jax.jit(update, inline=True)  # JAX remembers the trace that `begin_epoch` needs first
