"""Class-incremental learning in JAX, made for compiled speed."""

__version__ = "0.2.0"
