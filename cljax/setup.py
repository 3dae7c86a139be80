"""What a run is made of, built from its config."""

import dataclasses
import functools
import importlib.metadata
import platform
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from cljax import rng
from cljax.checkpoints import Checkpoints, unflatten
from cljax.data import sources, streams
from cljax.data.sources import Dataset
from cljax.data.streams import TaskStream
from cljax.errors import UserError
from cljax.execution import Executor
from cljax.methods import make_method
from cljax.methods.base import Finetune
from cljax.stages import Stage
from cljax.state import Data, LearnerState, Task
from cljax.workdir import read_json


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is learned, and by which method.

    Attributes:
      dataset: on the host.
      data: the same on the device.
      streams: a TaskStream per seed, padded to one size.
      method: the method.
      states: per seed, the learner before the first task.
      fingerprint: a checksum of the training images and labels.
    """

    dataset: Dataset
    data: Data
    streams: list[TaskStream]
    method: Finetune
    states: list[LearnerState]
    fingerprint: int

    def plan(self, num_tasks: int | None = None) -> Iterator[tuple[int, int, Stage]]:
        """All stages of the first `num_tasks` tasks (default: all): (task, place, stage)."""
        total = self.streams[0].num_tasks
        for task in range(total if num_tasks is None else num_tasks):
            for place, stage in enumerate(self.method.stages(task, total)):
                yield task, place, stage


def check(config) -> None:
    """Settings that are wrong whatever the data set.

    Raises:
      UserError: names the key, its value and what it may be.
    """
    seeds = config.seeds
    if not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise UserError(f"config.seeds: {seeds} is no tuple of seeds, such as (0,) or (0,1,2)")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"config.seeds: {seeds} names a seed twice")
    at_least_one = {
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "eval.batch_size": config.eval.batch_size,
        "eval.top_k": config.eval.top_k,
        "checkpoint.keep": config.checkpoint.keep,
    }
    if "inversion" in config:
        at_least_one["inversion.steps"] = config.inversion.steps
        at_least_one["inversion.steps_per_epoch"] = config.inversion.steps_per_epoch
    for key, value in at_least_one.items():
        if value < 1:
            raise UserError(f"config.{key}: {value} must be at least 1")
    if not config.schedule_scale > 0:
        raise UserError(f"config.schedule_scale: {config.schedule_scale} must be above 0")
    for key, choices in {
        "seeds": ("auto", "vmap", "sequential"),
        "loop": ("auto", "compiled", "host"),
    }.items():
        if config.execution[key] not in choices:
            raise UserError(
                f"config.execution.{key}: {config.execution[key]!r} is none of {', '.join(choices)}"
            )


def make_executor(config) -> Executor:
    """How this run loops, as config.execution says."""
    return Executor(
        vmap_seeds={"auto": None, "vmap": True, "sequential": False}[config.execution.seeds],
        compiled_loop={"auto": None, "compiled": True, "host": False}[config.execution.loop],
    )


def make_problem(config) -> Problem:
    """Loads the data, splits it into tasks, and builds the method.

    Raises:
      UserError: the data are missing or bad, the split is impossible, or a setting is wrong.
    """
    dataset = sources.load(config.data)
    task_streams = [_make_stream(config, dataset, seed) for seed in config.seeds]
    task_streams = streams.stack_streams(task_streams)
    _check_batch_size(config, task_streams)
    method = make_method(config, dataset)
    train_images, train_labels = (
        jnp.asarray(dataset.train_images),
        jnp.asarray(dataset.train_labels),
    )
    held_out = config.data.validation
    data = Data(
        train_images=train_images,
        train_labels=train_labels,
        eval_images=train_images if held_out else jnp.asarray(dataset.test_images),
        eval_labels=train_labels if held_out else jnp.asarray(dataset.test_labels),
    )
    image_shape = dataset.train_images.shape[1:]
    init = jax.jit(functools.partial(method.init, image_shape=image_shape))
    states = [init(_random_streams(config, seed)) for seed in config.seeds]
    fingerprint = zlib.crc32(dataset.train_labels.tobytes(), zlib.crc32(dataset.train_images))
    return Problem(dataset, data, task_streams, method, states, fingerprint)


def _make_stream(config, dataset, seed):
    return streams.make_stream(
        dataset,
        seed=seed,
        order_seed=seed + config.streams.class_order,
        order=config.data.class_order,
        num_tasks=config.num_tasks,
        first_task_size=config.first_task_size,
        task_sizes=config.task_sizes,
        max_tasks=config.max_tasks,
        validation=config.data.validation,
    )


def _random_streams(config, seed):
    names = (field.name for field in dataclasses.fields(rng.Streams))
    return rng.Streams(**{name: jnp.int32(seed + config.streams[name]) for name in names})


def _check_batch_size(config, task_streams):
    for stream in task_streams:
        smallest = int(stream.train_counts.min())
        if config.batch_size > smallest:
            task = int(stream.train_counts.argmin())
            raise UserError(
                f"config.batch_size: {config.batch_size} is more than the {smallest} training "
                f"images of task {task} (from 0) with seed {stream.seed}; there would be no batch"
            )


def make_task(stream: TaskStream, index: int) -> Task:
    """What compiled functions are told about task `index` (from 0) of a stream."""
    return Task(
        index=jnp.int32(index),
        old=jnp.int32(stream.old(index)),
        seen=jnp.int32(stream.seen(index)),
        indices=jnp.asarray(stream.train_indices[index]),
        count=jnp.int32(stream.train_counts[index]),
        label_map=jnp.asarray(stream.label_map),
        is_first=index == 0,
    )


def adopt_first_task(config, task_streams, states: list[LearnerState]) -> list[LearnerState]:
    """The states with the classifiers that the run in config.first_task_from had after task 0.

    Raises:
      UserError: there is no such run, its first task is not finished, or it learned other classes
        or another network.
    """
    other = Path(config.first_task_from)
    results = read_json(other / "results.json")
    where = f"config.first_task_from={other}"
    if results["dataset"] != config.data.name:
        raise UserError(f"{where}: a run on {results['dataset']}, not on {config.data.name}")
    saved = Checkpoints(other / "models", keep=None)
    arrays, _ = saved.read(0)
    saved.close()
    adopted = []
    for seed, stream, state in zip(config.seeds, task_streams, states, strict=True):
        if seed not in results["seeds"]:
            raise UserError(f"{where}: it has the seeds {results['seeds']}, not {seed}")
        order = results["class_orders"][results["seeds"].index(seed)]
        classes = stream.class_order[: stream.task_sizes[0]].tolist()
        if results["task_sizes"][0] != len(classes) or order[: len(classes)] != classes:
            raise UserError(f"{where}: its first task has other classes with seed {seed}")
        variables = unflatten(state.variables, f"seed{seed}", arrays)
        adopted.append(state.replace(**variables))
    return adopted


def device_name() -> str:
    """The devices that JAX uses, such as "cpu: cpu" or "gpu: NVIDIA H100 x 2"."""
    devices = jax.devices()
    many = f" x {len(devices)}" if len(devices) > 1 else ""
    return f"{devices[0].platform}: {devices[0].device_kind}{many}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
