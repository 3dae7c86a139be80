"""What a method does within a task, as a list of stages.

A stage has epochs of steps. Of its members `begin`, `training_set`, `prepare`, `draw`, `update` and
`samples` are pure and traced; `num_steps` and `log_scalars` run on the host. Training knows stages
only through these members.
"""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from cljax import inversion as inversion_lib
from cljax import losses, rng
from cljax.compute.mesh import shard_batch
from cljax.data.augment import Draws
from cljax.memory.ranking import class_counts
from cljax.optimizers import CONSTANT, Optimizer, Schedule, Trained, is_trained
from cljax.optimizers.base import as_groups
from cljax.state import Batch, Canvases, Data, LearnerState, PyTree, Subset, Task, hyperparameters


class StepInput(NamedTuple):
    """What the steps of an epoch are given. For all seeds, `task` and `prepared` are `PerSeed`.

    Attributes:
      method: the method, a `Finetune`.
      stage: the running stage.
      data: the dataset on the device.
      task: the task, with the images of the stage.
      epoch: int32 [], of the stage, from 0.
      prepared: what `Stage.prepare` returned for the epoch.
      window: uint8 [W, B, H, W, C], images of some steps, those of step i at i % W; None: `data`
        has all.
    """

    method: Any
    stage: "Stage"
    data: Data
    task: Task
    epoch: jax.Array
    prepared: PyTree = ()
    window: jax.Array | None = None


