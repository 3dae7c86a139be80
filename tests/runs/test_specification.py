"""A run of ABD in float64 against plain NumPy that knows nothing but the specification.

Three uneven tasks of four, on random images, with everything that a run does: classes in the order
of the seed, augmentation, two epochs a task with a drop of the learning rate between them, and an
inversion of two epochs after each task but the last. The reference starts from the run's first
weights and is then on its own, through 114 steps (but see NOISY); of the run's random numbers it
takes the orders of images, the choices of the augmentation and the latents.
"""

import copy
import dataclasses
import io
import itertools
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from rich.console import Console

from cljax import experiment, inversion, models, training
from cljax.compute import device
from cljax.compute.executor import Executor
from cljax.interop import torch
from configs import abd_cifar100
from tests.helpers import abd_reference as specification
from tests.helpers.goldens import jit

pytestmark = pytest.mark.slow

CLASSES, SIZES, BATCH, SEED = 9, (3, 2, 2), 8, 3
PER_CLASS, SIDE = 50, 8
EPOCHS, MILESTONES = 2, (1,)
INVERSION_STEPS, INVERSION_EPOCH = 15, 10
MEAN = 0.5070751592371323, 0.48654887331495095, 0.4409178433670343
STD = 0.2673342858792409, 0.25643846291708816, 0.2761504713256834
CHOICES = ("brightness", "contrast", "brightness_first", "mirrored", "offsets")
# Of a tensor's largest value: rounding, 1e-16 of a value, grew to 1e-12 of it at most in the steps.
CLOSE = 1e-10
# Biases before a train-mode batch norm have no gradient. Adam divides what rounding makes of it,
# 1e-15, by its epsilon, 1e-8, and the running means behind follow: they were 1e-6 off at most.
NOISE = 1e-5
NOISY = [f"conv_blocks{i}.{of}" for i in (1, 2) for of in ("0.bias", "1.running_mean")]


class Epoch(NamedTuple):
    """What a run did in an epoch.

    Attributes:
      method: the method.
      stage: its stage.
      number: of the epoch in the stage, from 0.
      steps: number of steps.
      task: the task.
      prepared: order of the images, choices of the augmentation, random keys.
      before, after: `EpochState`s.
    """

    method: Any
    stage: Any
    number: int
    steps: int
    task: Any
    prepared: Any
    before: Any
    after: Any


def make_images(folder):
    """Each class is a pattern, and its images differ from it by noise."""
    numbers = np.random.default_rng(0)
    patterns = numbers.uniform(0, 255, (CLASSES, SIDE, SIDE, 3))

    def split(per_class):
        labels = numbers.permutation(np.repeat(np.arange(CLASSES), per_class))
        noise = numbers.normal(0, 30, (len(labels), SIDE, SIDE, 3))
        return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels.astype(np.int32)

    (x_train, y_train), (x_test, y_test) = split(PER_CLASS), split(10)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(folder / "images.npz", **arrays)
    return arrays


def make_config(path):
    """The published experiment, but for images, tasks, network, batch and numbers of steps."""
    config = abd_cifar100.get_config()
    config.update_from_flattened_dict(
        {
            "seeds": (SEED,),
            "data.name": "npz",
            "data.path": str(path),
            "data.mean": MEAN,
            "data.std": STD,
            "task_sizes": (*SIZES, CLASSES - sum(SIZES)),
            "max_tasks": len(SIZES),
            "model.name": "resnet8",
            "model.width": 4,
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "milestones": MILESTONES,
            "inversion.steps": INVERSION_STEPS,
            "inversion.steps_per_epoch": INVERSION_EPOCH,
            "dtype": "float32",  # float64, as the test arranges it
            "execution.loop": "host",
        }
    )
    return config


def widen(settings, problem):
    """Makes the first states float64, which not all initial values are; as `experiment.start`."""

    def wide(leaf):
        return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf

    return dataclasses.replace(problem, states=jax.tree.map(wide, problem.states))


