"""Class-incremental learning in JAX, made for compiled speed."""
