"""Measures the rows of a benchmark: steps, evaluation and memory of a config, as in a run."""

import dataclasses
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from cljax import build, evaluation, experiment, problem, training
from cljax import settings as settings_lib
from cljax.benchmark import measure
from cljax.compute import device
from cljax.compute import mesh as mesh_lib
from cljax.compute.executor import Executor
from cljax.compute.host_images import HostImages, windows
from cljax.data import residence, sources
from cljax.data.sources import Dataset
from cljax.settings import Settings
from cljax.stages import InversionStage, Stage, StepInput
from cljax.state import Data, LearnerState, Task

# Data sets of 32x32x3 that are not read: (classes, training and test images of each).
_CIFAR = {"cifar10": (10, 5000, 1000), "cifar100": (100, 500, 100)}
_TRACED_STEPS = 3
_WAITING_STEPS = 10  # in which the share of waiting is measured
_SHARING = "sequential", "interleaved", "vmap"
_LATER = 1  # the later task whose steps are timed, from 0


@dataclasses.dataclass
class Workload:
    """Describes one workload to time.

    Attributes:
      run: runs a number of steps and waits for the device.
      max_steps: largest number of steps at once.
      images: images per step and seed.
      executor: runs the steps.
      function: function whose program is analyzed; None: the work is the host's.
      repeats_per_step: how often the program, or the body of its loop, runs in a step of a seed.
      has_loops: whether the program has inner loops, which XLA's analysis counts once.
      waits: whether steps wait for images of the host.
    """

    run: Callable[[int], None]
    max_steps: int
    images: float
    executor: Executor
    function: Callable | None
    repeats_per_step: int = 1
    has_loops: bool = False
    waits: bool = False


def load(settings: Settings) -> Dataset:
    """Loads the dataset of a config; for CIFAR, random pixels of the same shape and number."""
    if settings.data.name not in _CIFAR:
        return sources.load(settings.data)
    classes, train, test = _CIFAR[settings.data.name]
    train = min(train, settings.data.per_class or train)
    random = np.random.default_rng(0)

    def images(count):
        labels = np.arange(count * classes, dtype=np.int32) % classes
        return random.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels

    names = tuple(map(str, range(classes)))
    moments = sources.PUBLISHED_MOMENTS[settings.data.name]
    return Dataset(settings.data.name, *images(train), *images(test), classes, names, *moments)


def kinds_of_rows(settings: Settings, method) -> dict[str, tuple]:
    """Returns the rows of a config in order: name -> (kind, arguments of the kind)."""
    kinds: dict[str, tuple] = {"plain_step": ("stage", method.training, 0)}
    for stage in method.stages(_LATER, _LATER + 2):
        name = "inversion" if isinstance(stage, InversionStage) else stage.name
        name = settings.method.name.rpartition(":")[2] if stage is method.training else name
        kinds[f"{name}_step"] = ("stage", stage, _LATER)
    kinds["evaluation"] = ("evaluation",)
    if method.memory.size:
        herds = method.memory.strategy.startswith("herding")
        kinds["herding" if herds else "exemplars"] = ("herding",)
    kinds["streamed_step"] = ("streamed", method.training)
    kinds["input"] = ("input", method.training)
    return kinds


