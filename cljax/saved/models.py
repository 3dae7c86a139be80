"""Makes a saved classifier usable from Python: `cljax.load`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import build
from cljax.compute import device
from cljax.errors import UserError
from cljax.files import StrPath
from cljax.methods.base import Finetune
from cljax.output.checkpoints import unflatten
from cljax.problem import random_streams
from cljax.saved import contents
from cljax.saved.runs import SavedRun, open_run
from cljax.state import LearnerState

_BATCH = 256  # images per pass


class Compute(NamedTuple):
    """Holds what a model computes from images uint8 [B, H, W, C].

    Attributes:
      outputs: images -> logits float [B, K] over all classes, and features float [B, D].
      rank: (images, k) -> int [B, k], the k likeliest seen labels, likeliest first.
    """

    outputs: Callable[[np.ndarray], tuple[Any, Any]]
    rank: Callable[[np.ndarray, int], Any]


class Model:
    """A classifier as a run left it after a task, or as it was exported.

    Images are uint8 [B, H, W, C] as the run's dataset has them; they are normalized as in the run.
    `cljax.saved.images.read_images` makes them of files.

    Attributes:
      classes: names of the seen classes, by label.
      class_ids: their class ids in the dataset, by label.
      image_shape: (H, W, C).
      input_size: side in pixels of the squares that images are resized and cut to, as ImageNet's
        are; 0: images are made to fit (H, W) as those of a folder.
    """

    def __init__(
        self,
        compute: Compute,
        classes: Sequence[str],
        class_ids: Sequence[int],
        image_shape: tuple[int, int, int],
        input_size: int,
    ):
        """Takes what computes, and what the numbers mean."""
        self._compute = compute
        self.classes = tuple(classes)
        self.class_ids = tuple(class_ids)
        self.image_shape = image_shape
        self.input_size = input_size

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Computes the logits of the seen classes: uint8 [B, H, W, C] -> float32 [B, len(classes)].

        Raises:
          UserError: the images have another shape or dtype.
        """
        return self._in_batches(images, lambda batch: self._compute.outputs(batch)[0])[
            :, : len(self.classes)
        ]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Computes the input of the head: uint8 [B, H, W, C] -> float32 [B, D].

        Raises:
          UserError: the images have another shape or dtype.
        """
        return self._in_batches(images, lambda batch: self._compute.outputs(batch)[1])

    def rank(self, images: np.ndarray, k: int = 1) -> np.ndarray:
        """Predicts the k likeliest seen labels: uint8 [B, H, W, C] -> int32 [B, k], best first.

        Predicts as the run does: by the logits, or in the method's own way (iCaRL: by the nearest
        mean of exemplars). With fewer seen classes than k there are as many columns.

        Raises:
          UserError: the images have another shape or dtype.
        """
        k = min(k, len(self.classes))
        return self._in_batches(images, lambda batch: self._compute.rank(batch, k), np.int32)

    def predict(self, images: np.ndarray) -> list[str]:
        """Predicts the name of the class of each image uint8 [B, H, W, C], among the seen ones.

        Raises:
          UserError: the images have another shape or dtype.
        """
        return [self.classes[label] for label in self.rank(images)[:, 0]]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Computes the softmax over the seen classes: float32 [B, len(classes)].

        Raises:
          UserError: the images have another shape or dtype.
        """
        logits = self.logits(images).astype(np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return (powers / powers.sum(1, keepdims=True)).astype(np.float32)

    def _in_batches(self, images, function, dtype: type = np.float32):
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape or not len(images):
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}; expected uint8 "
                f"[B, {', '.join(map(str, self.image_shape))}] with at least one image"
            )
        size = min(_BATCH, len(images))
        # All batches have one shape, so that there is one program.
        padded = np.pad(images, ((0, -len(images) % size), (0, 0), (0, 0), (0, 0)))
        parts = [
            np.asarray(function(batch)) for batch in padded.reshape(-1, size, *images.shape[1:])
        ]
        return np.concatenate(parts)[: len(images)].astype(dtype)