@pytest.fixture(scope="module")
def run(tmp_path_factory, fast_runs):
    """A run in float64: its images, epochs and results."""
    folder, repeat, epochs = tmp_path_factory.mktemp("specification"), Executor.repeat, []
    arrays = make_images(folder)

    def copied(executor, value):
        return jax.tree.map(np.array, executor.collect(value)[0])  # buffers are donated

    def recording(self, step, inputs, carry, starts, stops, *args, **kwargs):
        if step is not training.train_step:
            return repeat(self, step, inputs, carry, starts, stops, *args, **kwargs)
        method, stage, number = inputs.method, inputs.stage, int(inputs.epoch)
        given = [copied(self, value) for value in (inputs.task, inputs.prepared, carry)]
        carry = repeat(self, step, inputs, carry, starts, stops, *args, **kwargs)
        epochs.append(Epoch(method, stage, number, stops[0], *given, copied(self, carry)))
        return carry

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(device._JAX_SETTINGS, "enable_x64", True)
        patch.setitem(device.PRECISIONS, "float32", (np.float64, "highest"))
        patch.setitem(models.GENERATORS, "cifar", (4, 8, (8, 4)))
        patch.setattr(experiment, "start", widen)
        patch.setattr(Executor, "repeat", recording)
        config = make_config(folder / "images.npz")
        console = Console(file=io.StringIO(), width=200)
        results = experiment.run(config, folder / "run", console)
    return SimpleNamespace(images=arrays, epochs=epochs, results=results)


@pytest.fixture(scope="module")
def walk(run):
    """After each epoch: the reference's learner, the run's tensors, sums of the learner's reports.

    The learner then takes over the run's values of NOISY tensors, which are of rounding alone.
    """
    learner, found = None, []
    with jax.enable_x64(True):
        for epoch in run.epochs:
            if learner is None:
                start = find_tensors(epoch.method, epoch.before.learner)
                learner = specification.Learner(start["classifier"], start["generator"])
            take_steps = invert if epoch.stage.name == "invert" else train
            reports = take_steps(learner, epoch, run.images)
            tensors = find_tensors(epoch.method, epoch.after.learner)
            total = {name: sum(report[name] for report in reports) for name in reports[0]}
            found.append((copy.deepcopy(learner), tensors, total))
            learner.generator |= {name: tensors["generator"][name] for name in NOISY}
    return found


