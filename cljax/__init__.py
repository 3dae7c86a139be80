"""Class-incremental learning in JAX and Flax."""

__version__ = "0.2.0"
