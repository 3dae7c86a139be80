"""Batch normalisation with PyTorch's running statistics."""

import jax
import jax.numpy as jnp
from flax import linen as nn

MOMENTUM = 0.1  # share of the new batch in the running statistics


class BatchNorm(nn.Module):
    """Normalises channels; the running variance is fed the unbiased batch variance.

    Flax's own layer keeps the biased variance, PyTorch's the unbiased one (factor n/(n-1)); the
    published numbers belong to the latter. Batches are normalised with the biased variance.

    Collections: `batch_stats` (`mean`, `var`, float32 [C]), moved in train mode. If the caller
    makes `moments` mutable, the layer sows its input's mean and biased variance there, which is
    what generator inversion matches against the running statistics.

    Attributes:
      epsilon: added to the variance.
      affine: learn a scale and a shift per channel.
      dtype: of the output; statistics are computed in float32 at least.
    """

    epsilon: float = 1e-5
    affine: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, weights: jax.Array | None = None) -> jax.Array:
        """x [B, ..., C] -> [B, ..., C] in `dtype`; weights as in `Batch`."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        collect = self.is_mutable_collection("moments")
        if train or collect:
            axes = tuple(range(x.ndim - 1))
            shares = 1.0 if weights is None else weights.reshape(-1, *[1] * (x.ndim - 1))
            mean = (shares * x).mean(axes)
            var = (shares * jnp.square(x - mean)).mean(axes)
        if collect and not self.is_initializing():
            self.put_variable("moments", "mean", mean)
            self.put_variable("moments", "var", var)
        if train and not self.is_initializing():
            rows = x.shape[0] if weights is None else (weights > 0).sum()
            n = rows * (x.size // (x.shape[0] * channels))
            unbiased = var * (n / (n - 1))
            # Not "+=", which would change a caller's numpy arrays.
            for running, batch in ((running_mean, mean), (running_var, unbiased)):
                change = jax.lax.stop_gradient(batch) - running.value
                running.value = running.value + MOMENTUM * change
        if not train:
            mean, var = running_mean.value, running_var.value
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            factor *= self.param("scale", nn.initializers.ones, (channels,))
        y = (x - mean) * factor
        if self.affine:
            y += self.param("bias", nn.initializers.zeros, (channels,))
        return y.astype(self.dtype)


def repeat_statistics_update(before, after):
    """Running statistics after the same batch has moved them a second time.

    One update is r1 = r + m (v - r); since r1 - r = m (v - r), a second one with the same batch
    statistics v gives r1 + (1 - m) (r1 - r), so v need not be computed again.

    Args:
      before: `batch_stats` before the step.
      after: `batch_stats` after one train-mode forward pass.
    """
    return jax.tree.map(lambda r, r1: r1 + (1 - MOMENTUM) * (r1 - r), before, after)