def train(learner, epoch, arrays):
    """Takes the steps of an epoch of stage `train`; returns what they report."""
    labels, tasks = specification.tasks(arrays["y_train"], SIZES, CLASSES, SEED)
    task = int(epoch.task.index)
    old, seen = sum(SIZES[:task]), sum(SIZES[: task + 1])
    count, draws = len(tasks[task]), epoch.prepared.draws._asdict()
    np.testing.assert_array_equal(np.sort(epoch.prepared.order[:count]), tasks[task])
    if epoch.number == 0:
        learner.begin_task()
    reports = []
    for i in range(count // BATCH):
        rows = epoch.prepared.order[i * BATCH : (i + 1) * BATCH]
        choices = [{name: draws[name][i, b] for name in CHOICES} for b in range(BATCH)]
        images = map(specification.augment, arrays["x_train"][rows], choices)
        images = specification.normalise(np.stack(list(images)), MEAN, STD)
        rate = specification.rate(epoch.number, MILESTONES)
        if task == 0:
            report = learner.train(images, labels[rows], seen, rate)
        else:
            given = images, labels[rows], latents(epoch, i)
            report = learner.train_later(*given, old, seen, rate)
        reports.append(report)
    return reports


def invert(learner, epoch, arrays):
    """Takes the steps of an epoch of stage `invert`; returns what they report."""
    if epoch.number == 0:
        learner.freeze()
    seen = sum(SIZES[: int(epoch.task.index) + 1])
    steps = min(INVERSION_EPOCH, INVERSION_STEPS - epoch.number * INVERSION_EPOCH)
    return [learner.invert(latents(epoch, i), seen) for i in range(steps)]


def latents(epoch, i):
    """Those that the run drew in step i."""
    key = jax.random.wrap_key_data(epoch.prepared.keys[i])
    return np.asarray(inversion.draw_latents(key, BATCH))


def find_tensors(method, state):
    """The arrays of a learner state by the names of `Learner` and PyTorch."""
    classifier = method.classifier
    generator = method.inversion_stage.inversion.generator

    def of_classifier(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        return torch.classifier_to_torch(classifier, variables)

    def of_generator(params):
        variables = {"params": params, "batch_stats": state.generator.batch_stats}
        return torch.generator_to_torch(generator, variables)

    adam = state.generator.opt_state
    return {
        "classifier": of_classifier(state.params, state.batch_stats),
        "velocity": of_classifier(state.opt_state[1].trace, state.batch_stats),
        "teacher": of_classifier(**state.teacher),
        "generator": of_generator(state.generator.params),
        "first": of_generator(adam.mu),
        "second": of_generator(adam.nu),
    }


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_stages_and_steps(run):
    inverted = [("invert", 10), ("invert", 5)]
    first, later = [("train", 18)] * 2, [("train", 12)] * 2
    steps = [(epoch.stage.name, epoch.steps) for epoch in run.epochs]
    assert steps == [*first, *inverted, *later, *inverted, *later]


@pytest.mark.parametrize("kind", ["classifier", "teacher", "generator"])
def test_variables_after_every_epoch(run, walk, kind):
    """Parameters and running statistics."""
    for epoch, (learner, tensors, _) in zip(run.epochs, walk, strict=True):
        want = getattr(learner, kind)
        if want:  # there is no teacher before the first inversion
            assert want.keys() == tensors[kind].keys()
        for name, values in want.items():
            bound = (NOISE if kind == "generator" and name in NOISY else CLOSE) * abs(values).max()
            assert_near(epoch, name, tensors[kind][name], values, bound)
    assert learner.teacher


@pytest.mark.parametrize("kind", ["velocity", "first", "second"])
def test_optimizers_after_every_epoch(run, walk, kind):
    """The momentum of SGD, and Adam's moments."""
    for epoch, (learner, tensors, _) in zip(run.epochs, walk, strict=True):
        want = getattr(learner, kind)
        assert want.keys() == {name for name in tensors[kind] if "running" not in name}
        largest = max(abs(values).max() for values in want.values())
        for name, values in want.items():
            bound = CLOSE * (largest if name in NOISY else abs(values).max())
            assert_near(epoch, name, tensors[kind][name], values, bound)


def assert_near(epoch, name, got, want, bound):
    assert got.dtype == want.dtype == np.float64, name
    error = abs(got - want).max()
    where = f"task {epoch.task.index}, {epoch.stage.name}, epoch {epoch.number}"
    assert error <= bound, f"{where}: {name} is off by {error:.1e}"


def test_reports_of_every_epoch(run, walk):
    """The loss, its terms, and the fractions of right labels, of real and of dreamed images."""
    for epoch, (*_, total) in zip(run.epochs, walk, strict=True):
        fractions = {"accuracy", "dreamed_accuracy"} & total.keys()
        loss = sum(total[name] for name in total.keys() - fractions)
        assert epoch.after.sums.keys() == total.keys() | {"loss"}
        for name, value in (total | {"loss": loss}).items():
            # The fractions are float32 in the run, which holds sums of eighths exactly.
            np.testing.assert_allclose(epoch.after.sums[name], value, rtol=CLOSE, err_msg=name)
    assert 0 < walk[1][2]["accuracy"] < run.epochs[1].steps
    assert 0 < walk[4][2]["dreamed_accuracy"] < run.epochs[4].steps


def test_evaluation(run, walk):
    """Accuracies after every task, and the logits after the last step."""
    labels, of_tasks = specification.tasks(run.images["y_test"], SIZES, CLASSES, SEED)
    images = specification.normalise(run.images["x_test"], MEAN, STD)
    wanted = []
    for task, last in enumerate([1, 5, 9]):  # the last epochs of stage `train`
        logits = specification.logits(walk[last][0].classifier, images)
        right = logits[:, : sum(SIZES[: task + 1])].argmax(1) == labels
        wanted += [100 * right[of_task].mean() for of_task in of_tasks[: task + 1]]
    found = itertools.chain(*run.results["accuracy"][0])
    np.testing.assert_allclose(list(found), wanted, rtol=1e-12)
    method, state = run.epochs[-1].method, run.epochs[-1].after.learner
    forward = jit(lambda pixels: method.forward(state, method.preprocessing.test(pixels)))
    bound = CLOSE * abs(logits).max()
    np.testing.assert_allclose(forward(run.images["x_test"]), logits, rtol=0, atol=bound)
