"""Model inversion: trains a generator to dream images of the classes of a frozen classifier.

The images must look to the classifier like its training data (Always Be Dreaming, section 4.1):
confidently classified, balanced over classes, smooth, and with the batch statistics of real images
in every batch-norm layer. All functions are pure and may be `vmap`ped over seeds; the number of
classes is traced.
"""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import losses
from cljax.compute.mesh import shard_batch
from cljax.models import LATENT_SIZE, Classifier, Generator
from cljax.state import GeneratorState, PyTree, hyperparameters

# One axis of the smoothing kernel; Python floats take the images' precision.
_GAUSSIAN = np.exp(-(np.arange(-2, 3) ** 2) / 4)
SMOOTHING = tuple((_GAUSSIAN / _GAUSSIAN.sum()).tolist())


@hyperparameters
class Inversion:
    """Says how a generator is trained; the defaults are the published values.

    Attributes:
      generator: network that maps latents [B, LATENT_SIZE] to images [B, H, W, C].
      steps: Adam steps of each inversion.
      batch_size: images per step.
      learning_rate: learning rate of Adam.
      content: weight of the confidence term.
      temperature: softmax temperature of the confidence term; 1000 makes it nearly inert.
      statistics: weight of the divergence of batch statistics.
      prior: weight of the smoothness term.
    """

    generator: Generator
    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    content: float = 1.0
    temperature: float = 1000.0
    statistics: float = 50.0
    prior: float = 1e-3


def init_generator(inversion: Inversion, key: jax.Array) -> GeneratorState:
    """Initializes a generator and its Adam state; consumes the key."""
    variables = inversion.generator.init(key, jnp.zeros((2, LATENT_SIZE)), train=True)
    return GeneratorState(
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optax.scale_by_adam().init(variables["params"]),
    )


def sample(inversion: Inversion, state: GeneratorState, key: jax.Array, count: int) -> jax.Array:
    """Dreams `count` images [count, H, W, C] in eval mode, standardized as training images.

    Consumes the key. No gradient flows into the generator.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = inversion.generator.apply(variables, draw_latents(key, count), train=False)
    return jax.lax.stop_gradient(images)


def draw_latents(key: jax.Array, count: int) -> jax.Array:
    """Draws standard normal latents float [count, LATENT_SIZE]; consumes the key."""
    return shard_batch(jax.random.normal(key, (count, LATENT_SIZE)))


def class_balance(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Computes 1 + sum_k p_k ln p_k / ln(valid classes), p the mean prediction of the batch.

    It is 0 if predictions are even over the valid classes, and 1 if all are of one class or only
    one is valid.

    Args:
      logits: float [B, K].
      valid: bool [K].

    Returns:
      float [].
    """
    p = jax.nn.softmax(logits, where=valid).mean(0)
    present = p > 0
    negative_entropy = jnp.where(present, p * jnp.log(jnp.where(present, p, 1.0)), 0.0).sum()
    return 1 + negative_entropy / jnp.log(jnp.maximum(valid.sum(), 2))


def statistics_divergence(batch_stats: PyTree, moments: PyTree) -> jax.Array:
    """Computes KL(N(running) || N(batch)) per batch-norm layer, a mean over channels and layers.

    Args:
      batch_stats: running statistics, `mean` and `var` [C] per layer.
      moments: mean and biased variance of the layers' inputs, of the same structure.

    Returns:
      float [], 0 if there is no layer.
    """
    of_batch, of_running = _by_layer(moments), _by_layer(batch_stats)
    if not of_batch:
        return jnp.zeros(())
    batch, running = [*of_batch.values()], [of_running[layer] for layer in of_batch]
    # All layers as one vector, as each would take kernels of its own.
    shares = np.concatenate([np.full(len(one["mean"]), 1 / len(one["mean"])) for one in batch])
    mean, variance, running_mean, running_variance = (
        jnp.concatenate([one[name] for one in layers])
        for layers in (batch, running)
        for name in ("mean", "var")
    )
    variance, running_variance = variance + 1e-8, running_variance + 1e-8
    divergence = 0.5 * (
        jnp.log(variance)
        - jnp.log(running_variance)
        - 1
        + (running_variance + jnp.square(running_mean - mean)) / variance
    )
    return (shares.astype(divergence.dtype) * divergence).sum() / len(batch)


def _by_layer(tree: PyTree, path: str = "") -> dict[str, dict[str, jax.Array]]:
    if "mean" in tree:
        return {path: tree}
    layers = {}
    for name, child in tree.items():
        layers |= _by_layer(child, f"{path}/{name}" if path else name)
    return layers


def smooth(images: jax.Array) -> jax.Array:
    """Blurs images [B, H, W, C] channel by channel, reflected by two pixels at the borders.

    The 5x5 kernel is proportional to exp(-(i^2 + j^2)/4): wider than a sigma of 1, as in the ABD
    reference code. It is separable, so it is applied as shifted sums of rows, then of columns.
    """
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifted = (w * padded[:, i : i + images.shape[1]] for i, w in enumerate(SMOOTHING))
    rows = cast(jax.Array, sum(shifted))
    columns = (w * rows[:, :, i : i + images.shape[2]] for i, w in enumerate(SMOOTHING))
    return cast(jax.Array, sum(columns))


def loss(
    inversion: Inversion,
    classifier: Classifier,
    params: PyTree,
    batch_stats: PyTree,
    teacher: PyTree,
    seen: jax.Array,
    latents: jax.Array,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]:
    """Computes the loss of the generator against a frozen classifier.

    Args:
      inversion: generator, and weights of the terms.
      classifier: the frozen classifier's module.
      params: the generator's parameters.
      batch_stats: the generator's running statistics; moved, as the generator is in train mode.
      teacher: the frozen classifier's variables; used in eval mode.
      seen: int32 [], classes the frozen classifier knows.
      latents: float [B, LATENT_SIZE].

    Returns:
      The loss [], and (its terms as they enter the sum, the generator's new running statistics).
    """
    images, updates = inversion.generator.apply(
        {"params": params, "batch_stats": batch_stats}, latents, train=True, mutable=["batch_stats"]
    )
    outputs, collected = classifier.apply(teacher, images, train=False, mutable=["moments"])
    logits = outputs.logits
    valid = losses.class_range(logits.shape[-1], 0, seen)
    labels = losses.masked_argmax(logits, valid)
    divergence = statistics_divergence(teacher["batch_stats"], collected.get("moments", {}))
    roughness = jnp.square(images - smooth(images)).mean()
    terms = {
        "content": inversion.content
        * losses.cross_entropy(logits / inversion.temperature, labels, valid),
        "balance": class_balance(logits, valid),
        "statistics": inversion.statistics * divergence,
        "prior": inversion.prior * roughness,
    }
    return cast(jax.Array, sum(terms.values())), (terms, updates["batch_stats"])


def step(
    inversion: Inversion,
    classifier: Classifier,
    state: GeneratorState,
    teacher: PyTree,
    seen: jax.Array,
    latents: jax.Array,
) -> tuple[GeneratorState, dict[str, jax.Array]]:
    """Takes one Adam step on the generator; see `loss` for the arguments.

    Returns:
      The new generator, and the loss and its terms before the step.
    """

    def objective(params):
        return loss(inversion, classifier, params, state.batch_stats, teacher, seen, latents)

    (total, (terms, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, opt_state = optax.scale_by_adam().update(grads, state.opt_state)
    updates = jax.tree.map(lambda update: -inversion.learning_rate * update, updates)
    new = GeneratorState(optax.apply_updates(state.params, updates), batch_stats, opt_state)
    return new, {"loss": total, **terms}
