"""A run of ABD in float64 against plain NumPy that knows nothing but the specification.

Three uneven tasks of four, on random images, with everything that a run does: classes in the order
of the seed, augmentation, two epochs a task with a drop of the learning rate between them, and an
inversion of two epochs after each task but the last. The reference starts from the run's first
weights and is then on its own, through 96 steps; of the run's random numbers it takes the orders of
images, the choices of the augmentation and the latents.
"""

import io
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from rich.console import Console

from cljax import experiment, inversion, training
from cljax.compute import device
from cljax.compute.executor import Executor
from cljax.interop import torch
from configs import abd_cifar100
from tests.helpers import abd_reference as specification
from tests.helpers import tiny_runs

pytestmark = pytest.mark.slow

CLASSES, SIZES, BATCH, SEED = 9, (3, 2, 2), 8, 3
PER_CLASS, SIDE = 50, 8
EPOCHS, MILESTONES = 2, (1,)
# Rounding, 1e-16 of a value, has grown to less than 1e-10 in the 96 steps; a ReLU that switched
# would make more than 1e-6 of it. Any slip in a formula is larger by far.
CLOSE = 1e-8


class Epoch(NamedTuple):
    """What a run did in an epoch.

    Attributes:
      stage: its stage.
      number: of the epoch in the stage, from 0.
      task: the task.
      prepared: order of the images, choices of the augmentation, random keys.
      steps: number of steps.
      before, after: learner states.
      sums: metrics summed over the steps.
    """

    stage: Any
    number: int
    task: Any
    prepared: Any
    steps: int
    before: Any
    after: Any
    sums: dict[str, np.ndarray]


def make_images(folder):
    """Each class is a pattern, and its images differ from it by noise."""
    numbers = np.random.default_rng(0)
    patterns = numbers.uniform(0, 255, (CLASSES, SIDE, SIDE, 3))

    def split(per_class):
        labels = numbers.permutation(np.repeat(np.arange(CLASSES), per_class))
        noise = numbers.normal(0, 60, (len(labels), SIDE, SIDE, 3))
        return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels.astype(np.int32)

    (x_train, y_train), (x_test, y_test) = split(PER_CLASS), split(10)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(folder / "images.npz", **arrays)
    return arrays


def make_config(path):
    """The published experiment, but for images, tasks, network, batch and numbers of steps."""
    config = abd_cifar100.get_config()
    config.update_from_flattened_dict({
        "seeds": (SEED,),
        "data.name": "npz",
        "data.path": str(path),
        "task_sizes": (*SIZES, CLASSES - sum(SIZES)),
        "max_tasks": len(SIZES),
        "model.name": "resnet8",
        "model.width": 4,
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "milestones": MILESTONES,
        "inversion.steps": 15,
        "inversion.steps_per_epoch": 10,
        "dtype": "float32",  # float64, as the test arranges it
        "execution.loop": "host",
    })
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory, fast_runs):
    """The images, and a run on them in float64: its epochs, problem, results and last state."""
    folder, repeat, epochs = tmp_path_factory.mktemp("specification"), Executor.repeat, []
    arrays = make_images(folder)

    def copied(executor, value):
        return jax.tree.map(np.array, executor.collect(value)[0])  # buffers are donated

    def recording(self, step, inputs, carry, starts, stops, *args, **kwargs):
        if step is not training.train_step:
            return repeat(self, step, inputs, carry, starts, stops, *args, **kwargs)
        given = [copied(self, value) for value in (inputs.task, inputs.prepared, carry)]
        carry = repeat(self, step, inputs, carry, starts, stops, *args, **kwargs)
        task, prepared, before = given
        after = copied(self, carry)
        stage, number = inputs.stage, int(inputs.epoch)
        epochs.append(
            Epoch(
                stage, number, task, prepared, stops[0], before.learner, after.learner, after.sums
            )
        )
        return carry

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(device._JAX_SETTINGS, "enable_x64", True)
        patch.setitem(device.PRECISIONS, "float32", (np.float64, "highest"))
        patch.setattr(Executor, "repeat", recording)
        config = make_config(folder / "images.npz")
        console = Console(file=io.StringIO(), width=200)
        results = experiment.run(config, folder / "run", console)
    return arrays, epochs, results


def test_x(run):
    arrays, epochs, results = run
    for e in epochs:
        print(e.stage.name, e.number, e.task.old, e.task.seen, e.steps, {k: (v.dtype, v / e.steps) for k, v in e.sums.items()})
        print({l.dtype for l in jax.tree.leaves(e.after)})
    print(results)
