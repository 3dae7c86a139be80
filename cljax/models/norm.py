"""Defines batch normalization with PyTorch's running statistics."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.state import PyTree

MOMENTUM = 0.1  # share of the new batch in the running statistics

# Layers of equal shapes are traced once; `inline` leaves the program as it would be without.
_traced_once = functools.partial(jax.jit, inline=True)


class BatchNorm(nn.Module):
    """Normalizes channels; its running variance averages the unbiased variances of the batches.

    Flax's own layer keeps the biased variance, PyTorch's the unbiased one (factor n/(n-1)). The
    published results belong to the latter. Batches are normalized with the biased variance. A batch
    of a single value per channel leaves the running variance as it is.

    A layer without running statistics is folded (see `fold`): it adds its bias, in eval mode only.

    Train mode updates the collection `batch_stats` (`mean`, `var`, float32 [C]). If the caller
    makes the collection `moments` mutable, the layer stores the mean and the biased variance of its
    input there. Model inversion compares them with the running statistics.

    Attributes:
      epsilon: added to the variance (default 1e-5).
      affine: whether a scale and a shift per channel are learned (default True).
      dtype: floating type of the output; statistics are computed in at least float32.
      scale_init: initial values of the scales (default 1).
    """

    epsilon: float = 1e-5
    affine: bool = True
    dtype: jnp.dtype = jnp.float32
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None = None) -> jax.Array:
        """Normalizes x [B, ..., C] -> [B, ..., C] in `dtype`; weights as in `Batch`."""
        channels = x.shape[-1]
        if not self.is_initializing() and not self.has_variable("batch_stats", "mean"):
            if train:
                raise ValueError("this batch norm is folded into its convolution: eval mode only")
            bias = self.param("bias", nn.initializers.zeros, (channels,))
            return (x + bias).astype(self.dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        collect = self.is_mutable_collection("moments")
        scale, bias = jnp.ones(()), jnp.zeros(())
        if self.affine:
            scale = self.param("scale", self.scale_init, (channels,))
            bias = self.param("bias", nn.initializers.zeros, (channels,))
        shares = 1.0 if weights is None else weights.reshape(-1, *[1] * (x.ndim - 1))
        about = jax.lax.stop_gradient(running_mean.value)
        if train:
            y, mean, var = normalise(x, shares, about, scale, bias, self.epsilon)
        else:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            y = (x - running_mean.value) * factor + bias
            if collect:
                mean, var = moments(x, shares, about)
        if collect and not self.is_initializing():
            self.put_variable("moments", "mean", mean)
            self.put_variable("moments", "var", var)
        if train and not self.is_initializing():
            rows = x.shape[0] if weights is None else (weights > 0).sum()
            positions = x.size // (x.shape[0] * channels)
            n = rows * positions
            if positions == 1 and (weights is not None or rows == 1):
                # A single value has no unbiased variance, and the running one stays.
                unbiased = var * (n / jnp.maximum(n - 1, 1))
                unbiased = jnp.where(n == 1, running_var.value, unbiased)
            else:
                unbiased = var * (n / (n - 1))
            # Not "+=", which would change a caller's numpy arrays.
            for running, batch in ((running_mean, mean), (running_var, unbiased)):
                change = jax.lax.stop_gradient(batch) - running.value
                running.value = running.value + MOMENTUM * change
        return y.astype(self.dtype)


@jax.custom_vjp
@_traced_once
def moments(
    x: jax.Array, shares: jax.Array | float, about: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the mean and the biased variance of each channel.

    First the mean, then the variance. On a GPU one pass over x sums distances to `about`; rounding
    then moves the variance by about the dtype's relative precision times var + (mean - about)^2, so
    `about` should be near the mean.

    Args:
      x: float [B, ..., C].
      shares: float [B, 1, ...], weights of the rows with mean 1; or 1.0.
      about: float [C], such as the running mean. Neither it nor `shares` gets a gradient.

    Returns:
      Two arrays [C].
    """
    one_pass = functools.partial(_one_pass, shares)
    two_passes = functools.partial(_two_passes, shares)
    return jax.lax.platform_dependent(x, about, cpu=two_passes, tpu=two_passes, default=one_pass)


def _two_passes(shares, x, _):
    axes = tuple(range(x.ndim - 1))
    mean = (shares * x).mean(axes)
    return mean, (shares * jnp.square(x - mean)).mean(axes)


def _one_pass(shares, x, about):
    rows, distances = x.size // x.shape[-1], x - about
    first, second = sums(shares * distances, shares * jnp.square(distances))
    shift = first / rows
    return about + shift, jnp.maximum(second / rows - jnp.square(shift), 0)


def sums(*terms: jax.Array) -> list[jax.Array]:
    """Sums arrays float [B, ..., C] of equal shapes over all axes but the last: [C] each.

    For GPUs XLA makes one kernel of a reduction of several arrays, but two or more of several
    reductions. On CPU that one reduction would be a serial loop, and TPUs have more to move.
    """
    return jax.lax.platform_dependent(*terms, cpu=_one_by_one, tpu=_one_by_one, default=_together)


