"""What a run of R-DFCIL does around its steps, against the original's events and settings."""

import dataclasses
import importlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cljax.data.streams import class_order, split_sizes
from cljax.interop import torch
from cljax.inversion import Inversion
from cljax.methods.rdfcil import InversionOfOld
from cljax.models import make_classifier
from cljax.optimizers import Multistep
from cljax.stages import StepInput
from cljax.state import Batch
from tests.helpers import rdfcil, tiny
from tests.helpers.goldens import PRECISIONS, Expected, channels_first, enable, jit, network
from tests.helpers.rdfcil import NUM_CLASSES, OLD, SEEN
from tests.helpers.tiny_runs import make_method
from tests.test_build import CIFAR

# The original's data sets and our configs.
CONFIGS = {"cifar100": "rdfcil_cifar100", "tiny-imagenet200": "rdfcil_tiny_imagenet"}


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


def read(goldens, name):
    return json.loads((goldens.folder / f"{name}.json").read_text())


@pytest.mark.parametrize("data", CONFIGS)
def test_configs_hold_the_values_of_the_original(rdfcil_goldens, data):
    original, config = read(rdfcil_goldens, "hparams")[data], load(CONFIGS[data])
    model, method = original["model"], config.method
    optimizer, settings = config.optimizer, config.inversion
    assert optimizer.lr == model["base_lr"] and optimizer.decay == model["lr_factor"]
    assert optimizer.momentum == model["momentum"]
    assert optimizer.weight_decay == model["weight_decay"]
    assert list(config.milestones) == model["milestones"]
    assert config.epochs + method.finetuning_epochs == original["trainer"]["max_epochs"]
    for name in ("finetuning_epochs", "finetuning_lr", "lambda_ce", "lambda_hkd", "lambda_rkd"):
        assert method[name] == model[name], name
    found = settings.steps, settings.lr, settings.temperature, settings.prior, settings.statistics
    names = ("num_inv_iters", "inv_lr", "inv_tau", "inv_alpha_pr", "inv_alpha_rf")
    assert list(found) == [model[name] for name in names] and settings.content == 1
    assert config.batch_size == original["data"]["batch_size"]
    assert config.num_tasks == original["data"]["num_tasks"]
    assert config.drop_last == original["train_loader"]["drop_last"]
    normalised, crop, flip = original["train_transform"][-3:]
    mean, std = normalised[-1]["args"]
    assert (list(config.data.mean), list(config.data.std)) == (mean, std)
    assert (crop["name"], flip["name"]) == ("RandomCrop", "RandomHorizontalFlip")
    assert config.data.augmentation.to_dict() == {
        "brightness": 0.0,
        "contrast": 0.0,
        "flip": True,
        "crop_padding": crop["kwargs"]["padding"],
        "crop_fill": "mean",
        "resized_crop": False,
    }


@pytest.mark.parametrize("data", CONFIGS)
def test_learning_rates_are_the_originals(rdfcil_goldens, data):
    method = make_method(load(CONFIGS[data]), CIFAR)
    stages = method.stages(1, 2)[1:]
    rates = [stage.learning_rate(epoch) for stage in stages for epoch in range(stage.epochs)]
    np.testing.assert_allclose(rates, rdfcil_goldens("rates")[f"lr/{data}"], rtol=1e-6)


@pytest.mark.parametrize(("data", "num_classes"), [("cifar100", 100), ("tiny-imagenet200", 200)])
def test_class_orders_of_the_first_seeds_are_the_originals(rdfcil_goldens, data, num_classes):
    stored = rdfcil_goldens("class_orders")
    for seed in range(3):
        found = class_order("shuffled", num_classes, seed)
        np.testing.assert_array_equal(found, stored[f"order/{data}/{seed}"])
    for tasks in (5, 10, 20):
        sizes = split_sizes(num_classes, tasks)
        np.testing.assert_array_equal(stored[f"sizes/{data}/{tasks}"], sizes)


def test_class_counts_and_weights_are_the_originals(rdfcil_goldens):
    """Over four epochs of two steps, of which the last two train the head."""
    golden = rdfcil_goldens("class_counts")
    method = rdfcil.method(tiny.classifier())
    method = dataclasses.replace(method, classifier=make_classifier("resnet8", NUM_CLASSES))
    state = tiny.learner({}, extras=method.no_labels())
    for i, epoch in enumerate(golden["epoch"]):
        if epoch >= 2:
            state = method.weigh_classes(state, epoch - 2)
            weights = state.extras.weights[:SEEN]
            np.testing.assert_allclose(weights, golden["ft_weight"][i], rtol=1e-6)
            np.testing.assert_allclose(weights, golden["weight_after_epoch"][epoch - 1], rtol=1e-6)
        labels = np.concatenate([golden["labels_real"][i], golden["labels_syn"][i]])
        state = state.replace(extras=method.count(state.extras, labels.astype(np.int32)))
        if i % 2:
            counts = state.extras.counts[:SEEN]
            np.testing.assert_array_equal(counts, golden["count_after_epoch"][epoch])