class Learned(NamedTuple):
    """Holds the parts of a saved classifier.

    Attributes:
      run: its run.
      task: the task that it was saved after, from 1.
      seed: its seed.
      method: the run's method.
      state: learner state with what `contents.kept` names; all else is absent.
      seen: number of seen classes.
      dataset: what is known of the run's dataset.
    """

    run: SavedRun
    task: int
    seed: int
    method: Finetune
    state: LearnerState
    seen: int
    dataset: contents.DatasetRecord

    @property
    def class_ids(self) -> list[int]:
        """Class ids of the seen classes, by label."""
        return self.run.results["class_orders"][self.run.settings.seeds.index(self.seed)][
            : self.seen
        ]

    @property
    def class_names(self) -> list[str]:
        """Names of the seen classes, by label."""
        return [self.dataset.class_names[class_id] for class_id in self.class_ids]


def load(workdir: StrPath, task: int | None = None, seed: int | None = None) -> Model:
    """Loads a classifier that a run has saved; neither data nor the run's method train anything.

    Args:
      workdir: workdir of the run.
      task: task that it was saved after, from 1; the last finished one by default.
      seed: one of the run's seeds; the first one by default.

    Raises:
      UserError: there is no such run, task or seed, or a file is damaged.
    """
    return make_model(read_learned(open_run(workdir), task, seed))


def read_learned(run: SavedRun, task: int | None = None, seed: int | None = None) -> Learned:
    """Reads the parts of a saved classifier; arguments and errors as of `load`."""
    task, seed = run.check_task(task), run.check_seed(seed)
    arrays, record = run.read_models(task)
    where = run.workdir / "models" / str(task)
    facts = record.dataset
    if facts is None:
        raise UserError(
            f"{where}: saved by an earlier version of cljax, without the moments and names of its "
            "dataset; train the run again to use it"
        )
    method = _make_method(run, facts, where)
    shape = contents.empty_dataset(facts).image_shape
    state = restore(run, method, shape, task, seed, arrays)
    seen = sum(run.results["task_sizes"][:task])
    return Learned(run, task, seed, method, state, seen, facts)


def _make_method(run: SavedRun, facts: contents.DatasetRecord, where: StrPath) -> Finetune:
    largest = max(map(max, run.results["class_orders"]))
    if not largest < facts.num_classes == len(facts.class_names):
        raise UserError(f"{where}: its dataset has not the classes that results.json names")
    try:
        return build.make_method(run.settings, contents.empty_dataset(facts))
    except UserError as error:
        raise UserError(f"{where}: {error.args[0]}") from error


def restore(
    run: SavedRun,
    method: Finetune,
    image_shape: tuple[int, int, int],
    task: int,
    seed: int,
    arrays: dict[str, np.ndarray],
) -> LearnerState:
    """Makes a learner state, with what `contents.kept` names, of the arrays of `models/`.

    Args:
      run: the run.
      method: its method.
      image_shape: (H, W, C) of the classifier's input.
      task: the task, from 1.
      seed: the seed.
      arrays: as `SavedRun.read_models` reads them.

    Raises:
      UserError: an array is missing or has another shape.
    """
    streams = random_streams(run.settings, seed)
    template = jax.eval_shape(lambda: method.init(streams, image_shape))
    parts = contents.kept(method, template, task - 1, run.results["tasks_total"])
    generator = parts.pop("generator", None)
    if generator is not None and any(n.startswith(f"seed{seed}['generator']") for n in arrays):
        parts["generator"] = generator.replace(opt_state=None)
    try:
        found = unflatten(parts, f"seed{seed}", arrays)
    except UserError as error:
        raise UserError(
            f"{run.workdir / 'models' / str(task)}: does not fit the run's config.json: {error}"
        ) from error
    absent = dict.fromkeys(("opt_state", "teacher", "generator", "exemplars", "extras"))
    return LearnerState(streams=streams, **absent | found)


def make_model(learned: Learned) -> Model:
    """Makes the model of a saved classifier."""
    method, state = learned.method, learned.state
    precision = build.matmul_precision(learned.run.settings)

    def outputs(state, images):
        pixels = method.preprocessing.test(images)
        features = method.classifier.apply(state.variables, pixels).features
        return method.forward(state, pixels), features

    @functools.partial(jax.jit, static_argnums=2)
    def rank(state, images, k):
        valid = method.classes(0, learned.seen)
        return method.inference(state, method.preprocessing.test(images), valid, k)

    def fixed(function):
        def call(images, *args):
            with device.reporting_memory(), device.fixed_settings(precision):
                return function(state, jnp.asarray(images), *args)

        return call

    dataset = contents.empty_dataset(learned.dataset)
    return Model(
        Compute(fixed(jax.jit(outputs)), fixed(rank)),
        learned.class_names,
        learned.class_ids,
        dataset.image_shape,
        dataset.input_size,
    )