def _one_by_one(*terms):
    return [term.sum(tuple(range(term.ndim - 1))) for term in terms]


def _together(*terms):
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    axes = tuple(range(terms[0].ndim - 1))
    return list(jax.lax.reduce(terms, zeros, lambda a, b: tuple(map(jnp.add, a, b)), axes))


def _moments_forward(x, shares, about):
    mean, var = moments(x, shares, about)
    return (mean, var), (x, shares, about, mean)


def _moments_backward(saved, gradients):
    x, shares, about, mean = saved
    none = jnp.zeros_like(shares), jnp.zeros_like(about)
    return _through_moments(x - mean, shares, *gradients), *none


moments.defvjp(_moments_forward, _moments_backward)


@jax.custom_vjp
@_traced_once
def normalise(
    x: jax.Array,
    shares: jax.Array | float,
    about: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: jax.Array | float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes (x - mean) / sqrt(var + epsilon) * scale + bias with the moments of the batch.

    Its gradient takes two sums over x, where the chain rule step by step takes four. `shares`,
    `about` and `epsilon` get no gradient.

    Args:
      x, shares, about: as in `moments`.
      scale, bias: float [C] or [].
      epsilon: added to the variance.

    Returns:
      The normalized x, and the mean and the biased variance, each [C].
    """
    mean, var = moments(x, shares, about)
    return (x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias, mean, var


@_traced_once
def _normalise_forward(x, shares, about, scale, bias, epsilon):
    y, mean, var = normalise(x, shares, about, scale, bias, epsilon)
    return (y, mean, var), (x, shares, about, mean, jax.lax.rsqrt(var + epsilon), scale)


@_traced_once
def _normalise_backward(saved, gradients):
    x, shares, about, mean, inverse, scale = saved
    gradient, mean_gradient, var_gradient = gradients
    centred = x - mean
    total, product = sums(gradient, gradient * centred)
    mean_gradient -= inverse * scale * total
    var_gradient -= 0.5 * inverse**3 * scale * product
    x_gradient = gradient * (inverse * scale)
    x_gradient += _through_moments(centred, shares, mean_gradient, var_gradient)
    scale_gradient = (inverse * product).sum() if scale.ndim == 0 else inverse * product
    bias_gradient = total.sum() if scale.ndim == 0 else total
    none = jnp.zeros_like(shares), jnp.zeros_like(about)
    return x_gradient, *none, scale_gradient, bias_gradient, None


normalise.defvjp(_normalise_forward, _normalise_backward)


def _through_moments(centred, shares, mean_gradient, var_gradient):
    """The gradient of x, given those of its mean and of its variance."""
    rows = centred.size // centred.shape[-1]
    return shares * ((mean_gradient + 2 * var_gradient * centred) / rows)


def fold(params: PyTree, batch_stats: PyTree, epsilon: float = 1e-5) -> tuple[PyTree, PyTree]:
    """Folds batch norms in eval mode into the convolutions before them.

    `(x * kernel - mean) factor + bias` with `factor = scale / sqrt(var + epsilon)` is
    `x * (kernel factor) + (bias - mean factor)`: nothing but a bias is left to add. Convolutions
    with a bias, and batch norms without scales and biases, stay as they are.

    Args:
      params, batch_stats: of a network in which layer "conv..." is always followed by layer
        "bn..." of the same name otherwise, as in those of `models.resnet`.
      epsilon: as in `BatchNorm`.

    Returns:
      Both, with other kernels, with biases alone as parameters of folded batch norms, and without
      their running statistics.
    """
    folded, statistics = dict(params), dict(batch_stats)
    for name, layer in params.items():
        norm = name.replace("conv", "bn")
        if layer.keys() == {"kernel"} and norm in batch_stats and norm in params:
            of_norm = statistics.pop(norm)
            factor = params[norm]["scale"] * jax.lax.rsqrt(of_norm["var"] + epsilon)
            folded[name] = {"kernel": layer["kernel"] * factor}
            folded[norm] = {"bias": params[norm]["bias"] - of_norm["mean"] * factor}
        elif name in batch_stats and "mean" not in batch_stats[name]:
            folded[name], statistics[name] = fold(layer, batch_stats[name], epsilon)
    return folded, statistics


def repeat_statistics_update(before: PyTree, after: PyTree) -> PyTree:
    """Returns the running statistics after the same batch has updated them a second time.

    One update is r1 = r + m (v - r). Since r1 - r = m (v - r), a second one with the same batch
    statistics v gives r1 + (1 - m) (r1 - r), and v need not be computed again.

    Args:
      before: `batch_stats` before the step.
      after: `batch_stats` after one train-mode forward pass.
    """
    return jax.tree.map(lambda r, r1: r1 + (1 - MOMENTUM) * (r1 - r), before, after)
