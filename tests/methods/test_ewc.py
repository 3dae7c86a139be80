"""EWC in the paper's form; LibContinual's is proven by its golden numbers."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.errors import UserError
from cljax.methods.ewc import EWC, FisherStage, PastTasks, add_penalties, penalty
from tests.helpers import libcontinual, tiny
from tests.helpers.tiny_runs import empty_dataset, make_method

DIGITS = empty_dataset(8, 8, 1)


def config_with(**changes):
    config = importlib.import_module("configs.ewc_digits").get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


@pytest.mark.slow
def test_importance_is_the_mean_of_the_images_squared_gradients():
    """Ten images in batches of four; softmax over the new classes, eval mode."""
    vectors = np.random.default_rng(0).normal(size=(5, 5, 12)).astype(np.float32)
    fisher_stage = FisherStage("importance", 1, 0, 4, tiny.sgd(), drop_last=False)
    method = libcontinual.build(EWC, 7, tiny.sgd(), shift=9.0, fisher_stage=fisher_stage)
    data, task = libcontinual.data_of(vectors), libcontinual.make_task((3, 2), 1, 5)
    state = start = method.init(tiny.ZEROS, (12,))
    prepared = fisher_stage.prepare(method, state, task, data, 0)
    step = jax.jit(tiny.step)
    assert fisher_stage.num_steps(0, 10) == 3
    for i in range(3):
        state, _ = step(fisher_stage, method, data, task, 0, prepared, i, state)

    @jax.jit
    @jax.grad
    def gradient(params, image, label):
        variables = {"params": params, "batch_stats": start.batch_stats}
        logits = method.classifier.apply(variables, image[None]).logits[:, 3:5]
        return losses.cross_entropy(logits, label[None] - 3)

    found = [
        jax.tree.map(jnp.square, gradient(start.params, vectors[label, i], jnp.int32(label)))
        for label in (3, 4)
        for i in range(5)
    ]
    want = jax.tree.map(lambda *squares: sum(squares) / 10, *found)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-12)
    jax.tree.map(close, state.extras.task_fisher, want)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, start.batch_stats)
    jax.tree.map(np.testing.assert_array_equal, state.params, start.params)
    merged = method.after_task(state, task, data).extras
    jax.tree.map(np.testing.assert_array_equal, merged.fisher, state.extras.task_fisher)
    assert not any(leaf.any() for leaf in jax.tree.leaves(merged.task_fisher))


def test_one_penalty_pulls_as_those_of_all_tasks_together():
    random = np.random.default_rng(0)
    tasks = [random.normal(size=(2, 6)) for _ in range(3)]  # importance before squaring, weights
    tasks[0][0, :3] = tasks[1][0, 2:4] = 0
    with jax.enable_x64(True):
        zeros = {"w": jnp.zeros(6)}
        past = PastTasks(zeros, zeros, zeros)
        for roots, weights in tasks:
            past = past.replace(task_fisher={"w": jnp.asarray(roots**2)})
            past = add_penalties(past, {"w": jnp.asarray(weights)})
        params = random.normal(size=6)
        found = jax.grad(penalty)({"w": jnp.asarray(params)}, past)["w"]
    want = sum(roots**2 * (params - weights) for roots, weights in tasks)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_only_the_paper_form_skips_the_last_task():
    """LibContinual's pass moves running statistics, by which the last task is evaluated."""
    names = {}
    for name in ("ewc", "libcontinual_ewc"):
        method = make_method(config_with(method__name=name), DIGITS)
        names[name] = [[stage.name for stage in method.stages(t, 2)] for t in (0, 1)]
    assert names["ewc"] == [["train", "importance"], ["train"]]
    assert names["libcontinual_ewc"] == [["train", "importance"]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exemplars__total": 9}, "exemplars.total=9: method 'ewc' keeps no exemplars"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        make_method(config_with(**changes), DIGITS)