@hyperparameters
class Stage(abc.ABC):
    """Base class of all stages.

    Attributes:
      has_samples: whether the stage makes images to show.
      first_task_differs: whether the first task needs other compiled programs than later tasks.
      name: name in metrics and progress, part of the address of random numbers.
      epochs: number of epochs.
      save_every: epochs between two checkpoints within the stage; 0: none.
    """

    has_samples: ClassVar[bool] = False
    first_task_differs: ClassVar[bool] = True

    name: str
    epochs: int
    save_every: int

    def of_task(self, index: int) -> Self:
        """Returns the stage as task `index` (from 0) has it."""
        return self

    @property
    @abc.abstractmethod
    def images_per_step(self) -> int:
        """Number of images of a step, for speeds and messages."""

    @abc.abstractmethod
    def begin(self, method, state: LearnerState, task: Task, data: Data) -> LearnerState:
        """Returns the state with which the stage starts; called once."""

    def training_set(self, method, state: LearnerState, task: Task, data: Data) -> Subset:
        """Returns the stage's images, given the state after `begin`: its `task.images`."""
        return task.images

    @abc.abstractmethod
    def num_steps(self, epoch: int, count: int) -> int:
        """Returns the number of steps of `epoch` when the stage has `count` images."""

    @abc.abstractmethod
    def prepare(
        self, method, state: LearnerState, task: Task, data: Data, epoch: jax.Array
    ) -> PyTree:
        """Computes what all steps of an epoch share or draw, such as the order of the images."""

    def image_rows(self, prepared: PyTree) -> jax.Array | None:
        """Returns the training images that steps take, int32 [capacity], in order; None: none.

        Step i takes the `images_per_step` from i * `images_per_step`. May not compute.
        """
        return None

    @abc.abstractmethod
    def draw(self, inputs: StepInput, i: jax.Array, state: LearnerState) -> PyTree:
        """Draws what step `i` (int32 []) learns from, such as a batch and a random key."""

    @abc.abstractmethod
    def update(
        self, inputs: StepInput, state: LearnerState, drawn: PyTree
    ) -> tuple[LearnerState, dict[str, jax.Array]]:
        """Updates the state by what was drawn.

        Returns:
          The new state, and metrics: float [] each, averaged over the epoch's steps.
        """

    def log_scalars(self, epoch: int) -> dict[str, float]:
        """Returns what is fixed for an epoch and belongs into its line of metrics."""
        return {}

    def samples(
        self, method, state: LearnerState, task: Task
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what to show, if `has_samples`.

        Returns:
          Images uint8 [B, H, W, C], their labels int32 [B], and int32 [], how many classes the
          labels are of.
        """
        raise TypeError(f"stage {self.name!r} has no samples")


class Epoch(NamedTuple):
    """What the steps of a training epoch share.

    Attributes:
      order: int32 [capacity], the stage's images shuffled, padding last.
      class_counts: int32 [K], images of each class among them.
      draws: random choices of the augmentation, [steps, B, ...]; None: there is no augmentation.
      keys: data uint32 [steps, ...] of random keys for the method's own numbers.
      teacher: the teacher as the steps see it, if that is not as the state has it.
    """

    order: jax.Array
    class_counts: jax.Array
    draws: Draws | None
    keys: jax.Array
    teacher: PyTree = None


@hyperparameters
class TrainStage(Stage):
    """Minimizes the loss that the method observes in shuffled batches of the stage's images.

    Every epoch has a fresh order. A method's further stages inherit this and replace `observes`,
    `training_set` or `get_parameters`.

    Attributes:
      observes: name of the method's function that is the stage's loss.
      batch_size: images per step.
      optimizer: the update rule.
      drop_last: whether an epoch's last, incomplete batch is left out, as in the ABD code. If not,
        it is padded, and `Batch.weights` tells.
      schedule: factor of the learning rate in each epoch.
      first_epochs: number of epochs in the first task; None: `epochs`.
      first_learning_rate: of the optimizer in the first task; None: its own.
    """

    observes: ClassVar[str] = "observe"

    batch_size: int
    optimizer: Optimizer
    drop_last: bool = True
    schedule: Schedule = CONSTANT
    first_epochs: int | None = None
    first_learning_rate: float | None = None

    def of_task(self, index):
        """Returns the stage with the epochs and the learning rate of the task."""
        if index:
            return self
        rate, optimizer = self.first_learning_rate, self.optimizer
        if rate is not None:
            optimizer = dataclasses.replace(optimizer, learning_rate=rate)
        epochs = self.first_epochs or self.epochs
        return dataclasses.replace(self, epochs=epochs, optimizer=optimizer)

    def learning_rate(self, epoch: int) -> float:
        """Returns the learning rate of an epoch (from 0)."""
        return float(self.optimizer.learning_rate * self.schedule.factor(epoch, self.epochs))

    @property
    def images_per_step(self):
        """The batch size."""
        return self.batch_size

    def begin(self, method, state, task, data):
        """Starts a new optimizer state."""
        return state.replace(opt_state=self.optimizer.init(state.params))

    def training_set(self, method, state, task, data):
        """Returns the images that the method trains on."""
        return method.training_set(state, task, data)

    def get_parameters(self, method, params: PyTree, task: Task) -> Trained:
        """Returns which parameters the stage moves, as `Optimizer.update` takes it."""
        return method.get_parameters(params, task)

    def num_steps(self, epoch, count):
        """Counts the batches, an incomplete one included unless it is dropped."""
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def prepare(self, method, state, task, data, epoch):
        """Shuffles the stage's images, counts those of each class, and draws for all steps.

        Many small kernels of random numbers in each step become a few in each epoch.
        """
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
        steps = jnp.arange(max(1, len(order) // self.batch_size))
        at = task.index, epoch

        def make_key(i):
            key = rng.key(state.streams.generator, f"observe {self.name}", *at, i)
            return jax.random.key_data(key)

        def draw(i):
            key = rng.key(state.streams.augmentation, f"augment {self.name}", *at, i)
            return self.draw_augmentation(method, key, self._rows(order, i), data)

        teacher = method.epoch_teacher(state, task)
        return Epoch(order, counts, jax.vmap(draw)(steps), jax.vmap(make_key)(steps), teacher)

    def draw_augmentation(
        self, method, key: jax.Array, rows: jax.Array, data: Data
    ) -> Draws | None:
        """Draws how the images of rows int32 [B] are augmented; consumes the key."""
        images = data.train_images
        sizes = images.sizes[rows] if isinstance(images, Canvases) else None
        return method.preprocessing.draw(key, self.batch_size, sizes)

    def image_rows(self, prepared):
        """Returns the order of the epoch."""
        return prepared.order

    def draw(self, inputs, i, state):
        """Draws batch `i`, preprocessed, and the key for the method's own random numbers."""
        images, labels, weights = self.take(inputs, i)
        epoch, preprocessing = inputs.prepared, inputs.method.preprocessing
        draws, key = jax.tree.map(lambda of_steps: of_steps[i], (epoch.draws, epoch.keys))
        key = jax.random.wrap_key_data(key)
        if draws is None:
            images = preprocessing.test(images)
        else:
            images = preprocessing.train(images, shard_batch(draws))
        return Batch(images, labels, epoch.class_counts, weights), key

    def take(self, inputs: StepInput, i: jax.Array):
        """Takes batch `i`: uint8 [B, H, W, C] or canvases, labels and weights as in `Batch`."""
        data, task, size = inputs.data, inputs.task, self.batch_size
        rows = shard_batch(self._rows(inputs.prepared.order, i))
        labels, weights = task.label_map[data.train_labels[rows]], None
        if not self.drop_last:
            is_image = i * size + jnp.arange(size) < task.images.count
            weights = is_image * (size / is_image.sum())
            labels = jnp.where(is_image, labels, task.old)
        if inputs.window is None:
            return data.train_images[rows], labels, weights
        window = jax.lax.dynamic_index_in_dim(
            inputs.window, i % inputs.window.shape[0], keepdims=False
        )
        images = shard_batch(window)
        if isinstance(data.train_images, Canvases):
            images = Canvases(images, data.train_images.sizes[rows])
        return images, labels, weights

    def _rows(self, order, i):
        return jax.lax.dynamic_slice_in_dim(order, i * self.batch_size, self.batch_size)

    def update(self, inputs, state, drawn):
        """Takes one gradient step on the loss of a batch.

        Args:
          drawn: the batch, and a key, which is consumed.

        Returns:
          The new state, and the loss, its terms, the batch's accuracy (a fraction) and the method's
          own metrics before the step.
        """
        (batch, key), task = drawn, inputs.task
        observe = getattr(inputs.method, self.observes)
        teacher = inputs.prepared.teacher
        given = state if teacher is None else state.replace(teacher=teacher)
        trained = self.get_parameters(inputs.method, state.params, task)
        moves = is_trained(as_groups(trained))

        def loss(params):
            # Without this, gradients of parameters that stay would be computed.
            params = jax.tree.map(
                lambda moves, p: p if moves else jax.lax.stop_gradient(p), moves, params
            )
            observed = observe(given.replace(params=params), task, batch, key)
            return observed.loss, observed

        grads, seen = jax.grad(loss, has_aux=True)(state.params)
        factor = self.schedule.factor(inputs.epoch, self.epochs)
        params, opt_state = self.optimizer.update(
            grads, state.opt_state, state.params, trained, factor
        )
        state = state.replace(params=params, batch_stats=seen.batch_stats, opt_state=opt_state)
        if seen.extras is not None:
            state = state.replace(extras=seen.extras)
        return state, {
            "loss": seen.loss,
            **seen.terms,
            "accuracy": seen.accuracy,
            **(seen.metrics or {}),
        }

    def log_scalars(self, epoch):
        """Returns the learning rate."""
        return {"learning_rate": self.learning_rate(epoch)}


class InversionEpoch(NamedTuple):
    """What the steps of an epoch of an inversion share.

    Attributes:
      keys: data uint32 [steps, ...] of the random keys of the latents.
      teacher: variables of the teacher as the steps use them.
    """

    keys: jax.Array
    teacher: PyTree


@hyperparameters
class InversionStage(Stage):
    """Freezes the classifier as teacher and trains the generator against it (model inversion).

    Attributes:
      steps_per_epoch: Adam steps of an epoch; the last epoch may have fewer.
      inversion: networks and loss weights.
    """

    has_samples: ClassVar[bool] = True
    first_task_differs: ClassVar[bool] = False

    steps_per_epoch: int
    inversion: inversion_lib.Inversion

    @property
    def images_per_step(self):
        """The batch size of the inversion."""
        return self.inversion.batch_size

    def begin(self, method, state, task, data):
        """Copies the classifier, as the task left it, as the teacher."""
        return state.with_teacher()

    def known_classes(self, task: Task) -> jax.Array:
        """Returns the number int32 [] of classes that the teacher knows."""
        return task.seen

    def num_steps(self, epoch, count):
        """Returns `steps_per_epoch`, or the steps that are left."""
        return min(self.steps_per_epoch, self.inversion.steps - epoch * self.steps_per_epoch)

    def prepare(self, method, state, task, data, epoch):
        """Makes the keys of all steps, which are counted from the stage's start."""
        steps = epoch * self.steps_per_epoch + jnp.arange(self.steps_per_epoch)

        def make_key(step):
            key = rng.key(state.streams.generator, "inversion", task.index, step)
            return jax.random.key_data(key)

        teacher = method.classifier.freeze(state.teacher, folds=False)
        return InversionEpoch(jax.vmap(make_key)(steps), teacher)

    def draw(self, inputs, i, state):
        """Draws latents."""
        key = jax.random.wrap_key_data(inputs.prepared.keys[i])
        return inversion_lib.draw_latents(key, self.inversion.batch_size)

    def update(self, inputs, state, drawn):
        """Takes one Adam step on the generator; `drawn` are latents float [B, LATENT_SIZE]."""
        assert state.generator is not None
        generator, metrics = inversion_lib.step(
            self.inversion,
            inputs.method.classifier,
            state.generator,
            inputs.prepared.teacher,
            self.known_classes(inputs.task),
            drawn,
        )
        return state.replace(generator=generator), metrics

    def log_scalars(self, epoch):
        """Returns how many steps the epoch ends at."""
        return {"step": min((epoch + 1) * self.steps_per_epoch, self.inversion.steps)}

    def samples(self, method, state, task):
        """Dreams 1,024 images, with the labels that the teacher gives them and what it knows."""
        assert state.generator is not None
        key = rng.key(state.streams.generator, "pictures", task.index)
        images = inversion_lib.sample(self.inversion, state.generator, key, 1024)
        logits = method.classifier.apply(state.teacher, images).logits
        known = self.known_classes(task)
        labels = losses.masked_argmax(logits, losses.class_range(logits.shape[-1], 0, known))
        return method.preprocessing.to_pixels(images), labels, known
