"""What a run is made of, built from its config."""

import dataclasses
import functools
import importlib.metadata
import math
import platform
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from cljax import __version__, evaluation, mesh, prototypes, rng, source
from cljax.checkpoints import Checkpoints, unflatten
from cljax.configure import check_choice, make_method
from cljax.data import sources, streams
from cljax.data.sources import Dataset
from cljax.data.streams import TaskStream
from cljax.errors import UserError
from cljax.execution import Executor
from cljax.methods.base import Finetune
from cljax.metrics import FORMAT, READ_OUTS
from cljax.stages import Stage
from cljax.state import Data, LearnerState, Task
from cljax.tasks import make_task
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
      fingerprint: a checksum of all images and labels.
    """

    dataset: Dataset
    data: Data
    streams: list[TaskStream]
    method: Finetune
    states: list[LearnerState]
    fingerprint: int

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.streams[0].num_tasks

    def tasks(self, index: int) -> list[Task]:
        """Task `index` (from 0) of each seed."""
        labels, joint = self.dataset.train_labels, self.method.is_joint
        return [make_task(stream, index, labels, joint) for stream in self.streams]

    def num_images(self, task: int) -> int:
        """New training images of a task (joint training: of all tasks so far), of all seeds."""
        tasks = slice(0 if self.method.is_joint else task, task + 1)
        return sum(int(stream.train_counts[tasks].sum()) for stream in self.streams)

    def plan(self, num_tasks: int | None = None) -> Iterator[tuple[int, int, Stage]]:
        """All stages of the first `num_tasks` tasks (default: all): (task, place, stage)."""
        for task in range(self.num_tasks if num_tasks is None else num_tasks):
            for place, stage in enumerate(self.method.stages(task, self.num_tasks)):
                yield task, place, stage


def check(config) -> None:
    """Settings that are wrong whatever the data set.

    Raises:
      UserError: names the key, its value and what it may be.
    """
    _check_seeds(config)
    _check_numbers(config)
    check_choice("execution.seeds", config.execution.seeds, ("auto", "sequential", "vmap"))
    check_choice("execution.loop", config.execution.loop, ("auto", "compiled", "host"))
    check_choice("eval.mirror", config.eval.mirror, prototypes.MIRRORS)
    for name in config.eval.read_outs:
        check_choice("eval.read_outs", name, READ_OUTS)
    _make_mesh(config)


def _check_seeds(config):
    seeds = config.seeds
    if not seeds or not all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds):
        raise UserError(f"config.seeds: {seeds} is no tuple of seeds, such as (0,) or (0,1,2)")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"config.seeds: {seeds} names a seed twice")
    for name, offset in config.streams.items():
        if not -(2**31) <= offset < 2**31 - max(seeds):
            raise UserError(f"config.streams.{name}: {offset} leaves the range of 32 bits")


def _check_numbers(config):
    for key in ("task_sizes", "milestones"):
        if not all(isinstance(n, int) for n in config[key]):
            raise UserError(f"config.{key}: {config[key]} is no tuple of whole numbers")
    at_least_one = {
        "model.width": config.model.width,
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "eval.top_k": config.eval.top_k,
        "checkpoint.keep": config.checkpoint.keep,
    }
    if "inversion" in config:
        at_least_one["inversion.steps"] = config.inversion.steps
        at_least_one["inversion.steps_per_epoch"] = config.inversion.steps_per_epoch
    for key, value in at_least_one.items():
        if value < 1:
            raise UserError(f"config.{key}: {value} must be at least 1")
    if config.eval.batch_size < 0:
        value = config.eval.batch_size
        raise UserError(f"config.eval.batch_size: {value} must be 0 (what is fast) or more")
    above_zero = {"schedule_scale": config.schedule_scale, "optimizer.lr": config.optimizer.lr}
    if "inversion" in config:
        above_zero["inversion.lr"] = config.inversion.lr
        above_zero["inversion.temperature"] = config.inversion.temperature
    for key, value in above_zero.items():
        if not 0 < value < math.inf:
            raise UserError(f"config.{key}: {value} must be a finite number above 0")


def make_executor(config) -> Executor:
    """How this run loops, as config.execution and config.mesh say.

    Raises:
      UserError: there is no such mesh.
    """
    return Executor(
        # "auto" is one after the other: what is fast on CPU, and not measured elsewhere yet.
        vmap_seeds=config.execution.seeds == "vmap",
        compiled_loop={"auto": None, "compiled": True, "host": False}[config.execution.loop],
        mesh=_make_mesh(config),
    )


def _make_mesh(config):
    divided = math.gcd(config.batch_size, config.eval.batch_size or evaluation.BATCH)
    return mesh.make_mesh(config.mesh.seeds, config.mesh.data, len(config.seeds), divided)


def make_problem(config, dataset: Dataset | None = None) -> Problem:
    """Loads the data, unless they are given, splits them into tasks, and builds the method.

    Raises:
      UserError: the data are missing or bad, the split is impossible, or a setting is wrong.
    """
    dataset = dataset or sources.load(config.data)
    task_streams = [_make_stream(config, dataset, seed) for seed in config.seeds]
    task_streams = streams.stack_streams(task_streams)
    _check_batch_size(config, task_streams)
    if config.eval.top_k > dataset.num_classes:
        raise UserError(
            f"config.eval.top_k: {config.eval.top_k} is more than the {dataset.num_classes} classes"
        )
    method = make_method(config, dataset)
    method.check_tasks(task_streams[0].task_sizes)
    if "nme" in config.eval.read_outs and not method.memory.size:
        raise UserError("config.eval.read_outs: 'nme' is of exemplars, but none are kept")
    data = _make_data(config, dataset)
    image_shape = dataset.train_images.shape[1:]

    # Optimised on a CPU in full, this would compile for seconds to run for milliseconds.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None

    @functools.partial(jax.jit, compiler_options=options)
    def init(random_streams):
        state = method.init(random_streams, image_shape)
        return state.replace(opt_state=method.training.optimizer.init(state.params))

    states = [init(_random_streams(config, seed)) for seed in config.seeds]
    return Problem(dataset, data, task_streams, method, states, _fingerprint(dataset))


def _make_data(config, dataset):
    devices = _make_mesh(config)
    train = mesh.replicate(devices, (dataset.train_images, dataset.train_labels))
    if config.data.validation:
        return Data(*train, *train)
    return Data(*train, *mesh.replicate(devices, (dataset.test_images, dataset.test_labels)))


def _fingerprint(dataset):
    result = 0
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            array = getattr(dataset, f"{split}_{kind}")
            result = zlib.crc32(np.ascontiguousarray(array), result)
    return result


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
    return rng.Streams(**{name: np.int32(seed + config.streams[name]) for name in names})


def _check_batch_size(config, task_streams):
    for stream in task_streams:
        smallest = int(stream.train_counts.min())
        if config.batch_size > smallest:
            task = int(stream.train_counts.argmin())
            raise UserError(
                f"config.batch_size: {config.batch_size} is more than the {smallest} training "
                f"images of task {task + 1} with seed {stream.seed}; there would be no batch"
            )


def model_number(task: int) -> int:
    """The number in models/ of the classifier after `task` (from 0): users count from 1."""
    return task + 1


def adopt_first_task(config, problem: Problem, states: list[LearnerState]) -> list[LearnerState]:
    """The states with the classifiers that the run in config.first_task_from had after task 1.

    Raises:
      UserError: there is no such run, its first task is not finished, or it learned other data,
        other classes or another network.
    """
    other = Path(config.first_task_from)
    where = f"config.first_task_from={other}"
    if not (other / "results.json").is_file():
        raise UserError(f"{where}: no run there has finished its first task")
    results = read_json(other / "results.json")
    if results.get("format") != FORMAT:
        raise UserError(
            f"{where}: results.json is of another program or version: format "
            f"{results.get('format')} instead of {FORMAT}"
        )
    saved = Checkpoints(other / "models", keep=None, read_only=True)
    arrays, record = saved.read(model_number(0))
    saved.close()
    if results["dataset"] != config.data.name:
        raise UserError(f"{where}: a run on {results['dataset']}, not on {config.data.name}")
    if read_json(other / "config.json")["data"].get("standardise") != config.data.standardise:
        raise UserError(f"{where}: config.data.standardise is not the same there")
    if record["data"] != problem.fingerprint:
        raise UserError(f"{where}: its data differ from what {config.data.name} holds here")
    adopted = []
    for seed, stream, state in zip(config.seeds, problem.streams, states, strict=True):
        if seed not in results["seeds"]:
            raise UserError(f"{where}: it has the seeds {results['seeds']}, not {seed}")
        place = results["seeds"].index(seed)
        order = results["class_orders"][place]
        classes = stream.class_order[: stream.task_sizes[0]].tolist()
        if results["task_sizes"][0] != len(classes) or order[: len(classes)] != classes:
            raise UserError(f"{where}: its first task has other classes with seed {seed}")
        if results["test_images"][place][0] != stream.eval_counts[0]:
            raise UserError(f"{where}: config.data.validation is not the same there")
        kept = {name: state.params[name] for name in problem.method.own_parameters}
        params = {name: p for name, p in state.params.items() if name not in kept}
        try:
            found = unflatten(state.replace(params=params).variables, f"seed{seed}", arrays)
        except UserError as error:
            raise UserError(f"{where}: it has another network: {error}") from error
        found["params"] |= kept
        adopted.append(state.replace(**found))
    return adopted


def device_name() -> str:
    """The devices that JAX has, such as "cpu: cpu" or "gpu: NVIDIA H100 x 2"."""
    devices = jax.devices()
    many = f" x {len(devices)}" if len(devices) > 1 else ""
    return f"{devices[0].platform}: {devices[0].device_kind}{many}"


def versions() -> dict[str, str]:
    """Returns the versions of Python, this program and the packages that numbers depend on.

    "commit" is among them where `source.commit` knows one.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version(), "cljax": __version__}
    if commit := source.commit():
        found["commit"] = commit
    return found | {name: importlib.metadata.version(name) for name in packages}
