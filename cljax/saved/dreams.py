"""Dreams images with the generator that a run has saved after a task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import build, losses, rng
from cljax.compute import device
from cljax.errors import UserError
from cljax.methods.dreaming import Dreaming
from cljax.saved import contents
from cljax.saved.models import Learned, read_learned
from cljax.saved.runs import SavedRun
from cljax.state import LearnerState, Subset, Task

_BLOCK = 1024  # images that are dreamed at once, as in the pictures of a run
_BLOCKS = 64  # after which rare classes are given up


class Dreams(NamedTuple):
    """Holds dreamed images, sorted by the label that the teacher gives them.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int32 [N].
      class_names: names of the classes that the teacher knows, by label.
      class_ids: their class ids, by label.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    class_ids: list[int]


def dream(
    run: SavedRun,
    task: int | None = None,
    seed: int | None = None,
    count: int = 64,
    classes: Sequence[str] = (),
) -> Dreams:
    """Dreams images of the classes that the teacher of a task's generator knows.

    The first 1,024 candidates are those of the run's picture `dreamed_taskT_seedS.png`.

    Args:
      run: the run.
      task: a task that trained a generator, from 1; the last such task by default.
      seed: one of the run's seeds; the first one by default.
      count: number of images; fewer if the teacher takes too few for one of `classes`.
      classes: names of classes; only images that are taken for one of them. Empty: all.

    Raises:
      UserError: the task or the seed is not there, the task trained no generator, a class is not
        known to the teacher, or a file is damaged.
    """
    learned = _find(run, task, seed)
    method: Any = learned.method
    state, known = _with_teacher(learned)
    names, class_ids = learned.class_names[:known], learned.class_ids[:known]
    if unknown := [name for name in classes if name not in names]:
        raise UserError(
            f"--classes: the teacher of task {learned.task} knows no class {unknown[0]!r}, only "
            f"{', '.join(names)}"
        )
    wanted = np.array([not classes or name in classes for name in names])

    @jax.jit
    def draw(state, key):
        images = method.dream(state, key, _BLOCK)
        logits = method.classifier.apply(state.teacher, images).logits
        labels = losses.masked_argmax(logits, method.classes(0, known))
        return method.preprocessing.to_pixels(images), labels

    images, labels = [], []
    first = rng.key(state.streams.generator, "pictures", learned.task - 1)
    with device.reporting_memory(), device.fixed_settings(build.matmul_precision(run.settings)):
        for block in range(_BLOCKS):
            drawn = draw(state, jax.random.fold_in(first, block) if block else first)
            pixels, found = map(np.asarray, drawn)
            images.append(pixels[wanted[found]])
            labels.append(found[wanted[found]])
            if sum(map(len, labels)) >= count:
                break
    together, found = np.concatenate(images)[:count], np.concatenate(labels)[:count]
    order = np.argsort(found, kind="stable")
    return Dreams(together[order], found[order].astype(np.int32), names, class_ids)


def _find(run: SavedRun, task: int | None, seed: int | None) -> Learned:
    """Reads the models of the task, or of the last one that has a generator."""
    learned = read_learned(run, task, seed)
    method, total = learned.method, run.results["tasks_total"]
    if not hasattr(method, "dream"):
        raise UserError(
            f"{run.workdir}: method {run.settings.method.name!r} has no generator; use a run of a "
            "method that dreams, such as abd"
        )
    if not isinstance(method, Dreaming):  # the generator is a part of what every task trains
        return learned
    tasks = [
        t for t in range(1, run.tasks_done + 1) if contents.trains_generator(method, t - 1, total)
    ]
    if task is None and tasks and learned.task != tasks[-1]:
        learned = read_learned(run, tasks[-1], seed)
    if learned.state.generator is None:
        having = f"use task {', '.join(map(str, tasks))}" if tasks else "no finished task has one"
        raise UserError(
            f"task {learned.task}: {run.workdir} has no generator of this task; {having}"
        )
    return learned


def _with_teacher(learned: Learned) -> tuple[LearnerState, int]:
    """Adds the teacher of the generator; returns the state, and the number of classes it knows."""
    method, state, task = learned.method, learned.state, learned.task
    known = learned.seen
    if isinstance(method, Dreaming):
        known = int(method.inversion_stage.known_classes(_describe(learned)))
    teacher = state.variables
    if known < learned.seen:  # a generator that is trained first thing in a task
        teacher = read_learned(learned.run, task - 1, learned.seed).state.variables
    return state.replace(teacher=teacher), known


def _describe(learned: Learned) -> Task:
    """What a stage is told about the task, without any images."""
    sizes = learned.run.results["task_sizes"]
    nothing = jnp.zeros(1, jnp.int32)
    return Task(
        index=jnp.int32(learned.task - 1),
        old=jnp.int32(sum(sizes[: learned.task - 1])),
        seen=jnp.int32(learned.seen),
        past_images=jnp.int32(0),
        boundaries=jnp.cumsum(jnp.array([0, *sizes], jnp.int32)),
        images=Subset(nothing, jnp.int32(0)),
        class_images=nothing[None],
        class_image_counts=nothing,
        label_map=nothing,
        is_first=learned.task == 1,
    )
