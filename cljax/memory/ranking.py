"""Ranks the images of a class for the exemplar memory, best first.

The functions are pure and take padded arrays. Each follows one paper or one reference code. Padding
has the label K.
"""

import jax
import jax.numpy as jnp

_LUCIR_ROUNDS, _LUCIR_PICKS = 1000, 500  # limits of the reference code


def class_counts(labels: jax.Array, num_classes: int) -> jax.Array:
    """Counts the images of each label: int32 [N] -> int32 [K]; padding (label K) is ignored."""
    return jnp.zeros(num_classes, jnp.int32).at[labels].add(1, mode="drop")


def ranks_within_class(labels: jax.Array, priorities: jax.Array) -> jax.Array:
    """Ranks each image among those of its label in ascending priority.

    Equal priorities are ranked by position. Padding is ranked as a class of its own.

    Args:
      labels: int32 [N]; K for padding.
      priorities: numbers [N].

    Returns:
      int32 [N], from 0 within each label.
    """
    places = jnp.arange(labels.shape[0], dtype=jnp.int32)
    ordered, _, order = jax.lax.sort((labels, priorities, places), num_keys=2, is_stable=True)
    is_start = ordered != jnp.roll(ordered, 1)
    starts = jax.lax.cummax(jnp.where(is_start, places, 0))
    return jnp.zeros_like(places).at[order].set(places - starts, unique_indices=True)


def herding(features: jax.Array, count: jax.Array, picks: jax.Array) -> jax.Array:
    """Ranks the images of one class by herding (Rebuffi et al., iCaRL, 2017, algorithm 4).

    Each pick is the image that, with those picked before, has the mean nearest to the class mean:
    argmin ||mean - (sum of picked + candidate) / (picked + 1)||. No image is picked twice. If the
    computed distances of candidates are equal, as for duplicates, the first one is picked. More
    picks only extend the ranking.

    Args:
      features: float [n, D]; rows from `count` on are padding.
      count: int32 [], images of the class.
      picks: int32 [], images to rank; all if more than `count`.

    Returns:
      int32 [n]: 0 for the first pick, then 1, ...; n for images not picked and for padding.
    """
    n = features.shape[0]
    is_image = jnp.arange(n) < count
    # From the class mean, candidates are compared by ||sum of picked + candidate||: the same
    # order, but the sum stays small, so late picks are as exact as early ones.
    centred = features - _mean(features, count)

    def pick(rank, carry):
        total, ranks = carry
        distances = jnp.sum((total + centred) ** 2, axis=1)
        # Finite even for a network that has diverged, so that only candidates are picked.
        candidates = jnp.where(is_image & (ranks == n), jnp.nan_to_num(distances), jnp.inf)
        best = jnp.argmin(candidates)
        return total + centred[best], ranks.at[best].set(rank)

    start = jnp.zeros_like(centred[0]), jnp.full(n, n, jnp.int32)
    last = jnp.minimum(picks, count).astype(jnp.int32)
    return jax.lax.fori_loop(jnp.int32(0), last, pick, start)[1]


def herding_lucir(features: jax.Array, count: jax.Array, picks: jax.Array) -> jax.Array:
    """Ranks the images of one class as the LUCIR reference code does (Hou et al., 2019).

    Starting with w = mean, each round takes argmax <w, candidate>, the first one if tied, and adds
    mean - candidate to w. An image may be taken again, which changes w but gives no rank. There are
    at most 1000 rounds, so there may be fewer ranks than picks, and at most 500 ranks.

    Args:
      features, count, picks: as in `herding`; the authors' features have norm 1.

    Returns:
      int32 [n], as `herding`.
    """
    n = features.shape[0]
    is_image = jnp.arange(n) < count
    features = jnp.where(is_image[:, None], features, 0)
    mean = _mean(features, count)
    wanted = jnp.minimum(jnp.minimum(picks, count), _LUCIR_PICKS).astype(jnp.int32)

    def goes_on(carry):
        rounds, ranked, _, _ = carry
        return (ranked < wanted) & (rounds < _LUCIR_ROUNDS)

    def take(carry):
        rounds, ranked, w, ranks = carry
        scores = jnp.sum(features * w, axis=1)
        best = jnp.argmax(jnp.where(is_image, jnp.nan_to_num(scores), -jnp.inf))
        is_new = ranks[best] == n
        ranks = ranks.at[best].min(ranked)
        return rounds + 1, ranked + is_new.astype(jnp.int32), w + mean - features[best], ranks

    start = jnp.int32(0), jnp.int32(0), mean, jnp.full(n, n, jnp.int32)
    return jax.lax.while_loop(goes_on, take, start)[3]


def nearest_to_mean(features: jax.Array, count: jax.Array, picks: jax.Array) -> jax.Array:
    """Ranks the images of one class by distance to the class mean, nearest first (E2E).

    Equal distances are ranked by position.

    Args:
      features, count: as in `herding`.
      picks: ignored; all images are ranked.

    Returns:
      int32 [n], as `herding`.
    """
    n = features.shape[0]
    is_padding = jnp.arange(n) >= count
    distances = jnp.sum((features - _mean(features, count)) ** 2, axis=1)
    return jnp.where(is_padding, n, ranks_within_class(is_padding.astype(jnp.int32), distances))


def _mean(features, count):
    """Computes the mean [D] of the first `count` rows of features [n, D]."""
    is_image = (jnp.arange(features.shape[0]) < count)[:, None]
    return jnp.where(is_image, features, 0).sum(0) / jnp.maximum(count, 1)


def offer(
    key: jax.Array, count: jax.Array, past: jax.Array, capacity: int, size: int
) -> tuple[jax.Array, jax.Array]:
    """Draws random turns of a task's images and the slot of a reservoir for each image.

    Image c of all images offered, counted from 1, gets slot c - 1 while there is room. Later its
    slot is uniform in 0..c-1, of which only 0..size-1 exist (Vitter, 1985, algorithm R).

    Args:
      key: consumed.
      count: int32 [], images of the task.
      past: int32 [], images offered in previous tasks.
      capacity: N.
      size: M.

    Returns:
      Turns int32 [N] and slots int32 [N]. The turns of padding come after all others; its slots
      have no meaning.
    """
    turn_key, slot_key = jax.random.split(key)
    is_padding = (jnp.arange(capacity) >= count).astype(jnp.int32)
    draws = jax.random.bits(turn_key, (capacity,), jnp.uint32)
    turns = ranks_within_class(is_padding, draws) + is_padding * count
    offered = past + turns + 1
    drawn = jax.random.randint(slot_key, (capacity,), 0, offered, jnp.int32)
    return turns, jnp.where(offered <= size, offered - 1, drawn).astype(jnp.int32)
