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


def distillation(
    logits: jax.Array,
    teacher_logits: jax.Array,
    valid: jax.Array,
    teacher_valid: jax.Array | None = None,
    temperature: float = 2.0,
) -> jax.Array:
    """Knowledge distillation (Hinton et al. 2015), without the factor T^2, as the ABD code has it.

    `mean_b - sum_k softmax(teacher_b / T)_k log softmax(logits_b / T)_k`.

    Args:
      logits, teacher_logits: float [B, K]; no gradient flows into the latter.
      valid: bool [K], the classes of the student's softmax.
      teacher_valid: bool [K], the classes of the teacher's softmax, a subset of `valid`; the same
        by default. The teacher gives the other valid classes probability 0.
      temperature: T.

    Returns:
      float [].
    """
    teacher_valid = valid if teacher_valid is None else teacher_valid
    targets = jax.nn.softmax(teacher_logits / temperature, where=teacher_valid)
    log_probabilities = jax.nn.log_softmax(logits / temperature, where=valid)
    products = jax.lax.stop_gradient(targets) * jnp.where(teacher_valid, log_probabilities, 0.0)
    return -products.sum(-1).mean()


def binary_cross_entropy(logits: jax.Array, targets: jax.Array, valid: jax.Array) -> jax.Array:
    """Sigmoid cross entropy, a sum over valid classes and a mean over rows.

    Logarithms are bounded below by -100, PyTorch's guard against saturation.

    Args:
      logits: float [B, K].
      targets: float [B, K] in 0..1.
      valid: bool [K].

    Returns:
      float [].
    """
    yes = jnp.maximum(jax.nn.log_sigmoid(logits), -100.0)
    no = jnp.maximum(jax.nn.log_sigmoid(-logits), -100.0)
    losses = -(targets * yes + (1 - targets) * no)
    return jnp.where(valid, losses, 0.0).sum(-1).mean()


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
