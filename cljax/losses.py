"""Computes losses with pure functions of logits and features.

A range of valid classes is a boolean mask over all K logits, so that its bounds may be traced. A
softmax over masked logits equals the softmax over the slice.
"""

import jax
import jax.numpy as jnp

SHORTEST = 1e-12  # Euclidean norm below which a vector has no direction


def class_range(num_classes: int, start: jax.Array | int, stop: jax.Array | int) -> jax.Array:
    """Makes the mask bool [num_classes] of the classes start..stop-1."""
    classes = jnp.arange(num_classes)
    return (classes >= start) & (classes < stop)


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    valid: jax.Array | None = None,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Computes the softmax cross entropy `(1/B) sum_b weights_b CE(logits_b, labels_b)` in nats.

    The weighted sum is divided by the number of rows, not by the sum of the weights ("wCE" of the
    ABD reference code).

    Args:
      logits: float [B, K].
      labels: int32 [B], each a valid class.
      valid: bool [K], classes of the softmax; all by default.
      weights: float [B], sample weights; ones by default.

    Returns:
      float [].
    """
    allowed = logits if valid is None else jnp.where(valid, logits, -jnp.inf)
    top = jax.lax.stop_gradient(allowed.max(1, keepdims=True))
    total = jnp.exp(allowed - top).sum(1)
    # Neither a gather here nor a scatter in the gradient, which are kernels of their own.
    own = jnp.where(jnp.arange(logits.shape[1]) == labels[:, None], logits - top, 0).sum(1)
    return _mean(jnp.log(total) - own, weights)


def class_weights(counts: jax.Array, seen: jax.Array) -> jax.Array:
    """Computes weights that favor rare classes, `w_k = sum_j (c_j + 1) / (s (c_k + 1))`.

    The flag in the ABD reference code is "--DW".

    Args:
      counts: int32 [K], number c of images of each class; 0 for future classes.
      seen: int32 [], number s of seen classes.

    Returns:
      float [K], 0 for future classes.
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
    """Computes the distillation loss (Hinton et al. 2015) without the factor T^2, as ABD.

    `mean_b - sum_k softmax(teacher_b / T)_k log softmax(logits_b / T)_k`.

    Args:
      logits, teacher_logits: float [B, K]; no gradient flows into the latter.
      valid: bool [K], classes of the student's softmax.
      teacher_valid: bool [K], classes of the teacher's softmax, a subset of `valid`; `valid` by
        default. The teacher gives the other valid classes probability 0.
      temperature: softmax temperature T, > 0 (default 2).
      weights: float [B], sample weights; ones by default.

    Returns:
      float [].
    """
    teacher_valid = valid if teacher_valid is None else teacher_valid
    targets = jax.nn.softmax(teacher_logits / temperature, where=teacher_valid)
    log_probabilities = jax.nn.log_softmax(logits / temperature, where=valid)
    products = jax.lax.stop_gradient(targets) * jnp.where(teacher_valid, log_probabilities, 0.0)
    return -_mean(products.sum(-1), weights)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array, valid: jax.Array) -> jax.Array:
    """Computes the sigmoid cross entropy: a sum over valid classes, a mean over rows.

    Logarithms are at least -100, as in PyTorch.

    Args:
      logits: float [B, K].
      targets: float [B, K] in 0..1.
      valid: bool [K].

    Returns:
      float [].
    """
    return jnp.where(valid, _sigmoid_cross_entropies(logits, targets), 0.0).sum(-1).mean()


def reconstruction(logits: jax.Array, images: jax.Array, weights: jax.Array) -> jax.Array:
    """Computes the pixel loss `(1/B) sum_b weights_b mean_pixels BCE(logits_b, images_b)`.

    BCE is the sigmoid cross entropy, computed from logits because float32 sigmoids would saturate,
    with the bound of `binary_cross_entropy`.

    Args:
      logits: float [B, H, W, C], the reconstructed images before their sigmoid.
      images: float [B, H, W, C] in 0..1.
      weights: float [B], sample weights; the loss is not divided by their sum.

    Returns:
      float [].
    """
    losses = _sigmoid_cross_entropies(logits, images).mean((1, 2, 3))
    return (weights * losses).mean()


