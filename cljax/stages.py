"""What a method does within a task, as a list of stages that the trainer runs.

A stage has epochs of steps; `begin`, `prepare` and `step` are pure and traced, `num_steps` and
`describe` are for the host. The trainer knows stages only through these members.
"""

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.compute.mesh import shard_batch
from cljax.memory.ranking import class_counts
from cljax.optimizer import SGD
from cljax.state import Batch, Data, LearnerState, PyTree, Subset, Task, hyperparameters


@hyperparameters
class Stage(abc.ABC):
    """Common to all stages.

    Attributes:
      name: shown in metrics and progress.
      epochs: how often the stage's steps are repeated.
      has_samples: whether the stage leaves images worth showing.
      first_task_differs: whether the steps of the first task differ from those of later ones.
      save_every: epochs from checkpoint to checkpoint within the stage; 0: none.
    """

    name: str
    has_samples: ClassVar[bool] = False
    first_task_differs: ClassVar[bool] = True

    name: str
    epochs: int
    save_every: int

    @abc.abstractmethod
    def begin(self, method, state: LearnerState, task: Task, data: Data) -> LearnerState:
        """The state with which the stage starts; called once."""

    def training_set(self, method, state: LearnerState, task: Task, data: Data) -> Subset:
        """The stage's images, given the state after `begin`; `task.images` during the stage."""
        return task.images

    @abc.abstractmethod
    def num_steps(self, epoch: int, count: int) -> int:
        """Steps of `epoch` when the stage has `count` images."""

    @abc.abstractmethod
    def prepare(self, state: LearnerState, task: Task, data: Data, epoch: jax.Array) -> PyTree:
        """What all steps of an epoch share, such as the order of the images."""

    @abc.abstractmethod
    def step(
        self,
        method,
        data: Data,
        task: Task,
        epoch: jax.Array,
        prepared: PyTree,
        i: jax.Array,
        state: LearnerState,
    ) -> tuple[LearnerState, dict[str, jax.Array]]:
        """Step `i` of `epoch`: the new state and scalars to be averaged over the epoch."""

    def describe(self, epoch: int) -> dict[str, float]:
        """What is fixed for an epoch and belongs into its line of metrics."""
        return {}

    def samples(self, method, state: LearnerState, task: Task) -> tuple[jax.Array, jax.Array]:
        """For the report if `has_samples`: images uint8 [B, H, W, C], labels int32 [B]."""
        raise TypeError(f"stage {self.name!r} has no samples")


class Epoch(NamedTuple):
    """What the steps of a training epoch share.

    Attributes:
      order: int32 [capacity], the stage's images shuffled, padding last.
      class_counts: int32 [K], images of each class among them.
    """

    order: jax.Array
    class_counts: jax.Array


@hyperparameters
class TrainStage(Stage):
    """Minimises what the method observes in shuffled batches of the stage's images.

    Every epoch has a fresh order. A method's further stages inherit this and replace
    `training_set`, `observe` or `get_parameters`, which here are the method's own.

    Attributes:
      batch_size: images per step.
      optimizer: the update rule.
      drop_last: whether an epoch's last, incomplete batch is left out, as in the ABD code; else it
        is padded, and `Batch.weights` tells.
    """

    batch_size: int
    optimizer: SGD
    drop_last: bool = True

    def begin(self, method, state, task, data):
        """A fresh optimiser."""
        return state.replace(opt_state=self.optimizer.init(state.params))

    def training_set(self, method, state, task, data):
        """As the method says."""
        return method.training_set(state, task, data)

    def observe(self, method, state: LearnerState, task: Task, batch: Batch, key: jax.Array):
        """The method's `Observed` of a batch. The key is consumed."""
        return method.observe(state, task, batch, key)

    def get_parameters(self, method, params: PyTree, task: Task) -> PyTree:
        """Which parameters the stage moves, as `SGD.update` takes it."""
        return method.get_parameters(params, task)

    def num_steps(self, epoch, count):
        """Batches, an incomplete one included unless it is dropped."""
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def prepare(self, state, task, data, epoch):
        """The epoch's order, and the number of images of each class."""
        key = rng.key(state.streams.data_order, f"order {self.name}", task.index, epoch)
        places = jnp.arange(task.images.indices.shape[0])
        # Random numbers are drawn by place, so the order does not depend on the padding.
        draws = jax.random.bits(key, places.shape, jnp.uint32) >> 1
        draws = jnp.where(places < task.images.count, draws, jnp.uint32(2**32 - 1))
        labels = task.labels(data, task.images)
        counts = class_counts(labels, task.label_map.shape[0])
        order = task.images.indices[jnp.argsort(draws, stable=True)]
        if not self.drop_last:
            order = jnp.pad(order, (0, self.batch_size))  # so that no slice reaches beyond
        return Epoch(order, counts)

    def take(self, data: Data, task: Task, prepared: Epoch, i: jax.Array):
        """Batch `i` as stored: images uint8 [B, H, W, C], labels and weights as in `Batch`."""
        start, size = i * self.batch_size, self.batch_size
        rows = shard_batch(jax.lax.dynamic_slice_in_dim(prepared.order, start, size))
        labels, weights = task.label_map[data.train_labels[rows]], None
        if not self.drop_last:
            is_image = i * self.batch_size + jnp.arange(self.batch_size) < task.images.count
            weights = is_image * (self.batch_size / is_image.sum())
            labels = jnp.where(is_image, labels, task.old)
        return data.train_images[rows], labels, weights

    def step(self, method, data, task, epoch, prepared, i, state):
        """One batch, augmented, and one update."""
        images, labels, weights = self.take(data, task, prepared, i)
        images = self.augmented(method, state, task, epoch, i, images)
        batch = Batch(images, labels, prepared.class_counts, weights)
        key = rng.key(state.streams.generator, f"observe {self.name}", task.index, epoch, i)
        return update(self, method, state, task, batch, epoch, key)

    def augmented(self, method, state, task, epoch, i, images):
        """Batch `i`'s images as the network trains on them: uint8 -> float [B, H, W, C]."""
        address = (task.index, epoch, i)
        key = rng.key(state.streams.augmentation, f"augment {self.name}", *address)
        return method.preprocessing.train(key, images)

    def describe(self, epoch):
        """The learning rate."""
        return {"learning_rate": float(self.optimizer.rate(epoch))}


