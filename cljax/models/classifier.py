"""Defines classifiers: a backbone that gives features, and a head that gives logits."""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.losses import cosines, unit_vectors
from cljax.models.generator import torch_uniform
from cljax.models.norm import fold
from cljax.models.resnet import he_normal_fan_in
from cljax.state import PyTree


class Outputs(NamedTuple):
    """Holds the outputs of a classifier.

    Attributes:
      logits: float [B, K], over all classes of the run.
      features: float [B, D].
      scores: float [B, K], the cosines of a cosine head or the logits of a linear one.
    """

    logits: jax.Array
    features: jax.Array
    scores: jax.Array


class LinearHead(nn.Module):
    """Computes logits = features W + b; the initial biases are PyTorch's.

    Attributes:
      num_classes: K.
      kernel_init: initial values of W; by default those of the ABD reference code.
      use_bias: whether there is a bias b.
    """

    num_classes: int
    kernel_init: nn.initializers.Initializer = he_normal_fan_in
    use_bias: bool = True

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps features [B, D] -> logits [B, K], given twice: as logits and as scores."""
        size = features.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (size, self.num_classes))
        logits = features @ kernel
        if self.use_bias:
            bias_init = functools.partial(torch_uniform, fan_in=size)
            logits += self.param("bias", bias_init, (self.num_classes,))
        return logits, logits


class CosineHead(nn.Module):
    """Computes logits = scale * cos(features, columns of W), without bias (LUCIR, section 3.2).

    One learned scale serves all classes and starts at 1. The initial W is uniform within 1/sqrt(D).

    Attributes:
      num_classes: K.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps features [B, D] -> logits and cosines, each [B, K], at least float32."""
        kernel = self.param("kernel", torch_uniform, (features.shape[-1], self.num_classes))
        scale = self.param("scale", nn.initializers.ones, ())
        scores = cosines(features, kernel)
        return scale * scores, scores


def imprint(
    kernel: jax.Array, features: jax.Array, counts: jax.Array, old: jax.Array | int
) -> jax.Array:
    """Sets the columns of new classes in the kernel of a cosine head from features of images.

    A column gets the direction of the mean of the images' unit features and the mean norm of the
    old columns (LUCIR reference code; Qi et al., CVPR 2018). All other columns stay.

    Args:
      kernel: float [D, K].
      features: float [C, n, D]; those of the class with label old + c are the first `counts[c]`
        rows of `features[c]`, the other rows are ignored.
      counts: int32 [C]; the column of a class without images stays.
      old: int32 [], number of old classes, whose columns are trained; at least 1.

    Returns:
      float [D, K].
    """
    size, num_images = kernel.shape[1], features.shape[1]
    is_image = jnp.arange(num_images) < counts[:, None]
    sums = jnp.where(is_image[..., None], unit_vectors(features), 0.0).sum(1)
    # A sum points where the mean does.
    directions = unit_vectors(sums)
    lengths = jnp.linalg.norm(kernel, axis=0)
    length = jnp.where(jnp.arange(size) < old, lengths, 0.0).sum() / old
    labels = jnp.where(counts > 0, old + jnp.arange(counts.shape[0]), size)
    columns = (length * directions.T).astype(kernel.dtype)
    return kernel.at[:, labels].set(columns, mode="drop")


class Projection(nn.Module):
    """Maps features linearly to twice as many values; the initial values are PyTorch's."""

    if TYPE_CHECKING:  # Flax says that the result is a tuple or not

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps features [B, D] -> [B, 2 D]."""
        size = features.shape[-1]
        bias_init = functools.partial(torch_uniform, fan_in=size)
        return nn.Dense(2 * size, kernel_init=torch_uniform, bias_init=bias_init)(features)


class Classifier(nn.Module):
    """Joins a backbone and a head that has all classes of the run from the start.

    Its variables are `params` (`backbone` and `head`) and `batch_stats` (`backbone`).

    Attributes:
      backbone: maps images to features.
      head: maps features to logits and scores.
    """

    backbone: nn.Module
    head: LinearHead | CosineHead

    if TYPE_CHECKING:  # Flax says that the result is a tuple or not

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.head.num_classes

    def __call__(
        self, images: jax.Array, train: bool = False, weights: jax.Array | None = None
    ) -> Outputs:
        """Classifies images.

        Args:
          images: float [B, H, W, C], normalized.
          train: whether batch norm uses the batch and updates its running statistics.
          weights: as in `Batch`; keep padding out of the statistics of batch norm in train mode.
        """
        features = self.backbone(images, train, weights)
        logits, scores = self.head(features)
        return Outputs(logits, features, scores)

    def freeze(self, variables: PyTree, folds: bool) -> PyTree:
        """Returns variables for eval mode that give the outputs with less work in each pass.

        Kernels of convolutions have the dtype of the computation. Does nothing unless the class of
        the backbone has the attribute `can_freeze`.

        Args:
          variables: entries other than those of the backbone stay.
          folds: whether batch norms are folded into convolutions (`norm.fold`). Then outputs differ
            by rounding, and no `moments` are stored.
        """
        if not getattr(self.backbone, "can_freeze", False):
            return variables
        params, stats = variables["params"], variables["batch_stats"]
        backbone, of_backbone = params["backbone"], stats["backbone"]
        if folds:
            backbone, of_backbone = fold(backbone, of_backbone)
        dtype = self.backbone.dtype  # pyright: ignore[reportAttributeAccessIssue]
        backbone = jax.tree.map(lambda p: p.astype(dtype) if p.ndim == 4 else p, backbone)
        return variables | {
            "params": params | {"backbone": backbone},
            "batch_stats": stats | {"backbone": of_backbone},
        }

    def classify(self, features: jax.Array) -> jax.Array:
        """Maps features [B, D] -> logits [B, K]."""
        return self.head(features)[0]