class Bench:
    """Measures the rows of one config in one precision.

    Attributes:
      seconds: approximate duration of the repetitions of a row.
      profile: directory of traces, or None.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        dtype: str,
        seconds: float,
        profile: Path | None = None,
    ):
        """Builds the problem; raises UserError if a setting is wrong."""
        changes = {"dtype": dtype, "seeds": settings.seeds[:1], "max_tasks": 0}
        self.settings = settings.model_copy(update=changes)
        build.check(self.settings)
        self.precision = build.matmul_precision(self.settings)
        self.seconds = seconds
        self.profile = profile
        with device.fixed_settings(self.precision):
            self.problem = problem.make_problem(self.settings, dataset)
        self.kinds = kinds_of_rows(self.settings, self.problem.method)
        self._learners = {}
        self._sequential = None

    def rows(self, name: str, seeds: Iterable[int] = ()) -> list[dict]:
        """Measures the rows of a name: with one seed and, for a stage, with each number in `seeds`.

        A row is left out if the device has too little memory, or the stage has no images.
        """
        self._sequential = None
        kind, *args = self.kinds[name]
        more = [n for n in seeds if n > 1] if kind == "stage" else []
        forms = [(1, "sequential"), *itertools.product(more, _SHARING)]
        with device.fixed_settings(self.precision):
            rows = [self._row(name, kind, args, *form) for form in forms]
        return [row for row in rows if row]

    def _row(self, name, kind, args, seeds, sharing):
        measure.forget_host_peak()
        execution = self.settings.execution.model_copy(update={"seeds": sharing})
        changes = {"seeds": tuple(range(seeds)), "execution": execution}
        settings = self.settings.model_copy(update=changes)
        try:
            return self._measure(name, settings, getattr(self, f"_{kind}")(settings, *args))
        except RuntimeError as error:
            if device.is_out_of_memory(error):
                return None
            raise

    def _measure(self, name, settings, work):
        seeds, sharing = len(settings.seeds), settings.execution.seeds
        if not work.max_steps:  # a stage without images
            return None
        row = {"name": name, **describe(settings), "sharing": sharing}
        row |= self._time(work)
        if self.profile and seeds == 1:
            folder = self.profile / f"{name}_{settings.dtype}"
            with jax.profiler.trace(folder, create_perfetto_trace=True):
                work.run(min(work.max_steps, _TRACED_STEPS))
        images = work.images * seeds
        row["seconds_per_seed"] = row["seconds"] / seeds
        row |= {"images_per_step": images, "images_per_second": images / row["seconds"]}
        executor = work.executor
        cost = dict.fromkeys(("flops", "bytes", "memory"))
        if work.function:
            cost = measure.cost(executor.lower(work.function))
        repeats = work.repeats_per_step * (seeds if sharing == "sequential" else 1)
        row |= {key: cost[key] and cost[key] * repeats for key in ("flops", "bytes")}
        row["has_loops"] = work.has_loops
        row["mesh"] = executor.mesh and dict(executor.mesh.shape)
        peak = measure.device_peak()
        row["device_memory"] = cost["memory"] if peak is None else peak
        row["device_memory_source"] = "program" if peak is None else "allocator"
        row["host_memory"] = measure.host_peak()
        row["wait_share"] = self._wait_share(work) if work.waits else None
        return row

    def _wait_share(self, work):
        """Returns the fraction of the time of steps in which the device has nothing to do."""
        executor, before, start = work.executor, work.executor.idle_seconds, time.perf_counter()
        work.run(min(work.max_steps, _WAITING_STEPS))
        return (executor.idle_seconds - before) / (time.perf_counter() - start)

    def _time(self, work):
        """Times a first step, which compiles, one step to see how many fit, and the repetitions."""
        compiled, seconds = measure.num_compilations(), work.executor.compile_seconds
        work.run(1)
        compiled = measure.num_compilations() - compiled
        seconds = work.executor.compile_seconds - seconds
        [pilot] = measure.time_calls(lambda: work.run(1), 0.0, least=1)
        steps = max(1, min(work.max_steps, int(self.seconds / 5 / pilot)))
        times = measure.time_calls(lambda: work.run(steps), self.seconds)
        return {
            **measure.summarise([t / steps for t in times]),
            "steps_per_repetition": steps,
            "compile_seconds": seconds,
            "compilations": compiled,
        }

    def _executor(self, settings):
        """Makes an executor for the seeds in `settings`, and puts the dataset on its devices."""
        executor, data = build.make_executor(settings), self.problem.data
        if executor.mesh is None and executor.sharing == "sequential":
            # One program for all numbers.
            executor = self._sequential = self._sequential or executor
        if executor.mesh is not None:
            data = mesh_lib.replicate(executor.mesh, jax.device_get(data))
        return executor, data

    def _learner(self, index):
        """Returns one seed's state and task before the first stage of a task, on the host.

        Previous tasks are not trained; some of their images are exemplars.
        """
        if index not in self._learners:
            method, data = self.problem.method, self.problem.data
            state = self.problem.states[0]
            if index:
                past = self.problem.tasks(index - 1)[0]
                state = jax.jit(remember)(method, state, past, data)
            task = self.problem.tasks(index)[0]
            state = jax.jit(type(method).before_task)(method, state, task, data)
            self._learners[index] = jax.device_get((state, task))
        return self._learners[index]

    def _distributed(self, executor, index, seeds):
        """Distributes states and tasks of equal seeds, each with its own buffers."""
        return (
            executor.distribute([jax.tree.map(jnp.array, value) for _ in range(seeds)])
            for value in self._learner(index)
        )

    def _stage(self, settings, stage: Stage, index: int, streams: bool = False) -> Workload:
        """Makes the workload of steps of a stage in task `index`, or with images on the host."""
        (executor, data), count = self._executor(settings), len(settings.seeds)
        method = self.problem.method
        if streams:
            placed, _ = residence.place(self.problem.dataset, "stream", False, executor.mesh)
            data = data.replace(train_images=placed.train_images)
        states, tasks = self._distributed(executor, index, count)
        if not stage.first_task_differs:
            tasks = tasks.map(lambda task: task.replace(is_first=False))
        states = executor.call(type(stage).begin, stage, method, states, tasks, data)
        images = executor.call(type(stage).training_set, stage, method, states, tasks, data)
        tasks = tasks.map(lambda task, found: task.replace(images=found), images)
        inputs = StepInput(
            method,
            stage,
            data,
            tasks,  # pyright: ignore[reportArgumentType]  # here for all seeds
            jax.device_put(np.int32(0)),
        )

        def run(steps):
            nonlocal states
            after = training.run_epoch(executor, inputs, states, [steps] * count)
            states = jax.block_until_ready(after.map(lambda state: state.learner))

        most = self._most_steps(executor, stage, images)
        function, images = training.train_step, stage.images_per_step
        return Workload(run, most, images, executor, function, waits=streams)

    def _most_steps(self, executor, stage, images):
        """Counts the steps of an epoch on the first seed's images."""
        [most, *_] = executor.collect(images.map(lambda found: found.count))
        return stage.num_steps(0, int(most))

    def _streamed(self, settings, stage: Stage) -> Workload:
        """Makes the workload of steps of a stage in the first task, with images on the host."""
        return self._stage(settings, stage, 0, streams=True)

    def _input(self, settings, stage: Stage) -> Workload:
        """Makes the workload of bringing batches from the host to the device, without steps."""
        executor = build.make_executor(settings)
        images = HostImages(self.problem.dataset.train_images)
        rows = self.problem.tasks(0)[0].images
        order = np.random.default_rng(0).permutation(np.asarray(rows.indices[: int(rows.count)]))
        size = stage.images_per_step

        def run(steps):
            for window in windows(executor, images, [order], size, [0], [steps]):
                jax.block_until_ready(window.images)

        return Workload(run, len(order) // size, size, executor, None)

    def _evaluation(self, settings) -> Workload:
        """Makes the workload of evaluations, own read-out; on CPU, of the first task only."""
        (executor, data), streams = self._executor(settings), self.problem.streams
        task = len(streams[0].task_sizes) - 1 if executor.compiled_loop else 0
        own_classifier = evaluation.Evaluation(settings.eval.batch_size)
        rules = evaluation.with_batch_size(own_classifier, executor)
        states, _ = self._distributed(executor, 0, 1)
        images = int(streams[0].eval_counts[: task + 1].sum())
        batches = -(-images // rules.batch_size)

        def run(passes):
            for _ in range(passes):
                evaluation.evaluate(
                    executor, self.problem.method, data, streams, states, task, rules
                )

        return Workload(run, 10, images, executor, evaluation.score_batch, repeats_per_step=batches)

    def _herding(self, settings) -> Workload:
        """Makes the workload of selecting exemplars after a later task, features included."""
        executor, data = self._executor(settings)
        method = self.problem.method
        states, tasks = self._distributed(executor, _LATER, 1)
        images = int(self.problem.streams[0].train_counts[_LATER])
        choose = type(method).after_task

        def run(times):
            for _ in range(times):
                jax.block_until_ready(executor.call(choose, method, states, tasks, data))

        return Workload(run, 10, images, executor, choose, has_loops=True)


def remember(method: Any, state: LearnerState, task: Task, data: Data) -> LearnerState:
    """Returns the state with some images of a task as exemplars."""

    def features(indices, count):
        return jnp.zeros((len(indices), 1))

    return method.memory.after_task(state, task, data, features)


def describe(settings: Settings) -> dict:
    """Returns what of the settings names a row."""
    return {
        "method": settings.method.name,
        "data": settings.data.name,
        "dtype": settings.dtype,
        "seeds": len(settings.seeds),
    }


def whole_run(config: ConfigDict) -> dict:
    """Measures a run from start to end, in a temporary directory."""
    settings = build.with_precision(settings_lib.read(config))
    measure.forget_host_peak()
    compiled = measure.num_compilations()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results = experiment.run(config, Path(folder) / "run", Console(file=io.StringIO()))
    seconds = time.perf_counter() - start
    return {
        "name": "run",
        **describe(settings),
        "sharing": settings.execution.seeds,
        "seconds": seconds,
        "quartiles": [seconds, seconds],
        "repetitions": 1,
        "steps_per_repetition": 1,
        "seconds_per_seed": seconds / len(settings.seeds),
        "split": results["seconds"],
        "compile_seconds": results["seconds"]["compile"],
        "compilations": measure.num_compilations() - compiled,
        "device_memory": measure.device_peak(),
        "device_memory_source": "allocator",
        "host_memory": measure.host_peak(),
    }
