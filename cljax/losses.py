"""Losses as pure functions of logits and features.

A range of valid classes is a boolean mask over all K logits, so that its bounds may be traced:
a softmax over masked logits equals the softmax over the slice.
"""

import jax
import jax.numpy as jnp


def class_range(num_classes: int, start: jax.Array | int, stop: jax.Array | int) -> jax.Array:
    """Mask bool [num_classes] of the classes start..stop-1."""
    classes = jnp.arange(num_classes)
    return (classes >= start) & (classes < stop)


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    valid: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Softmax cross entropy, `(1/B) sum_b weights_b CE(logits_b, labels_b)`, natural logarithm.

    The weighted sum is divided by the number of rows, not by the sum of weights (spec of the ABD
    code, "wCE").

    Args:
      logits: float [B, K].
      labels: int32 [B], each a valid class.
      valid: bool [K], the classes of the softmax; all by default.
      weights: float [B]; ones by default.

    Returns:
      float [].
    """
    log_probabilities = jax.nn.log_softmax(logits, where=valid)
    losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    return (losses if weights is None else weights * losses).mean()


def weighted_feature_distance(
    features: jax.Array, teacher_features: jax.Array, kernel: jax.Array, valid: jax.Array
) -> jax.Array:
    """Importance-weighted feature distillation (ABD paper, equation 13, with the code's scale).

    `mean_b (1/|valid|) || W (features_b - teacher_features_b) ||^2`, W the valid columns of the
    previous head: a difference counts as far as the previous head could see it.

    Args:
      features, teacher_features: float [B, D].
      kernel: float [D, K], the previous head's weights.
      valid: bool [K], the old classes.

    Returns:
      float [].
    """
    differences = (features - teacher_features) @ kernel
    squares = jnp.where(valid, jnp.square(differences), 0.0)
    return (squares.sum(-1) / valid.sum()).mean()


def masked_argmax(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Index int32 [...] of the largest valid logit; `valid` bool broadcasts against logits."""
    return jnp.argmax(jnp.where(valid, logits, -jnp.inf), axis=-1).astype(jnp.int32)


def top_k(logits: jax.Array, valid: jax.Array, k: int) -> jax.Array:
    """The k largest valid logits' indices, int32 [..., k], largest first, ties by lower index."""
    return jax.lax.top_k(jnp.where(valid, logits, -jnp.inf), k)[1]
