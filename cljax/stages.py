"""What a method does within a task, as a list of stages that the trainer runs.

A stage has epochs of steps; `begin`, `prepare` and `step` are pure and traced, `num_steps` and
`describe` are for the host. The trainer knows stages only through these members.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.state import Batch, Data, LearnerState, PyTree, Task, hyperparameters


@hyperparameters
class SGD:
    """Stochastic gradient descent in PyTorch's form, with a step schedule.

    `g <- grad + weight_decay p; v <- momentum v + g; p <- p - lr v`; weight decay acts on every
    parameter. Epoch e (from 0) has the rate `learning_rate * decay^(number of milestones <= e)`.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    decay: float
    milestones: tuple[int, ...]

    def rate(self, epoch: jax.Array | int) -> jax.Array | float:
        """The learning rate of `epoch`, traced or not."""
        return self.learning_rate * self.decay ** sum(epoch >= m for m in self.milestones)

    def transformation(self, labels: PyTree) -> optax.GradientTransformation:
        """All but the learning rate; parameters labelled "frozen" rather than "trained" stay."""
        trained = optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.trace(self.momentum)
        )
        return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, labels)


@hyperparameters
class Stage(abc.ABC):
    """Common to all stages.

    Attributes:
      name: shown in metrics and progress.
      epochs: how often the stage's steps are repeated.
      has_pictures: whether the stage leaves images worth showing.
      has_phases: whether the steps of the first task differ from those of later ones.
      save_every: epochs from checkpoint to checkpoint within the stage; 0: none.
    """

    name: str
    has_pictures: ClassVar[bool] = False
    has_phases: ClassVar[bool] = True

    name: str
    epochs: int
    save_every: int

    @abc.abstractmethod
    def begin(self, method, state: LearnerState) -> LearnerState:
        """The state with which the stage starts; called once."""

    @abc.abstractmethod
    def num_steps(self, epoch: int, count: int) -> int:
        """Steps of `epoch` when the task has `count` training images."""

    @abc.abstractmethod
    def prepare(self, state: LearnerState, task: Task, epoch: jax.Array) -> PyTree:
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

    def pictures(self, method, state: LearnerState, task: Task) -> tuple[jax.Array, jax.Array]:
        """For the report if `has_pictures`: images uint8 [B, H, W, C], labels int32 [B]."""
        raise TypeError(f"stage {self.name!r} has no pictures")


@hyperparameters
class TrainStage(Stage):
    """Minimises what the method's `observe` returns over shuffled batches of the task's images.

    Every epoch has a fresh order; the last, incomplete batch is dropped, as in the ABD code.
    """

    batch_size: int
    optimizer: SGD

    def begin(self, method, state):
        """A fresh optimiser."""
        optimizer = self.optimizer.transformation(method.get_parameters(state.params))
        return state.replace(opt_state=optimizer.init(state.params))

    def num_steps(self, epoch, count):
        """Full batches."""
        return count // self.batch_size

    def prepare(self, state, task, epoch):
        """The epoch's order: int32 [capacity], the task's images shuffled, padding last."""
        key = rng.key(state.streams.data_order, "order", task.index, epoch)
        places = jnp.arange(task.indices.shape[0])
        # Random numbers are drawn by place, so the order does not depend on the padding.
        draws = jax.random.bits(key, places.shape, jnp.uint32) >> 1
        draws = jnp.where(places < task.count, draws, jnp.uint32(2**32 - 1))
        return task.indices[jnp.argsort(draws, stable=True)]

    def step(self, method, data, task, epoch, prepared, i, state):
        """One batch, augmented, and one update."""
        rows = jax.lax.dynamic_slice_in_dim(prepared, i * self.batch_size, self.batch_size)
        address = (task.index, epoch, i)
        key = rng.key(state.streams.augmentation, "augment", *address)
        images = method.preprocessing.train(key, data.train_images[rows])
        batch = Batch(images, task.label_map[data.train_labels[rows]])
        key = rng.key(state.streams.generator, "observe", *address)
        return update(method, self.optimizer, state, task, batch, epoch, key)

    def describe(self, epoch):
        """The learning rate."""
        return {"learning_rate": float(self.optimizer.rate(epoch))}


def update(
    method,
    optimizer: SGD,
    state: LearnerState,
    task: Task,
    batch: Batch,
    epoch: jax.Array,
    key: jax.Array,
) -> tuple[LearnerState, dict[str, jax.Array]]:
    """One gradient step on what the method observes in a batch. The key is consumed.

    Returns:
      The new state, and the loss, its terms and the batch's accuracy (a fraction) before the step.
    """

    def objective(params):
        observed = method.observe(state.replace(params=params), task, batch, key)
        return observed.loss, observed

    grads, observed = jax.grad(objective, has_aux=True)(state.params)
    transformation = optimizer.transformation(method.get_parameters(state.params))
    updates, opt_state = transformation.update(grads, state.opt_state, state.params)
    rate = optimizer.rate(epoch)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    state = state.replace(params=params, batch_stats=observed.batch_stats, opt_state=opt_state)
    return state, {"loss": observed.loss, **observed.terms, "accuracy": observed.accuracy}


@hyperparameters
class InversionStage(Stage):
    """Freezes the classifier as teacher and trains the generator against it.

    An epoch is a stretch of `steps_per_epoch` steps; the last one may be shorter.
    """

    has_pictures: ClassVar[bool] = True
    has_phases: ClassVar[bool] = False

    steps_per_epoch: int
    inversion: inversion_lib.Inversion

    @property
    def batch_size(self):
        """Images per step."""
        return self.inversion.batch_size

    def begin(self, method, state):
        """The teacher: a copy of the classifier as the task left it."""
        return state.with_teacher()

    def num_steps(self, epoch, count):
        """`steps_per_epoch`, or what is left."""
        return min(self.steps_per_epoch, self.inversion.steps - epoch * self.steps_per_epoch)

    def prepare(self, state, task, epoch):
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

    def pictures(self, method, state, task):
        """What the generator dreams now, with the labels that the teacher gives."""
        key = rng.key(state.streams.generator, "pictures", task.index)
        images = inversion_lib.sample(self.inversion, state.generator, key, 1024)
        logits = method.classifier.apply(state.teacher, images).logits
        valid = losses.class_range(logits.shape[-1], 0, task.seen)
        return method.preprocessing.to_pixels(images), losses.masked_argmax(logits, valid)
