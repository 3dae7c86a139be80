"""Makes backbones outside cljax, which a config names as MODULE:CLASS, and checks them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cljax.errors import UserError
from cljax.settings.outside import find_outside

_GIVEN = ("width", "dtype")  # fields that the config sets
_COLLECTIONS = {"params", "batch_stats"}  # of variables that a run keeps


def make_own_backbone(name: str, width: int, dtype: jnp.dtype) -> nn.Module:
    """Makes a backbone outside cljax; its fields `width` and `dtype`, if it has them, are set.

    Args:
      name: "package.module:Class"; a Flax Linen module that maps images [B, H, W, C], `train` and
        `weights` to features [B, D], see docs/adding_a_network.md.
      width: `config.model.width`.
      dtype: floating type of the computation.

    Raises:
      UserError: there is no such class, or it cannot be made.
    """
    cls: Any = find_outside("model.name", name, nn.Module, "a Flax Linen module")
    own = [f for f in dataclasses.fields(cls) if f.init and f.name not in ("parent", "name")]
    absent = (dataclasses.MISSING, dataclasses.MISSING)
    without = [f.name for f in own if (f.default, f.default_factory) == absent]
    if unset := [field for field in without if field not in _GIVEN]:
        raise UserError(
            f"config.model.name={name}: its field {unset[0]!r} has no default, and a config sets "
            f"only {' and '.join(_GIVEN)}; give it one"
        )
    values = {"width": width, "dtype": dtype}
    return cls(**{field.name: values[field.name] for field in own if field.name in _GIVEN})


def check_own_backbone(name: str, backbone: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Checks, without computing, that a backbone can be trained on images.

    Args:
      name: `config.model.name`, for messages.
      backbone: the module.
      image_shape: (H, W, C).

    Raises:
      UserError: it raises an error, has variables that a run does not keep, or returns something
        other than features [B, D].
    """
    where = f"config.model.name={name}"
    images, weights = jnp.zeros((2, *image_shape)), jnp.ones(2)

    def passes():
        variables = backbone.init(jax.random.key(0), images, False)
        trained, _ = backbone.apply(variables, images, True, weights, mutable=["batch_stats"])
        return variables, trained, backbone.apply(variables, images, False)

    try:
        variables, *outputs = jax.eval_shape(passes)
    except Exception as error:  # whatever a module of someone else raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: it cannot map images float32 {[2, *image_shape]}: {type(error).__name__}: "
            f"{reason}"
        ) from error
    if surplus := sorted(set(variables) - _COLLECTIONS):
        raise UserError(
            f"{where}: its variables {', '.join(surplus)} are not kept; use only params and "
            "batch_stats"
        )
    for features in outputs:
        shape, kind = getattr(features, "shape", None), getattr(features, "dtype", None)
        if shape is None or len(shape) != 2 or shape[0] != 2 or not _is_floating(kind):
            what = type(features).__name__ if shape is None else f"{kind} {list(shape)}"
            raise UserError(
                f"{where}: for 2 images it returns {what}; return features float [B, D], here "
                "[2, D]"
            )


def has_moments(backbone: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether a backbone has the batch norm of this package, which stores `moments` of its input.

    Args:
      backbone: the module.
      image_shape: (H, W, C).
    """

    def moments():
        images = jnp.zeros((2, *image_shape))
        variables = backbone.init(jax.random.key(0), images, False)
        return backbone.apply(variables, images, False, mutable=["moments"])[1]

    return bool(jax.tree.leaves(jax.eval_shape(moments)))


def _is_floating(kind: Any) -> bool:
    return jnp.issubdtype(kind, jnp.floating)
