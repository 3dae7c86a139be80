"""Fine-tuning, LwF, iCaRL, WA and EWC in LibContinual's forms against its own numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.memory.policy import MemoryPolicy
from cljax.methods.base import Finetune
from cljax.methods.ewc import penalty
from cljax.methods.libcontinual import (
    BatchFisherStage,
    LibContinualEWC,
    LibContinualICaRL,
    LibContinualLwF,
    LibContinualWA,
)
from cljax.optimizers import SGD
from tests.helpers import libcontinual, tiny
from tests.helpers.libcontinual import (
    Expected,
    begin,
    loss_with_eval_teacher,
    make_task,
    start,
    step,
)

pytestmark = pytest.mark.slow

PUBLISHED = SGD(0.1, 0.9, 5e-4)
call = jax.jit(lambda method, name, *args: getattr(method, name)(*args), static_argnums=1)


def pairs(exemplars, per_class):
    """Exemplars in stored order as (class, sample)."""
    indices = np.asarray(exemplars.indices)[: int(exemplars.counts.sum())]
    return np.stack(np.divmod(indices, per_class), 1)


def test_finetune(lucir_goldens):
    expected = Expected(lucir_goldens, "lib_finetune")
    method = libcontinual.build(Finetune, 6, PUBLISHED)
    # It has all six classes in its softmax, so all of them are seen.
    task = tiny.task(0, 6, True)
    state = begin(method, expected, start(method, expected, "before."), task, "before.")
    for name in ("step1", "step2"):
        state, _ = step(method, expected, state, task, name)
    images = expected["inference.x"]
    answers = call(method, "inference", state, images, method.classes(0, 6))[:, 0]
    expected.close("forward", method.forward(state, images))
    expected.equal("inference.pred", answers)
    expected.close("inference.acc", jnp.mean(answers == expected["inference.y"]))
    inputs = [name for name in expected.arrays if name.endswith((".x", ".y"))]
    expected.all_compared(*inputs)


def test_lwf(lucir_goldens):
    expected = Expected(lucir_goldens, "lib_lwf")
    plain = SGD(0.1, 0.0, 0.0)
    method = libcontinual.build(LibContinualLwF, 7, plain, mu=3.0)
    state = start(method, expected, "task0.before.")
    for t, (old, seen) in enumerate([(0, 3), (3, 5)]):
        task = tiny.task(old, seen, t == 0)
        state = begin(method, expected, state, task, f"task{t}.before.")
        if t:
            expected.network("task1.teacher_before.", state.teacher, old)
            loss_with_eval_teacher(method, expected, state, task, "task1.step1")
        state, terms = step(method, expected, state, task, f"task{t}.step1")
        expected.close(f"task{t}.cross_entropy", terms["class"])
        assert (state.params["head"]["kernel"][:, seen:] == 7).all()
        state = call(method, "after_task", state, task, None)
    inputs = [name for name in expected.arrays if name.endswith((".x", ".y"))]
    expected.all_compared(*inputs)


def test_icarl(lucir_goldens):
    expected = Expected(lucir_goldens, "lib_icarl")
    vectors = expected["vectors"]
    memory = MemoryPolicy(int(expected["buffer_size"]), "herding", "all", False)
    method = libcontinual.build(LibContinualICaRL, 8, PUBLISHED, memory=memory)
    state, data = start(method, expected, "task0.before."), libcontinual.data_of(vectors)
    for t in range(3):
        task = make_task((4, 2, 2), t, vectors.shape[1])
        name = f"task{t}.step1"
        state = begin(method, expected, state, task, f"task{t}.before.")
        if t:
            expected.network(f"task{t}.teacher_before.", state.teacher, 8)
            loss_with_eval_teacher(method, expected, state, task, name)
        state, _ = step(method, expected, state, task, name)
        images, seen = expected[f"{name}.x"], method.classes(0, task.seen)
        found = losses.masked_argmax(method.forward(state, images), seen)
        expected.equal(f"task{t}.inference_before_after_task", found)
        state = call(method, "after_task", state, task, data)
        expected.equal(f"task{t}.exemplars_in_order", pairs(state.exemplars, vectors.shape[1]))
        expected.close(f"task{t}.class_means", state.extras.T[: int(task.seen)])
        found = call(method, "inference", state, images, seen)[:, 0]
        expected.equal(f"task{t}.inference_nme", found)
        right = found == expected[f"{name}.y"]
        expected.close(f"task{t}.inference_nme_acc", jnp.mean(right))
    inputs = [name for name in expected.arrays if name.endswith((".x", ".y"))]
    expected.all_compared(*inputs, "vectors", "init_cls_num", "inc_cls_num", "buffer_size")


def test_wa(lucir_goldens):
    expected = Expected(lucir_goldens, "lib_wa")
    vectors = expected["vectors"]
    method = libcontinual.build(
        LibContinualWA,
        8,
        dataclasses.replace(PUBLISHED, weight_decay=2e-4),
        memory=MemoryPolicy(18, "herding", "all", False),
    )
    state, data = start(method, expected, "task0.before."), libcontinual.data_of(vectors)
    for t in range(2):
        task = make_task((3, 3), t, vectors.shape[1])
        name, seen = f"task{t}.step1", int(task.seen)
        state = begin(method, expected, state, task, f"task{t}.before.")
        if t:
            expected.network("task1.teacher_before.", state.teacher, 3)
            loss_with_eval_teacher(method, expected, state, task, name)

        def loss(params, state=state, task=task, name=name):
            batch = libcontinual.batch_of(expected, name)
            return method.observe(state.replace(params=params), task, batch, None).loss

        grads = jax.jit(jax.grad(loss))(state.params)["head"]["kernel"].T
        expected.close(f"task{t}.gradient_of_head", grads[:seen])
        state, _ = step(method, expected, state, task, name)
        state = call(method, "after_task", state, task, data)
        head = libcontinual.to_torch(state.variables, seen)
        for part in ("weight", "bias"):
            expected.close(f"task{t}.head_after_task.{part}", head[f"classifier.{part}"])
        expected.equal(f"task{t}.exemplars_in_order", pairs(state.exemplars, vectors.shape[1]))
        assert (state.params["head"]["kernel"][:, seen:] == 7).all()
    inputs = [name for name in expected.arrays if name.endswith((".x", ".y"))]
    expected.all_compared(*inputs, "vectors", "classes_per_task")


def test_ewc(lucir_goldens):
    expected = Expected(lucir_goldens, "lib_ewc")
    vectors, size = expected["vectors"], int(expected["loader_batch_size"])
    fisher_stage = BatchFisherStage("importance", 1, 0, size, PUBLISHED, drop_last=False)
    lamda = float(expected["lamda"])
    method = libcontinual.build(
        LibContinualEWC, 9, PUBLISHED, fisher_stage=fisher_stage, lamda=lamda
    )
    state, data = start(method, expected, "task0.before."), libcontinual.data_of(vectors)
    gather = jax.jit(tiny.step)
    for t in range(3):
        task = make_task((3, 2, 2), t, vectors.shape[1])
        state = begin(method, expected, state, task, f"task{t}.before.")
        for i in (1, 2):
            if t:
                # A square of small changes, so to within a share of its size.
                name = f"task{t}.step{i}.penalty"
                bound = 1e-4 * expected[name] + 1e-12
                expected.close(name, penalty(state.params, state.extras), bound)
            state, _ = step(method, expected, state, task, f"task{t}.step{i}")
        count = int(task.images.count)
        prepared = fisher_stage.prepare(method, state, task, data, 0)
        prepared = prepared._replace(order=jnp.pad(task.images.indices, (0, size)))
        for i in range(fisher_stage.num_steps(0, count)):
            state, _ = gather(fisher_stage, method, data, task, 0, prepared, i, state)
        state = call(method, "after_task", state, task, data)
        importance = {"params": state.extras.fisher}
        for name, tensor in libcontinual.to_torch(importance, int(task.seen)).items():
            # Batch norm takes the bias before it away, and with it its gradient, but for rounding.
            is_zero = name == "backbone.fc.bias"
            name = f"task{t}.fisher.{name}"
            largest = np.abs(expected[name]).max()
            expected.close(name, tensor, 1e-14 if is_zero else 1e-5 * largest)
        expected.network(f"task{t}.after_task.", state.variables, int(task.seen))
        assert (state.params["head"]["kernel"][:, int(task.seen) :] == 7).all()
    inputs = [name for name in expected.arrays if name.endswith((".x", ".y"))]
    numbers = ("vectors", "lamda", "init_cls_num", "inc_cls_num", "loader_batch_size")
    expected.all_compared(*inputs, *numbers)
