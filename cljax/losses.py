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


def class_weights(counts: jax.Array, seen: jax.Array) -> jax.Array:
    """Weights against rare classes, `w_k = sum_j (c_j + 1) / (s (c_k + 1))` (ABD code, "--DW").

    Args:
      counts: int32 [K], c: images of each class; 0 for classes not seen.
      seen: int32 [], s.

    Returns:
      float [K], 0 for classes not seen.
    """
    valid = class_range(counts.shape[0], 0, seen)
    more = jnp.where(valid, counts + 1, 0)
    return jnp.where(valid, more.sum() / (seen * (counts + 1)), 0.0)


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
    return jnp.where(valid, _sigmoid_cross_entropies(logits, targets), 0.0).sum(-1).mean()


def reconstruction(logits: jax.Array, images: jax.Array, weights: jax.Array) -> jax.Array:
    """Sigmoid cross entropy of pixels, `(1/B) sum_b weights_b mean_pixels BCE(logits_b, images_b)`.

    Taken from logits, as float32 sigmoids would saturate; bounded as in `binary_cross_entropy`.

    Args:
      logits: float [B, H, W, C], the reconstructed images before their sigmoid.
      images: float [B, H, W, C] in 0..1.
      weights: float [B]; their sum does not divide.

    Returns:
      float [].
    """
    losses = _sigmoid_cross_entropies(logits, images).mean((1, 2, 3))
    return (weights * losses).mean()


def latent_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """`mean_b KL(N(mean_b, exp(log_variance_b)) || N(0, I))`; float [B, Z] each -> [].

    The variational term of an auto-encoder (Kingma & Welling 2014, appendix B).
    """
    terms = 1 + log_variance - jnp.square(mean) - jnp.exp(log_variance)
    return -0.5 * terms.sum(-1).mean()


def _sigmoid_cross_entropies(logits, targets):
    """Element by element, with PyTorch's bound of the logarithms."""
    yes = jnp.maximum(jax.nn.log_sigmoid(logits), -100.0)
    no = jnp.maximum(jax.nn.log_sigmoid(-logits), -100.0)
    return -(targets * yes + (1 - targets) * no)


def class_share_weights(
    labels: jax.Array, old: jax.Array | int, seen: jax.Array | int
) -> jax.Array:
    """Weights float [B]: `old / seen` for labels below `old`, `1 - old / seen` for the others.

    Shares of classes, not of images, as the ABD code has it; all ones in the first task.
    """
    old_share = old / seen
    return jnp.where(labels < old, old_share, 1 - old_share)


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
