"""Deep generative replay (Shin et al., NeurIPS 2017), as the ABD paper compares it."""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses, rng
from cljax.methods.base import Finetune
from cljax.models import AutoEncoder
from cljax.state import LearnerState, Task, hyperparameters


class Replay(NamedTuple):
    """Images that the previous scholar remembers, and what it says of them.

    Attributes:
      images: float [B, H, W, C] in 0..1.
      labels: int32 [B], old classes.
      logits: float [B, K].
    """

    images: jax.Array
    labels: jax.Array
    logits: jax.Array


@hyperparameters
class DeepGenerativeReplay(Finetune):
    """A classifier and a variational auto-encoder that learn together: one scholar.

    From the second task on every batch is doubled by images that the previous scholar's
    auto-encoder decodes from noise and its classifier labels. Both networks learn the task's and
    the old classes from them, by one optimiser, as neither's losses reach the other's parameters.
    The auto-encoder's are `params["autoencoder"]`; the previous scholar is the state's teacher.

    Follows the ABD code: the auto-encoder is trained by SGD at the classifier's rate, its
    reconstruction weighted by shares of classes, its divergence not weighted but divided by the
    number of an image's values; replayed images have hard labels and are distilled besides. All
    is learned from pixels in 0..1, not standardised.

    Attributes:
      autoencoder: the generator of old images, with its encoder.
      mu: weight of the distillation.
      temperature: of the distillation.
    """

    supports_partial_batches: ClassVar[bool] = False
    supports_exemplars: ClassVar[bool] = False

    autoencoder: AutoEncoder
    mu: float = 1.0
    temperature: float = 2.0

    @classmethod
    def from_parts(cls, parts, **fields):
        """Adds the auto-encoder."""
        return super().from_parts(parts, autoencoder=parts.autoencoder(), **fields)

    def init(self, streams, image_shape):
        """Adds the auto-encoder, and a previous scholar, not used before it is taken."""
        state = super().init(streams, image_shape)
        key = rng.key(streams.generator, "autoencoder")
        images = jnp.zeros((1, *image_shape))
        latents = jnp.zeros((1, self.autoencoder.latent_size))
        variables = self.autoencoder.init(key, images, latents)
        params = state.params | {"autoencoder": variables["params"]}
        return state.replace(params=params).with_teacher()

    def after_task(self, state, task, data):
        """The scholar becomes the previous one."""
        return super().after_task(state, task, data).with_teacher()

    def observe(self, state, task, batch, key):
        """The classifier's and the auto-encoder's losses on real and, later, replayed images."""
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
        return self.observed(task, batch, outputs.logits[:num_real], terms, batch_stats)

    def replay(self, state: LearnerState, task: Task, key: jax.Array, count: int) -> Replay:
        """`count` fresh images of old classes from the previous scholar. The key is consumed."""
        decoder = {"params": state.teacher["params"]["autoencoder"]}
        latents = self.replay_latents(key, count)
        images = self.autoencoder.apply(decoder, latents, method="decode")
        logits = self.classifier.apply(state.teacher, images).logits
        labels = losses.masked_argmax(logits, self.classes(0, task.old))
        return Replay(jax.lax.stop_gradient(images), labels, logits)

    def replay_latents(self, key: jax.Array, count: int) -> jax.Array:
        """What replayed images are decoded from: float [count, Z]. The key is consumed."""
        return jax.random.normal(key, (count, self.autoencoder.latent_size))

    def noise(self, key: jax.Array, count: int) -> jax.Array:
        """The deviations of the latents that are trained: float [count, Z]. Consumes the key."""
        return jax.random.normal(key, (count, self.autoencoder.latent_size))

    def _autoencoder_terms(self, state, images, weights, key):
        variables = {"params": state.params["autoencoder"]}
        noise = self.noise(key, images.shape[0])
        reconstruction = self.autoencoder.apply(variables, images, noise)
        # The reconstruction is a mean over H W C, so this is divided by it: 3072 in the original.
        num_values = math.prod(images.shape[1:])
        divergence = losses.latent_divergence(reconstruction.mean, reconstruction.log_variance)
        return {
            "reconstruction": losses.reconstruction(reconstruction.logits, images, weights),
            "variational": divergence / num_values,
        }
