"""Measures what a run costs: time and memory of every task, and what a learner carries on."""

import resource
import sys
from typing import Any

import jax

from cljax.compute import device
from cljax.methods.base import Finetune
from cljax.state import LearnerState


class Costs:
    """Adds up time, images and peaks of memory by task, over all seeds and all starts of a run.

    A peak is that of the process so far, which cannot be set back: it belongs to a task only if it
    has risen since the run began in this process.

    Attributes:
      tasks: what `metrics.TaskCost` describes, for every task that has begun.
    """

    def __init__(self):
        self.tasks: list[dict[str, Any]] = []
        self._before = _peaks()

    def add_seconds(self, task: int, part: str, seconds: float) -> None:
        """Adds wall time to a part of a task (from 0)."""
        of_part = self._task(task)["seconds"]
        of_part[part] = of_part.get(part, 0.0) + seconds

    def add_images(self, task: int, stage: str, images: int) -> None:
        """Adds images that a stage of a task has trained on."""
        of_stage = self._task(task)["images"]
        of_stage[stage] = of_stage.get(stage, 0) + images

    def note_peaks(self, task: int) -> None:
        """Notes the peaks of memory in a task; called before it is saved."""
        cost = self._task(task)
        for name, peak in _peaks().items():
            before = self._before[name]
            if peak is not None and before is not None and peak > before:
                cost[name] = max(peak, cost[name] or 0)

    def results(self, tasks: int) -> list[dict[str, Any]]:
        """Returns the costs of the first `tasks` tasks as results.json has them."""
        return [
            {
                "seconds": {name: round(value, 3) for name, value in cost["seconds"].items()},
                "images": dict(cost["images"]),
                "images_per_second": {
                    stage: round(images / max(cost["seconds"].get(stage, 0.0), 1e-9), 1)
                    for stage, images in cost["images"].items()
                },
                **{name: cost[name] for name in self._before},
            }
            for cost in self.tasks[:tasks]
        ]

    def _task(self, task):
        while len(self.tasks) <= task:
            self.tasks.append({"seconds": {}, "images": {}, **dict.fromkeys(self._before)})
        return self.tasks[task]


def _peaks() -> dict[str, int | None]:
    kilobytes = 1 if sys.platform == "darwin" else 1024  # of the system's unit
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
    return {"peak_device_bytes": device.peak_memory(), "peak_host_bytes": host}


def carried_bytes(
    method: Finetune, state: LearnerState, num_exemplars: int, image_bytes: int
) -> dict[str, int]:
    """Returns the bytes of each thing that a learner carries from one task to the next.

    Args:
      method: the method, which names its extras.
      state: learner state of one seed after a task, or shapes and dtypes of its arrays.
      num_exemplars: number of exemplars.
      image_bytes: bytes of the pixels of an image.
    """
    own = {name: state.params[name] for name in state.params if name not in ("backbone", "head")}
    classifier = {name: state.params[name] for name in state.params if name not in own}
    parts = {
        "classifier": (classifier, state.batch_stats),
        **own,
        "teacher": state.teacher,
        "generator": state.generator,
        method.extras_name: state.extras,
    }
    sizes = {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for name, tree in parts.items()
        if tree is not None
    }
    if state.exemplars is not None:
        sizes["exemplars"] = num_exemplars * image_bytes
    return sizes | {"total": sum(sizes.values())}
