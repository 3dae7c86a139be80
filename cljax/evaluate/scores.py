"""Computes the metrics of saved classifiers, and what each takes for what."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import build, evaluation
from cljax.compute import device, host_images
from cljax.compute.executor import Executor
from cljax.compute.mesh import shard_batch
from cljax.compute.per_seed import PerSeed
from cljax.errors import UserError
from cljax.evaluate import images as images_lib
from cljax.evaluation import Evaluation, EvaluationInput
from cljax.output import metrics
from cljax.problem import Problem
from cljax.saved.models import restore
from cljax.saved.runs import SavedRun


def score(
    run: SavedRun,
    task: int | None = None,
    seeds: Sequence[int] = (),
    data: Mapping[str, Any] | None = None,
    read_outs: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Scores the classifiers that a run saved after every task.

    Args:
      run: the run.
      task: the last task to score, from 1; the last finished one by default.
      seeds: some of the run's seeds; all by default.
      data: keys of `config.data` that differ, see `images.make_problem`.
      read_outs: as `config.eval.read_outs`; the run's own by default.

    Returns:
      What results.json has, with the same numbers on the run's own images, and `confusion`
      [seed][K][K], how many images of label i the last classifier takes for label j, and
      `class_accuracy` [seed][K] in percent, None for a class without images.

    Raises:
      UserError: a value is wrong, or data or models are missing or damaged.
    """
    start = time.perf_counter()
    task = run.check_task(task)
    seeds = tuple(seeds) or run.settings.seeds
    for seed in seeds:
        run.check_seed(seed)
    shown = {} if read_outs is None else {"read_outs": tuple(read_outs)}
    mesh = {"seeds": 0, "data": 0}  # this machine may have other devices
    settings = images_lib.change(run.settings, seeds=seeds, eval=shown, mesh=mesh)
    fixed = device.fixed_settings(build.matmul_precision(settings))
    with device.reporting_memory(), host_images.reporting_mistakes(), fixed:
        problem = images_lib.make_problem(run, settings, data or {})
        executor = build.make_executor(settings)
        how = Evaluation.from_settings(settings.eval)
        counts, states = [], None
        for t in range(task):
            states = _restore(run, problem, executor, t + 1, seeds)
            counts.append(evaluation.evaluate(*_parts(executor, problem), states, t, how))
        assert states is not None, "a finished run has a task"
        confusion = _confuse(executor, problem, states, task - 1, how)
    names = ("own", *settings.eval.read_outs)
    correct = {
        (name, kind): [[count[s][n, k].tolist() for count in counts] for s in range(len(seeds))]
        for n, name in enumerate(names)
        for k, kind in enumerate(("seen", "within_task"))
    }
    streams = problem.streams
    results = metrics.build_results(
        method=settings.method.name,
        dataset=problem.dataset.name,
        seeds=list(seeds),
        class_orders=problem.class_orders,
        class_names=problem.class_names,
        task_sizes=list(streams[0].task_sizes),
        test_images=[stream.eval_counts.tolist() for stream in streams],
        correct=correct["own", "seen"],
        correct_within_task=correct["own", "within_task"],
        read_outs={name: correct[name, "seen"] for name in names[1:]},
        seconds={"total": round(time.perf_counter() - start, 2)},
        device=device.device_name(),
        versions=device.versions(),
        top_k=settings.eval.top_k,
    )
    return results | {
        "dtype": settings.dtype,
        "confusion": [table.tolist() for table in confusion],
        "class_accuracy": [_class_accuracy(table) for table in confusion],
    }


def _parts(executor: Executor, problem: Problem):
    return executor, problem.method, problem.data, problem.streams


def _restore(run, problem, executor, task, seeds) -> PerSeed:
    arrays, record = run.read_models(task)
    if record.data != problem.fingerprint:
        raise UserError(f"{run.workdir / 'models' / str(task)}: is of a run with other data")
    shape = problem.dataset.image_shape
    return executor.distribute(
        [restore(run, problem.method, shape, task, seed, arrays) for seed in seeds]
    )


def _confuse(executor, problem, states, task, how) -> list[np.ndarray]:
    """Counts, for each seed, which label is taken for which: int32 [seen, seen]."""
    size, seen = problem.method.classifier.num_classes, problem.streams[0].seen(task)
    how = Evaluation(how.batch_size)  # by the likeliest class, without other read-outs
    inputs, steps = evaluation.make_inputs(*_parts(executor, problem), states, task, how)
    zeros = [np.zeros((size, size), np.int32) for _ in problem.streams]
    counts = executor.sum_steps(confuse_batch, inputs, zeros, steps)
    return [np.asarray(of_seed)[:seen, :seen] for of_seed in counts]


def confuse_batch(inputs: EvaluationInput, i: jax.Array, counts: jax.Array) -> jax.Array:
    """Adds one batch to counts int32 [K, K]: images of label i that are taken for label j."""
    method, settings, data, state, images, _ = inputs
    rows = shard_batch(i * settings.batch_size + jnp.arange(settings.batch_size))
    indices = images.indices[rows]
    labels = images.label_map[data.eval_labels[indices]]
    pixels = method.preprocessing.test(data.eval_images[indices])
    valid = jnp.arange(method.classifier.num_classes) < images.seen
    predictions = method.inference(state, pixels, valid)[:, 0]
    is_image = (rows < images.stop).astype(jnp.int32)
    return counts.at[labels, predictions].add(is_image)


def _class_accuracy(table: np.ndarray) -> list[float | None]:
    totals = table.sum(1).tolist()
    hits = np.diagonal(table).tolist()
    return [100.0 * hit / n if n else None for hit, n in zip(hits, totals, strict=True)]