def parts_that_differ(one, other):
    return {
        name
        for name in one
        if not jax.tree.all(jax.tree.map(np.array_equal, one[name], other[name]))
    }


@pytest.fixture(scope="module")
def small():
    """R-DFCIL on small networks with a generator, and its first state."""
    method = rdfcil.method(make_classifier("resnet8_rdfcil", NUM_CLASSES, 4), tiny.generator())
    init = jax.jit(lambda streams: method.init(streams, tiny.IMAGE_SHAPE))
    return method, init(tiny.ZEROS)


def begin_training(method, state, task, index):
    """The state in which stage `train` of a task starts, but for the inversion's steps."""

    @jax.jit
    def begin(state):
        state = method.before_task(state, task, None)
        stages = method.stages(index, 3)
        for stage in stages[: stages.index(method.training) + 1]:
            state = stage.begin(method, state, task, None)
        return state

    return jax.device_get(begin(state))


@pytest.mark.slow
def test_boundary_of_tasks_is_the_originals(rdfcil_goldens, small):
    """What a new task makes anew, copies and keeps."""
    golden = read(rdfcil_goldens, "boundary")
    method, state = small
    ends, previous = np.cumsum(rdfcil.SIZES), None
    for index, want in enumerate(golden):
        old, seen = (0, *ends)[index], ends[index]
        task = tiny.task(old, seen, index == 0, index=index)
        before = jax.device_get(state)
        after = begin_training(method, state, task, index)
        assert want["head_sizes"] == list(np.diff((0, *ends[: index + 1])))
        assert want["label_counts_all_zero"] and not after.extras.counts.any()
        assert want["class_weights_all_one"] and (after.extras.weights == 1).all()
        assert want["optimiser_state_entries"] == 0
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.opt_state))
        kernel = after.params["head"]["kernel"]
        if index:
            assert want["backbone_kept_with_running_statistics"]
            assert parts_that_differ(before.params, after.params) == {"head", "projections"}
            assert parts_that_differ(before.variables, after.variables) == {"params"}
            changed = (before.params["head"]["kernel"] != kernel).any(0)
            assert want["earlier_heads_kept"]
            np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(old, seen))
            new = kernel[:, old:seen].std()
            np.testing.assert_allclose(new, want["new_head_std"], rtol=0.3)
            assert want["old_model_equals_learner_of_that_moment"]
            assert not parts_that_differ(
                before.params["backbone"], after.teacher["params"]["backbone"]
            )
            np.testing.assert_array_equal(
                after.teacher["params"]["head"]["kernel"][:, :old],
                before.params["head"]["kernel"][:, :old],
            )
            factors = [float(factor) for factor in method.factors(task)]
            np.testing.assert_allclose(factors, list(want["losses_in_order"].values()), rtol=1e-6)
            assert parts_that_differ(vars(before.generator), vars(after.generator)) >= {"params"}
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.generator.opt_state))
        if index == 2:
            assert want["generator_drawn_anew"] and want["projections_drawn_anew"]
            assert parts_that_differ(previous.params, after.params) >= {"projections"}
            assert parts_that_differ(vars(previous.generator), vars(after.generator)) == {"params"}
        previous = after
        # A task that has changed everything.
        state = jax.tree.map(lambda leaf: leaf + 1, after).replace(streams=after.streams)


@pytest.mark.slow
def test_steps_of_a_run_are_the_originals(rdfcil_goldens, small):
    """What moves in each step, at which rate; the first task's idle epochs are left out."""
    events = read(rdfcil_goldens, "trace")
    starts = [i for i, event in enumerate(events) if event[0] not in ("step", "epoch_end")]
    parts = [events[i + 1 : j] for i, j in zip(starts, [*starts[1:], None], strict=True)]
    method, state = small
    slow = dataclasses.replace(method.training.optimizer, learning_rate=0.01)
    method = dataclasses.replace(
        method,
        training=dataclasses.replace(
            method.training, epochs=2, optimizer=slow, schedule=Multistep(0.1, (1,))
        ),
        head_stage=dataclasses.replace(method.head_stage, epochs=2),
    )
    update = jax.jit(tiny.update)
    for index, part in enumerate(parts[:2]):
        wanted = [event[1] for event in part if event[0] == "step" and event[1]["terms"]]
        task = rdfcil.third_task() if index else tiny.task(0, rdfcil.SIZES[0], True)
        labels = np.arange(12, dtype=np.int32) % rdfcil.SIZES[0] + int(task.old)
        batch = Batch(tiny.images(12, 0), labels, None)
        state = state.replace(generator=tiny.images(12, 1))
        steps = iter(wanted)
        for stage in method.stages(index, 3)[1 if index else 0 :]:
            state = stage.begin(method, state, task, None)
            for epoch in (0, 0, 1, 1):
                want, before = next(steps), state
                args = stage, method, state, task, batch, epoch
                state, metrics = update(*args, rdfcil.key())
                rate = stage.log_scalars(epoch)["learning_rate"]
                np.testing.assert_allclose(rate, want["lr"], rtol=1e-6)
                moved = parts_that_differ(before.params, state.params)
                names = {"backbone", "head"} | ({"projections"} if index else set())
                # There the original's projections go on by momentum, to no effect.
                names = {"head"} if want["finetuning"] else names
                assert moved - (set() if index else {"projections"}) == names
                stays = not parts_that_differ({"": before.batch_stats}, {"": state.batch_stats})
                assert stays != want["running_statistics_moved"]
                terms = set(metrics) - {"loss", "accuracy", "dreamed_accuracy"}
                assert len(terms) == len(want["terms"])
        assert next(steps, None) is None


