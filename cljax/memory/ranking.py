"""Which images of a class an exemplar memory prefers: ranks, best first.

Pure functions of padded arrays, each after one paper or one released program. Labels are places of
classes in the class order; an entry that is no image has the label K.
"""

import jax
import jax.numpy as jnp

_LUCIR_ROUNDS, _LUCIR_PICKS = 1000, 500  # limits of the released code


def class_counts(labels: jax.Array, num_classes: int) -> jax.Array:
    """Images of each label, int32 [K], in labels int32 [N]."""
    return jnp.zeros(num_classes, jnp.int32).at[labels].add(1, mode="drop")


def ranks_within_class(labels: jax.Array, priorities: jax.Array) -> jax.Array:
    """Place of each image among those of its label in ascending priority, int32 [N].

    Equal priorities are ranked by position. Padding is ranked as a class of its own.

    Args:
      labels: int32 [N].
      priorities: numbers [N].
    """
    places = jnp.arange(labels.shape[0], dtype=jnp.int32)
    ordered, _, order = jax.lax.sort((labels, priorities, places), num_keys=2, is_stable=True)
    is_start = ordered != jnp.roll(ordered, 1)
    starts = jax.lax.cummax(jnp.where(is_start, places, 0))
    return jnp.zeros_like(places).at[order].set(places - starts, unique_indices=True)


def herding(features: jax.Array, count: jax.Array, picks: jax.Array) -> jax.Array:
    """Ranks of the images of one class by herding (Rebuffi et al., iCaRL, 2017, algorithm 4).

    Each pick is the image that, with those picked before, has the mean nearest to the class mean:
    argmin ||mean - (sum of picked + candidate) / (picked + 1)||. No image is picked twice. Of
    candidates whose distances are equal as computed, which holds for duplicates, the first wins.
    More picks only extend the ranking.

    Args:
      features: float [n, D]; what is behind `count` is ignored.
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
    """Ranks of the images of one class as the released code of LUCIR herds (Hou et al., 2019).

    From w = mean on, each round takes argmax <w, candidate>, the first one if tied, and adds
    mean - candidate to w. An image may be taken again, which moves w but gives no rank. It ends
    after 1000 rounds, so there may be fewer ranks than picks, and ranks 500 images at most.

    Args and result are those of `herding`; the authors' features have unit length.
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
    """Ranks of the images of one class by distance to the class mean, nearest first (E2E).

    Equal distances are ranked by position. Args and result are those of `herding`, except that
    all images are ranked, whatever `picks` is.
    """
    n = features.shape[0]
    is_padding = jnp.arange(n) >= count
    distances = jnp.sum((features - _mean(features, count)) ** 2, axis=1)
    return jnp.where(is_padding, n, ranks_within_class(is_padding.astype(jnp.int32), distances))


def _mean(features, count):
    """Mean [D] of the first `count` rows of features [n, D]."""
    is_image = (jnp.arange(features.shape[0]) < count)[:, None]
    return jnp.where(is_image, features, 0).sum(0) / jnp.maximum(count, 1)


def offer(
    key: jax.Array, count: jax.Array, past: jax.Array, capacity: int, size: int
) -> tuple[jax.Array, jax.Array]:
    """Random turns of a task's images, and the slot of a reservoir that each is to be put in.

    The c-th image ever offered has slot c - 1 while there is room, later one drawn uniformly from
    0..c-1, of which only 0..size-1 exist (Vitter, 1985, algorithm R).

    Args:
      key: consumed.
      count: int32 [], images of the task.
      past: int32 [], images offered in earlier tasks.
      capacity: N.
      size: M.

    Returns:
      int32 [N], int32 [N]; behind `count`, turns that come after all others, and anything.
    """
    turn_key, slot_key = jax.random.split(key)
    is_padding = (jnp.arange(capacity) >= count).astype(jnp.int32)
    draws = jax.random.bits(turn_key, (capacity,), jnp.uint32)
    turns = ranks_within_class(is_padding, draws) + is_padding * count
    offered = past + turns + 1
    drawn = jax.random.randint(slot_key, (capacity,), 0, offered, jnp.int32)
    return turns, jnp.where(offered <= size, offered - 1, drawn).astype(jnp.int32)