def update(
    stage: TrainStage,
    method,
    state: LearnerState,
    task: Task,
    batch: Batch,
    epoch: jax.Array,
    key: jax.Array,
) -> tuple[LearnerState, dict[str, jax.Array]]:
    """One gradient step on what a stage observes in a batch. The key is consumed.

    Returns:
      The new state, and the loss, its terms and the batch's accuracy (a fraction) before the step.
    """
    trained = stage.get_parameters(method, state.params, task)

    def objective(params):
        # Without this, gradients of parameters that stay would be computed.
        params = jax.tree.map(
            lambda moves, p: jax.lax.stop_gradient(p) if moves is False else p, trained, params
        )
        observed = stage.observe(method, state.replace(params=params), task, batch, key)
        return observed.loss, observed

    grads, observed = jax.grad(objective, has_aux=True)(state.params)
    params, opt_state = stage.optimizer.update(grads, state.opt_state, state.params, trained, epoch)
    state = state.replace(params=params, batch_stats=observed.batch_stats, opt_state=opt_state)
    return state, {"loss": observed.loss, **observed.terms, "accuracy": observed.accuracy}


@hyperparameters
class InversionStage(Stage):
    """Freezes the classifier as teacher and trains the generator against it.

    An epoch is a stretch of `steps_per_epoch` steps; the last one may be shorter.
    """

    has_samples: ClassVar[bool] = True
    first_task_differs: ClassVar[bool] = False

    steps_per_epoch: int
    inversion: inversion_lib.Inversion

    @property
    def batch_size(self):
        """Images per step."""
        return self.inversion.batch_size

    def begin(self, method, state, task, data):
        """The teacher: a copy of the classifier as the task left it."""
        return state.with_teacher()

    def num_steps(self, epoch, count):
        """`steps_per_epoch`, or what is left."""
        return min(self.steps_per_epoch, self.inversion.steps - epoch * self.steps_per_epoch)

    def prepare(self, state, task, data, epoch):
        """Nothing."""
        return ()

    def step(self, method, data, task, epoch, prepared, i, state):
        """One Adam step on fresh latents."""
        generator, metrics = inversion_lib.step_at(
            self.inversion,
            method.classifier,
            state.generator,
            state.teacher,
            task.seen,
            state.streams.generator,
            task.index,
            epoch * self.steps_per_epoch + i,
        )
        return state.replace(generator=generator), metrics

    def describe(self, epoch):
        """How many steps the stretch ends at."""
        return {"step": min((epoch + 1) * self.steps_per_epoch, self.inversion.steps)}

    def samples(self, method, state, task):
        """What the generator dreams now, with the labels that the teacher gives."""
        key = rng.key(state.streams.generator, "pictures", task.index)
        images = inversion_lib.sample(self.inversion, state.generator, key, 1024)
        logits = method.classifier.apply(state.teacher, images).logits
        valid = losses.class_range(logits.shape[-1], 0, task.seen)
        return method.preprocessing.to_pixels(images), losses.masked_argmax(logits, valid)