@pytest.fixture(scope="module", params=PRECISIONS)
def inverted(rdfcil_goldens, request):
    """Three steps of the golden inversion."""
    precision = request.param
    module, teacher = rdfcil.classifier(rdfcil_goldens, "T", precision)
    generator, start = network(rdfcil_goldens, "G", precision)
    expected = Expected(rdfcil_goldens, "inversion", precision)
    stage = InversionOfOld("invert", 1, 0, 3, Inversion(generator, steps=3, batch_size=12))
    method = rdfcil.method(module, generator)
    latents = expected["z"].astype(precision)
    update = jit(stage.update.__func__)
    with enable(precision):
        state = tiny.learner({}, teacher=teacher, generator=tiny.fresh(start))
        task = rdfcil.third_task()
        inputs = StepInput(method, stage, None, task, 0)
        inputs = inputs._replace(prepared=stage.prepare(method, state, task, None, 0))
        images = jit(lambda z: generator.apply(start, z, train=True, mutable=["batch_stats"])[0])
        images, history, after = images(latents[0]), [], []
        for z in latents:
            state, metrics = update(stage, inputs, state, z)
            history.append(metrics)
            after.append(state)
        grads = jax.tree.map(lambda mu: mu / (1 - 0.9), after[0].generator.opt_state.mu)
        grads = {"params": grads, "batch_stats": start["batch_stats"]}
        variables = {"params": state.generator.params, "batch_stats": state.generator.batch_stats}
        sampled = jit(lambda v, z: generator.apply(v, z, train=False))(
            variables, rdfcil_goldens("inputs")["z"].astype(precision)
        )
        labels = jit(lambda images: module.apply(teacher, images).logits[:, :OLD].argmax(-1))
        _, collected = jit(lambda x: module.apply(teacher, x, mutable=["moments"]))(images)
        divergences = tiny.divergences(teacher["batch_stats"], collected["moments"])
        return SimpleNamespace(
            expected=expected,
            precision=precision,
            images=images,
            divergences={name: np.asarray(value) for name, value in divergences.items()},
            metrics={name: np.stack([m[name] for m in history]) for name in history[0]},
            grads=torch.generator_to_torch(generator, grads),
            tensors=torch.generator_to_torch(generator, variables),
            sampled=np.asarray(sampled),
            labels=np.asarray(labels(sampled)),
        )


@pytest.mark.slow
def test_inversion_is_the_originals(inverted):
    """Old classes only are known to the teacher, whose head has more columns."""
    expected, metrics = inverted.expected, inverted.metrics
    expected.forward("images_step0", channels_first(inverted.images)[:4])
    terms = {"content": "content", "balance": "balance", "statistics": "feature", "prior": "prior"}
    layers = [f"stage{i}_block{j}/bn{k}" for i in (1, 2, 3) for j in range(5) for k in (1, 2)]
    divergences = [inverted.divergences[f"backbone/{layer}"] for layer in ("bn1", *layers)]
    assert len(divergences) == len(inverted.divergences)
    expected.forward("term_feature_raw", np.stack(divergences))
    expected.forward("total", metrics["loss"][0])
    for name, golden in terms.items():
        expected.forward(f"term_{golden}", metrics[name][0])
    for name in (name for name in expected.names if name.startswith("grad/")):
        expected.update(name, inverted.grads[name.removeprefix("grad/")])
    norms = [np.linalg.norm(inverted.grads[name]) for name in expected["grad_names"]]
    expected.update("grad_norm", np.array(norms, inverted.precision))
    # Adam's first steps amplify rounding: later ones are compared in float64.
    if inverted.precision == "float64":
        for name, golden in terms.items():
            expected.forward(f"trajectory_{golden}", metrics[name])
        expected.forward("trajectory_total", metrics["loss"])
        for name in (name for name in expected.names if name.startswith("after3/")):
            expected.forward(name, inverted.tensors[name.removeprefix("after3/")])
        expected.forward("sample_channel_mean", inverted.sampled.mean((0, 1, 2)))
        np.testing.assert_array_equal(inverted.labels, expected["sample_y_float64"])
        given = ("sample_y", "sample_y_float64", "sample_margin", "z", "grad_names")
        expected.all_compared(*given)
