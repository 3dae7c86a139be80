"""Converts networks to and from other frameworks; see docs/interop.md."""

from cljax.interop.torch import (
    autoencoder_from_torch,
    autoencoder_to_torch,
    classifier_from_torch,
    classifier_to_torch,
    generator_from_torch,
    generator_to_torch,
)
from cljax.interop.weights import write_weights

__all__ = [
    "autoencoder_from_torch",
    "autoencoder_to_torch",
    "classifier_from_torch",
    "classifier_to_torch",
    "generator_from_torch",
    "generator_to_torch",
    "write_weights",
]
