"""Deep Generative Replay (Shin et al., NeurIPS 2017), as the ABD paper compares it."""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses, rng
from cljax.methods.base import Finetune
from cljax.methods.dreaming import with_dreamed_accuracy
from cljax.models import AutoEncoder
from cljax.settings import Rate, Weight
from cljax.state import LearnerState, Task, hyperparameters


class Replay(NamedTuple):
    """Holds images decoded by the VAE of the previous task, with the teacher's labels and logits.

    Attributes:
      images: float [B, H, W, C] in 0..1.
      labels: int32 [B], labels of old classes.
      logits: float [B, K], of the teacher.
    """

    images: jax.Array
    labels: jax.Array
    logits: jax.Array


@hyperparameters
class DeepGenerativeReplay(Finetune):
    """Trains a classifier and a variational auto-encoder (VAE) together: the paper's scholar.

    The teacher is a frozen copy of both. In later tasks its VAE decodes as many images from noise
    as a batch has, and its classifier labels them. One optimizer trains both networks on real and
    replayed images, since the losses of neither reach the parameters of the other. The parameters
    of the VAE are `params["autoencoder"]`.

    Follows the ABD reference code: SGD trains the VAE at the learning rate of the classifier. Its
    reconstruction loss is weighted by shares of classes. Its divergence is not weighted but divided
    by the number of values of an image. Replayed images have hard labels and are also distilled.
    Pixels are in 0..1, not standardized.

    Attributes:
      autoencoder: VAE that replays old classes.
      mu: weight of the distillation loss, at least 0.
      temperature: its softmax temperature, above 0.
    """

    supports_partial_batches: ClassVar[bool] = False
    supports_exemplars: ClassVar[bool] = False
    folds_teacher: ClassVar[bool] = True

    autoencoder: AutoEncoder
    mu: Weight = 1.0
    temperature: Rate = 2.0

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the VAE."""
        return super().from_parts(parts, autoencoder=parts.autoencoder(), **fields)

    def init(self, streams, image_shape):
        """Adds the VAE, and a teacher, which the first task does not use."""
        state = super().init(streams, image_shape)
        key = rng.key(streams.generator, "autoencoder")
        images = jnp.zeros((1, *image_shape))
        latents = jnp.zeros((1, self.autoencoder.latent_size))
        variables = self.autoencoder.init(key, images, latents)
        params = state.params | {"autoencoder": variables["params"]}
        return state.replace(params=params).with_teacher()

    def after_task(self, state, task, data):
        """Copies the classifier and the VAE as the teacher of the next task."""
        return super().after_task(state, task, data).with_teacher()

    def observe(self, state, task, batch, key):
        """Computes the losses of both networks on real and, in later tasks, replayed images."""
        replay_key, noise_key = jax.random.split(key)
        num_real = batch.labels.shape[0]
        images, labels, replay = batch.images, batch.labels, None
        if not task.is_first:
            replay = self.replay(state, task, replay_key, num_real)
            images = jnp.concatenate([images, replay.images])
            labels = jnp.concatenate([labels, replay.labels])
        weights = losses.class_share_weights(labels, task.old, task.seen)

        outputs, batch_stats = self.train_forward(state, images)
        seen = self.classes(0, task.seen)
        terms = {"class": losses.cross_entropy(outputs.logits, labels, seen, weights)}
        if replay is not None:
            old = self.classes(0, task.old)
            terms["distillation"] = self.mu * losses.distillation(
                outputs.logits[num_real:], replay.logits, old, None, self.temperature
            )
        terms |= self._autoencoder_terms(state, images, weights, noise_key)
        observed = self.observed(task, batch, outputs.logits[:num_real], terms, batch_stats)
        if replay is None:
            return observed
        return with_dreamed_accuracy(observed, outputs.logits[num_real:], replay.labels, seen)

    def replay(self, state: LearnerState, task: Task, key: jax.Array, count: int) -> Replay:
        """Decodes and labels `count` images of old classes with the teacher; consumes the key."""
        images = self.dream(state, key, count)
        logits = self.classifier.apply(state.teacher, images).logits
        labels = losses.masked_argmax(logits, self.classes(0, task.old))
        return Replay(jax.lax.stop_gradient(images), labels, logits)

    def dream(self, state: LearnerState, key: jax.Array, count: int) -> jax.Array:
        """Decodes images of old classes, float [count, H, W, C] in 0..1; consumes the key."""
        decoder = {"params": state.teacher["params"]["autoencoder"]}
        latents = self.replay_latents(key, count)
        return self.autoencoder.apply(decoder, latents, method="decode")

    def replay_latents(self, key: jax.Array, count: int) -> jax.Array:
        """Draws the latents of replayed images, float [count, Z]; consumes the key."""
        return jax.random.normal(key, (count, self.autoencoder.latent_size))

    def noise(self, key: jax.Array, count: int) -> jax.Array:
        """Draws the noise of the latents in training, float [count, Z]; consumes the key."""
        return jax.random.normal(key, (count, self.autoencoder.latent_size))

    def _autoencoder_terms(self, state, images, weights, key):
        variables = {"params": state.params["autoencoder"]}
        noise = self.noise(key, images.shape[0])
        reconstruction = self.autoencoder.apply(variables, images, noise)
        # The reconstruction loss is a mean over H W C values, 3072 for CIFAR, so this must be too.
        num_values = math.prod(images.shape[1:])
        divergence = losses.latent_divergence(reconstruction.mean, reconstruction.log_variance)
        return {
            "reconstruction": losses.reconstruction(reconstruction.logits, images, weights),
            "variational": divergence / num_values,
        }
