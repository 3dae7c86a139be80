"""Class-incremental learning in JAX and Flax."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `import cljax` alone needs no JAX
    from cljax.files import StrPath
    from cljax.saved.models import Model

__version__ = "0.2.0"


def load(workdir: "StrPath", task: int | None = None, seed: int | None = None) -> "Model":
    """Loads a classifier that a run has saved; see `cljax.saved.models.load`."""
    from cljax.saved import models

    return models.load(workdir, task, seed)
