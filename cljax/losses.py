"""Losses as pure functions of logits and features.

A range of valid classes is a boolean mask over all K logits, so that its bounds may be traced:
a softmax over masked logits equals the softmax over the slice.
"""

import jax
import jax.numpy as jnp

SHORTEST = 1e-12  # Euclidean norm below which a vector has no direction


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
    return _mean(losses, weights)


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
    weights: jax.Array | None = None,
) -> jax.Array:
    """Knowledge distillation (Hinton et al. 2015), without the factor T^2, as the ABD code has it.

    `mean_b - sum_k softmax(teacher_b / T)_k log softmax(logits_b / T)_k`.

    Args:
      logits, teacher_logits: float [B, K]; no gradient flows into the latter.
      valid: bool [K], the classes of the student's softmax.
      teacher_valid: bool [K], the classes of the teacher's softmax, a subset of `valid`; the same
        by default. The teacher gives the other valid classes probability 0.
      temperature: T.
      weights: float [B], of the rows; ones by default.

    Returns:
      float [].
    """
    teacher_valid = valid if teacher_valid is None else teacher_valid
    targets = jax.nn.softmax(teacher_logits / temperature, where=teacher_valid)
    log_probabilities = jax.nn.log_softmax(logits / temperature, where=valid)
    products = jax.lax.stop_gradient(targets) * jnp.where(teacher_valid, log_probabilities, 0.0)
    return -_mean(products.sum(-1), weights)


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


def unit_vectors(vectors: jax.Array, axis: int = -1) -> jax.Array:
    """Vectors of norm 1 along `axis`, `v / max(|v|, 1e-12)`, in float32 at least.

    Values are PyTorch's `normalize`. The gradient is its too, except for vectors shorter than the
    bound, which have none here and one of 1e12 times the cotangent there.
    """
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    squares = jnp.square(vectors).sum(axis, keepdims=True)
    is_short = squares < SHORTEST**2
    # The square root of a short vector is not taken: its gradient may be infinite.
    units = vectors * jax.lax.rsqrt(jnp.where(is_short, 1.0, squares))
    return jnp.where(is_short, jax.lax.stop_gradient(vectors) / SHORTEST, units)


def cosines(features: jax.Array, kernel: jax.Array) -> jax.Array:
    """Cosines of features and a head's columns; times a scale, cosine logits (LUCIR, section 3.2).

    Computed in float32 at least; 0 for zero vectors.

    Args:
      features: float [B, D].
      kernel: float [D, K].

    Returns:
      float [B, K] in -1..1.
    """
    # A margin between cosines is finer than the fast products of GPUs and TPUs.
    return jnp.matmul(
        unit_vectors(features), unit_vectors(kernel, axis=0), precision=jax.lax.Precision.HIGHEST
    )


def cosine_distance(
    features: jax.Array, teacher_features: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """`mean_b 1 - cos(features_b, teacher_features_b)` ("less-forget", LUCIR paper, section 3.3).

    Computed in float32 at least; 1e-12 is added to both squared norms, as PyTorch does.

    Args:
      features, teacher_features: float [B, D]; no gradient flows into the latter.
      weights: float [B], of the rows; ones by default.

    Returns:
      float [].
    """
    a = _at_least_float32(features)
    b = jax.lax.stop_gradient(_at_least_float32(teacher_features))
    norms = [jnp.sqrt(jnp.square(v).sum(-1) + 1e-12) for v in (a, b)]
    distances = 1 - (a * b).sum(-1) / (norms[0] * norms[1])
    return _mean(distances, weights)


def margin_ranking(
    scores: jax.Array,
    labels: jax.Array,
    old: jax.Array | int,
    negatives: jax.Array,
    num_hard_negatives: int,
    margin: float,
) -> jax.Array:
    """Keeps images of old classes a margin away from their hard negatives (LUCIR, section 3.4).

    The mean of `max(0, margin - scores_b,label + scores_b,rival)` over the rows b of old classes
    and each one's `num_hard_negatives` negatives of largest score. The paper has a sum over them,
    its code the mean. Computed in float32 at least.

    Args:
      scores: float [B, K], cosines.
      labels: int32 [B].
      old: int32 [], rows with labels from `old` on do not count.
      negatives: bool [K], the classes that may be hard negatives: the new ones, in a variant of
        the code all seen classes. A row's own class never is. Where there are fewer than
        `num_hard_negatives`, those that lack count as zeros.
      num_hard_negatives: 1 to K.
      margin: of cosines.

    Returns:
      float [], 0 if no row is of an old class.
    """
    scores = _at_least_float32(scores)
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    is_negative = negatives & (jnp.arange(scores.shape[1]) != labels[:, None])
    hardest, _ = jax.lax.top_k(jnp.where(is_negative, scores, -jnp.inf), num_hard_negatives)
    is_old = labels < old
    losses = jnp.where(is_old[:, None], jax.nn.relu(margin - own + hardest), 0.0)
    return losses.sum() / (num_hard_negatives * jnp.maximum(is_old.sum(), 1))


def score_distance(
    scores: jax.Array,
    teacher_scores: jax.Array,
    valid: jax.Array,
    weights: jax.Array | None = None,
) -> jax.Array:
    """`mean_b sum_k (scores_bk - teacher_scores_bk)^2` over valid k, in float32 at least.

    The ablation "mimic scores" of the LUCIR code.

    Args:
      scores, teacher_scores: float [B, K], cosines; no gradient flows into the latter.
      valid: bool [K], the old classes.
      weights: float [B], of the rows; ones by default.

    Returns:
      float [].
    """
    targets = jax.lax.stop_gradient(_at_least_float32(teacher_scores))
    squares = jnp.square(_at_least_float32(scores) - targets)
    return _mean(jnp.where(valid, squares, 0.0).sum(-1), weights)


def _mean(rows, weights):
    return (rows if weights is None else weights * rows).mean()


def _at_least_float32(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked_argmax(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Index int32 [...] of the largest valid logit; `valid` bool broadcasts against logits."""
    return jnp.argmax(jnp.where(valid, logits, -jnp.inf), axis=-1).astype(jnp.int32)


def top_k(logits: jax.Array, valid: jax.Array, k: int) -> jax.Array:
    """The k largest valid logits' indices, int32 [..., k], largest first, ties by lower index."""
    return jax.lax.top_k(jnp.where(valid, logits, -jnp.inf), k)[1]
