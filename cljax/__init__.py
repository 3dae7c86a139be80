"""Class-incremental learning in JAX and Flax."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `import cljax` alone needs no JAX
    from cljax.files import StrPath
    from cljax.saved.models import Model

__version__ = "0.2.0"


def load(path: "StrPath", task: int | None = None, seed: int | None = None) -> "Model":
    """Loads a classifier that a run has saved, or that was exported.

    Args:
      path: workdir of a run, or directory of an export.
      task: task that it was saved after, from 1; the last finished one by default.
      seed: one of the run's seeds; the first one by default.

    Raises:
      UserError: there is no such model, or a file is damaged. A network of your own is imported.
    """
    from cljax.saved import load

    return load(path, task, seed)