def latent_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Computes `mean_b KL(N(mean_b, exp(log_variance_b)) || N(0, I))`.

    This is the variational loss term of a VAE (Kingma & Welling 2014, appendix B).

    Args:
      mean, log_variance: float [B, Z].

    Returns:
      float [].
    """
    terms = 1 + log_variance - jnp.square(mean) - jnp.exp(log_variance)
    return -0.5 * terms.sum(-1).mean()


def _sigmoid_cross_entropies(logits, targets):
    # Element by element, with PyTorch's bound of the logarithms.
    yes = jnp.maximum(jax.nn.log_sigmoid(logits), -100.0)
    no = jnp.maximum(jax.nn.log_sigmoid(-logits), -100.0)
    return -(targets * yes + (1 - targets) * no)


def class_share_weights(
    labels: jax.Array, old: jax.Array | int, seen: jax.Array | int
) -> jax.Array:
    """Computes sample weights: `old / seen` for old classes, `1 - old / seen` for new ones.

    These are fractions of classes, not of images, as in the ABD reference code.

    Args:
      labels: int32 [B].
      old: int32 [], number of old classes.
      seen: int32 [], number of seen classes.

    Returns:
      float [B]; ones in the first task.
    """
    old_share = jnp.asarray(old, float) / seen
    return jnp.where(labels < old, old_share, 1 - old_share)


def weighted_feature_distance(
    features: jax.Array, teacher_features: jax.Array, kernel: jax.Array, valid: jax.Array
) -> jax.Array:
    """Computes the importance-weighted feature distillation of ABD (equation 13, code's scale).

    `mean_b (1/|valid|) || W (features_b - teacher_features_b) ||^2`, where W has the valid columns
    of the teacher's head. So only differences that change the teacher's logits count.

    Args:
      features, teacher_features: float [B, D].
      kernel: float [D, K], kernel of the teacher's head.
      valid: bool [K], the old classes.

    Returns:
      float [].
    """
    differences = (features - teacher_features) @ kernel
    squares = jnp.where(valid, jnp.square(differences), 0.0)
    return (squares.sum(-1) / valid.sum()).mean()


def unit_vectors(vectors: jax.Array, axis: int = -1) -> jax.Array:
    """Scales vectors along `axis` to norm 1, `v / max(|v|, 1e-12)`, in at least float32.

    Values and gradients are those of PyTorch's `normalize`, except the gradient of vectors shorter
    than 1e-12: it is 0 here, and 1e12 times the cotangent in PyTorch.
    """
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    squares = jnp.square(vectors).sum(axis, keepdims=True)
    is_short = squares < SHORTEST**2
    # The square root of a short vector is not taken: its gradient may be infinite.
    units = vectors * jax.lax.rsqrt(jnp.where(is_short, 1.0, squares))
    return jnp.where(is_short, jax.lax.stop_gradient(vectors) / SHORTEST, units)


def cosines(features: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the cosines of features and head columns (LUCIR, section 3.2) in at least float32.

    A cosine with a zero vector is 0.

    Args:
      features: float [B, D].
      kernel: float [D, K].

    Returns:
      float [B, K] in -1..1.
    """
    # A margin between cosines needs more precision than the fast products of GPUs and TPUs have.
    return jnp.matmul(
        unit_vectors(features), unit_vectors(kernel, axis=0), precision=jax.lax.Precision.HIGHEST
    )


def cosine_distance(
    features: jax.Array, teacher_features: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Computes `mean_b 1 - cos(features_b, teacher_features_b)`, less-forget of LUCIR, section 3.3.

    Computes in at least float32, and adds 1e-12 to both squared norms as PyTorch does.

    Args:
      features, teacher_features: float [B, D]; no gradient flows into the latter.
      weights: float [B], sample weights; ones by default.

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
    """Computes the margin ranking loss of images of old classes (LUCIR, section 3.4).

    This is the mean of `max(0, margin - scores_b,label + scores_b,negative)` over rows b of old
    classes and their `num_hard_negatives` negatives with the largest scores. The paper has a sum
    over the negatives, its code the mean. Computes in at least float32.

    Args:
      scores: float [B, K], cosines.
      labels: int32 [B].
      old: int32 [], number of old classes; rows of new classes do not count.
      negatives: bool [K], classes that may be hard negatives: the new ones, or all seen classes in
        a variant of the code. The class of a row is never its own negative. Each one missing to
        `num_hard_negatives` counts as a zero.
      num_hard_negatives: number of negatives per row, 1 to K.
      margin: minimum difference of cosines, 0 to 2.

    Returns:
      float [], 0 if no row has an old class.
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
    """Computes `mean_b sum_k (scores_bk - teacher_scores_bk)^2` over valid k, in at least float32.

    This is the ablation "mimic scores" of the LUCIR reference code.

    Args:
      scores, teacher_scores: float [B, K], cosines; no gradient flows into the latter.
      valid: bool [K], the old classes.
      weights: float [B], sample weights; ones by default.

    Returns:
      float [].
    """
    targets = jax.lax.stop_gradient(_at_least_float32(teacher_scores))
    squares = jnp.square(_at_least_float32(scores) - targets)
    return _mean(jnp.where(valid, squares, 0.0).sum(-1), weights)


def logit_distance(logits: jax.Array, teacher_logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Computes `mean_b (1/|valid|) sum_k |logits_bk - teacher_logits_bk|` over valid k.

    This is the hard distillation of R-DFCIL (Gao et al., ECCV 2022): no softmax, no temperature.

    Args:
      logits, teacher_logits: float [B, K]; no gradient flows into the latter.
      valid: bool [K], the old classes.

    Returns:
      float [].
    """
    differences = jnp.abs(logits - jax.lax.stop_gradient(teacher_logits))
    return (jnp.where(valid, differences, 0.0).sum(-1) / valid.sum()).mean()


def angles(features: jax.Array) -> jax.Array:
    """Computes the cosine at i between the directions to j and k, for all rows i, j, k.

    A row that is equal to row i has no direction: its cosines are 0.

    Args:
      features: float [B, D].

    Returns:
      float [B, B, B] in -1..1, with [i, j, k], at least float32.
    """
    features = _at_least_float32(features)
    directions = unit_vectors(features[None] - features[:, None])
    return jnp.einsum("ijd,ikd->ijk", directions, directions, precision=jax.lax.Precision.HIGHEST)


def angle_distance(features: jax.Array, teacher_features: jax.Array) -> jax.Array:
    """Computes the mean over all triples (i, j, k) of the absolute difference of `angles`.

    This is the relational distillation of R-DFCIL (Gao et al., ECCV 2022, after Park et al., CVPR
    2019), with an L1 distance in place of a smooth one. Triples with equal entries count as well.

    Args:
      features, teacher_features: float [B, D]; gradients flow into both.

    Returns:
      float [].
    """
    return jnp.abs(angles(features) - angles(teacher_features)).mean()


def _mean(rows, weights):
    return (rows if weights is None else weights * rows).mean()


def _at_least_float32(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked_argmax(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the index of the largest valid logit.

    Args:
      logits: float [..., K].
      valid: bool, broadcasts against `logits`.

    Returns:
      int32 [...].
    """
    return jnp.argmax(jnp.where(valid, logits, -jnp.inf), axis=-1).astype(jnp.int32)


def top_k(logits: jax.Array, valid: jax.Array, k: int) -> jax.Array:
    """Returns the indices of the k largest valid logits, largest first, ties by lower index.

    Args:
      logits: float [..., K].
      valid: bool, broadcasts against `logits`.
      k: 1 to K.

    Returns:
      int32 [..., k].
    """
    return jax.lax.top_k(jnp.where(valid, logits, -jnp.inf), k)[1]
